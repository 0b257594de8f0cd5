//! `worker.yaml`: what one connection may do. Read again at the next connection after a change.

use std::time::Duration;

use super::listener::chain_name;
use super::section::Field;

/// Limits and deadlines of a session; the defaults conform to RFC 5321 4.5.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// `command_handler`: NAME of the `command_handler_NAME.yaml` in force. Default `standard_server`.
    pub command_handler: String,
    /// `line_endings`: what bare CR and LF mean in commands and messages. Default normalize.
    pub line_endings: LineEndings,
    /// `maximum_message_size_in_mb`: in MiB, 1 to 1024. Default 64. See [`Worker::maximum_message_size`].
    pub maximum_message_size_in_mb: u64,
    /// `command_line_limit`: octets of a command line with its CRLF, 565 to 65536. Default 1024: RFC 5321 4.5.3.1.4 asks for 512,
    /// SIZE for 26 more, BODY for 17 and SMTPUTF8 for 10.
    pub command_line_limit: usize,
    /// `text_line_limit`: octets of a message line with its CRLF above which it is noted as long, 1000 to 1048576. Default 1000
    /// (RFC 5321 4.5.3.1.6).
    pub text_line_limit: usize,
    /// `maximum_recipients`: per message, 100 to 1000. Default 100 (RFC 5321 4.5.3.1.8).
    pub maximum_recipients: usize,
    /// `maximum_messages`: transactions per connection, at most the six digits of RFC 9422 4.1; 0 is no limit. Default 0.
    pub maximum_messages: u64,
    /// `maximum_errors`: replies 4xx and 5xx in one session, 1 to 10000; then 421. Default 20.
    pub maximum_errors: u32,
    /// `maximum_unknown_commands`: in one session, 1 to 10000; then 421. Default 10.
    pub maximum_unknown_commands: u32,
    /// `maximum_harmless_commands`: commands, between two messages accepted, that bring none nearer (NOOP, RSET, EHLO and the
    /// like), 100 to 1000000; then 421. Default 1000.
    pub maximum_harmless_commands: u32,
    /// `maximum_received`: Received fields from which on a message is refused as a loop, 100 to 1000. Default 100 (RFC 5321
    /// 6.3).
    pub maximum_received: usize,
    /// `command_timeout`: wait for the whole next command, 1s to 1h. Default 5m (RFC 5321 4.5.3.2.7).
    pub command_timeout: Duration,
    /// `data_timeout`: wait for the next octets of a message, 1s to 1h. Default 5m.
    pub data_timeout: Duration,
    /// `session_timeout`: the whole connection, 1s to 7d. Default 1h.
    pub session_timeout: Duration,
    /// `minimum_data_rate`: octets per second that a message must keep up on average, 0 to 1048576; 0 is no floor. Default 100.
    pub minimum_data_rate: u64,
    /// `tolerate_unadvertised_params`: ignore parameters of MAIL and RCPT that were not offered. Default no: 555.
    pub tolerate_unadvertised_params: bool,
}

/// What lines of a message that do not end in CRLF mean. Only CRLF.CRLF ends a message in each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndings {
    /// Refused with 550 5.5.2 when the line or the message is complete, and the connection closed.
    Strict,
    /// Bare LF becomes CRLF, bare CR a space, and both are noted.
    Normalize,
    /// As `Normalize`, and written to the log as evidence, lookalikes of the end of the data with their offsets.
    Note,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            command_handler: "standard_server".to_owned(),
            line_endings: LineEndings::Normalize,
            maximum_message_size_in_mb: 64,
            command_line_limit: 1024,
            text_line_limit: 1000,
            maximum_recipients: 100,
            maximum_messages: 0,
            maximum_errors: 20,
            maximum_unknown_commands: 10,
            maximum_harmless_commands: 1000,
            maximum_received: 100,
            command_timeout: Duration::from_secs(300),
            data_timeout: Duration::from_secs(300),
            session_timeout: Duration::from_secs(3600),
            minimum_data_rate: 100,
            tolerate_unadvertised_params: false,
        }
    }
}

impl Worker {
    /// The largest message in octets, as SIZE advertises it (RFC 1870).
    pub fn maximum_message_size(&self) -> u64 {
        self.maximum_message_size_in_mb.saturating_mul(1024 * 1024)
    }

    /// Reads the document of `worker.yaml`.
    pub(super) fn read(root: &Field<'_>) -> Worker {
        let mut worker = Worker::default();
        let Some(section) = root.section() else {
            return worker;
        };
        let timeout = Duration::from_secs(1)..=Duration::from_secs(3600);
        section.read("command_handler", &mut worker.command_handler, chain_name);
        section.read("line_endings", &mut worker.line_endings, |f| {
            f.choice(&[
                ("strict", LineEndings::Strict),
                ("normalize", LineEndings::Normalize),
                ("note", LineEndings::Note),
            ])
        });
        section.read(
            "maximum_message_size_in_mb",
            &mut worker.maximum_message_size_in_mb,
            |f| f.integer(1..=1024),
        );
        section.read("command_line_limit", &mut worker.command_line_limit, |f| {
            f.integer(565..=65536)
        });
        section.read("text_line_limit", &mut worker.text_line_limit, |f| {
            f.integer(1000..=1_048_576)
        });
        section.read("maximum_recipients", &mut worker.maximum_recipients, |f| {
            f.integer(100..=1000)
        });
        section.read("maximum_messages", &mut worker.maximum_messages, |f| {
            f.integer(0..=999_999)
        });
        section.read("maximum_errors", &mut worker.maximum_errors, |f| f.integer(1..=10_000));
        section.read("maximum_unknown_commands", &mut worker.maximum_unknown_commands, |f| {
            f.integer(1..=10_000)
        });
        section.read(
            "maximum_harmless_commands",
            &mut worker.maximum_harmless_commands,
            |f| f.integer(100..=1_000_000),
        );
        section.read("maximum_received", &mut worker.maximum_received, |f| {
            f.integer(100..=1000)
        });
        section.read("command_timeout", &mut worker.command_timeout, |f| {
            f.duration(timeout.clone())
        });
        section.read("data_timeout", &mut worker.data_timeout, |f| f.duration(timeout));
        section.read("session_timeout", &mut worker.session_timeout, |f| {
            f.duration(Duration::from_secs(1)..=Duration::from_secs(7 * 86400))
        });
        section.read("minimum_data_rate", &mut worker.minimum_data_rate, |f| {
            f.integer(0..=1_048_576)
        });
        section.read(
            "tolerate_unadvertised_params",
            &mut worker.tolerate_unadvertised_params,
            |f| f.boolean(),
        );
        section.finish();
        worker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_conform() {
        let worker = Worker::default();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert!(worker.maximum_message_size() >= 64 * 1024, "RFC 5321 4.5.3.1.7");
        assert!(
            worker.command_line_limit >= 512 + 26 + 17 + 10,
            "RFC 5321 4.5.3.1.4 and extensions"
        );
        assert!(worker.text_line_limit >= 1000, "RFC 5321 4.5.3.1.6");
        assert!(worker.maximum_recipients >= 100, "RFC 5321 4.5.3.1.8");
        assert!(worker.maximum_received >= 100, "RFC 5321 6.3");
        assert!(
            worker.maximum_harmless_commands > 500,
            "a NOOP and a RSET for each of a transaction's recipients and more"
        );
        assert!(worker.command_timeout >= minutes(5), "RFC 5321 4.5.3.2.7");
        assert!(worker.data_timeout >= minutes(3), "RFC 5321 4.5.3.2.5");
        assert!(worker.session_timeout > minutes(10) && worker.maximum_messages == 0);
        assert_eq!(worker.line_endings, LineEndings::Normalize);
        assert!(!worker.tolerate_unadvertised_params, "RFC 5321 4.1.1.11");
    }
}
