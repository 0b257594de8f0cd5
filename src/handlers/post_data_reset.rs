//! The original's last handler of a message, which forgot the transaction. That happens anyway; what remains is its
//! setting: whether a copy of each message is kept as a file of its own, whatever becomes of the message. Of one that is
//! relayed it is what went to the back end.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Effect, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;

/// `post_data_reset.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Whether delivery saves a copy as `copies/rsmtpd-ID.txt` below the state directory.
    pub keep_data_file: bool,
}

/// The handler.
pub struct PostDataReset {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("keep_data_file", &mut self.keep_data_file, Field::boolean);
    }
}

impl Kind for PostDataReset {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "post_data_reset",
        module: "post_data_reset",
        class: "PostDataResetDataHandler",
        verbs: &["__DATA__"],
        decides: &[Verdict::None],
        always_refuses: false,
        taker: false,
        about: "a copy of each message, if its file says so",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> PostDataReset {
        PostDataReset { config }
    }
}

impl Handler for PostDataReset {
    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let outcome = Outcome::none();
        Ok(if self.config.keep_data_file {
            outcome.with(Effect::SaveCopy)
        } else {
            outcome
        })
    }

    fn saves_copies(&self) -> bool {
        self.config.keep_data_file
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;
    use crate::ipc::delivery::Disposition;

    fn copies(data: &str) -> (String, Vec<Disposition>) {
        let mut peer = Peer::chained(&format!("__DATA__: [{data}]"));
        for line in ["EHLO client.example", "MAIL FROM:<>", "RCPT TO:<user@example.com>"] {
            assert!(peer.say(line).starts_with("250"), "{line}");
        }
        let reply = peer.data("x\r\n");
        (reply, peer.dispositions())
    }

    #[test]
    fn a_copy_is_saved_only_where_it_is_wanted() {
        let (reply, found) = copies("{handler: delivery}, {handler: post_data_reset}");
        assert!(reply.starts_with("250 "), "{reply}");
        assert_eq!(found, [Disposition::Deliver]);
        let keep = "{handler: post_data_reset, with: {keep_data_file: yes}}";
        let (reply, found) = copies(&format!("{{handler: delivery}}, {keep}"));
        assert!(reply.starts_with("250 "), "{reply}");
        assert_eq!(found, [Disposition::Deliver, Disposition::Copy]);
    }

    #[test]
    fn of_a_refused_message_there_is_only_the_copy() {
        let keep = "{handler: post_data_reset, with: {keep_data_file: yes}}";
        let refuse = "{handler: undeliverable_notification_validator}";
        let (reply, found) = copies(&format!("{refuse}, {{handler: delivery}}, {keep}"));
        assert!(reply.starts_with("550 "), "{reply}");
        assert_eq!(found, [Disposition::Copy]);
    }
}
