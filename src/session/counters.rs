//! Counts of one session: what the log sums up, and what the limits of a session are about.

use crate::smtp::command::{Arguments, Command, Verb};

/// How often something happened in the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Commands read, of whatever kind.
    pub commands: u32,
    /// Transactions begun, whether or not they ended with a message.
    pub transactions: u32,
    /// Messages answered with 250.
    pub messages: u32,
    /// Commands that were the client's fault.
    pub errors: u32,
    /// Commands that no chain knows.
    pub unknown_commands: u32,
    /// Commands since the last message accepted that bring none nearer.
    pub harmless_commands: u32,
    /// Recipients accepted.
    pub recipients: u32,
    /// Recipients refused.
    pub rejected_recipients: u32,
    /// Of those, the ones that a full transaction put off for another one (RFC 5321 §4.5.3.1.10).
    pub put_off_recipients: u32,
    /// Octets of message bodies received.
    pub octets: u64,
}

impl Counters {
    /// A message was answered with 250.
    pub(crate) fn message_accepted(&mut self) {
        self.messages = self.messages.saturating_add(1);
        self.harmless_commands = 0;
    }

    /// A reply was the client's fault.
    pub(crate) fn error(&mut self) {
        self.errors = self.errors.saturating_add(1);
    }

    /// No chain knew a command.
    pub(crate) fn unknown_command(&mut self) {
        self.unknown_commands = self.unknown_commands.saturating_add(1);
    }

    /// A recipient was accepted.
    pub(crate) fn recipient_accepted(&mut self) {
        self.recipients = self.recipients.saturating_add(1);
    }

    /// A recipient was refused; `put_off` where the transaction was full.
    pub(crate) fn recipient_refused(&mut self, put_off: bool) {
        self.rejected_recipients = self.rejected_recipients.saturating_add(1);
        self.put_off_recipients = self.put_off_recipients.saturating_add(u32::from(put_off));
    }

    /// So much text was received.
    pub(crate) fn text_received(&mut self, octets: u64) {
        self.octets = self.octets.saturating_add(octets);
    }

    /// A command was read.
    pub(crate) fn command_read(&mut self, command: &Command) {
        self.commands = self.commands.saturating_add(1);
        if is_harmless(command) {
            self.harmless_commands = self.harmless_commands.saturating_add(1);
        }
    }
}

/// Whether a command brings no message nearer and could be said for ever: each of the others is bounded by the
/// transaction it belongs to, which only a message, RSET or EHLO ends.
fn is_harmless(command: &Command) -> bool {
    match command.verb {
        Verb::Bdat => matches!(command.parsed, Ok(Arguments::Bdat { size: 0, last: false })),
        Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Quit => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::{Advertised, parse};
    use crate::smtp::line::{CommandLine, LineEnding};

    #[test]
    fn what_could_be_said_for_ever_is_counted_until_a_message_is_accepted() {
        let mut counters = Counters::default();
        let advertised = Advertised {
            size_limit: 0,
            smtputf8: true,
            eightbit: true,
            chunking: true,
            tolerant: false,
        };
        let mut say = |text: &str| {
            let line = CommandLine {
                bytes: text.as_bytes().to_vec(),
                ending: LineEnding::CrLf,
                too_long: false,
            };
            counters.command_read(&parse(&line, &advertised));
            counters.harmless_commands
        };
        for text in [
            "EHLO a.example",
            "NOOP",
            "RSET",
            "VRFY a",
            "HELP",
            "XYZZY",
            "",
            "BDAT 0",
            "STARTTLS",
        ] {
            let before = say("MAIL FROM:<>");
            assert_eq!(say(text), before + 1, "{text}");
        }
        for text in [
            "RCPT TO:<a@example.com>",
            "DATA",
            "BDAT 1",
            "BDAT 0 LAST",
            "BDAT x",
            "QUIT",
        ] {
            assert_eq!(say(text), 9, "{text}");
        }
        counters.message_accepted();
        assert_eq!((counters.messages, counters.harmless_commands), (1, 0));
        assert_eq!(counters.commands, 9 * 2 + 6);
    }
}
