//! The original's handler that wrote the message under way to a file. Here delivery does that, for every message and
//! safely; the handler is accepted so that the original's chains work, and decides nothing.
//!
//! Notes: reads none, writes none.

use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;

/// `data_file.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the original kept the message meanwhile, in everybody's sight. Not used: see
    /// [`super::post_data_reset`] for where copies go.
    pub mail_spool_dir: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mail_spool_dir: "/var/tmp".into(),
        }
    }
}

/// The handler.
pub struct DataFile;

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("mail_spool_dir", &mut self.mail_spool_dir, Field::path);
    }
}

impl Kind for DataFile {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "data_file",
        module: "data_file",
        class: "DataToFileDataHandler",
        verbs: &["__DATA__"],
        decides: &[Verdict::None],
        always_refuses: false,
        taker: false,
        about: "nothing, as delivery keeps the message itself",
    };

    fn new(_: Config, _: &Arc<dyn Directory>) -> DataFile {
        DataFile
    }
}

impl Handler for DataFile {
    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        Ok(Outcome::none())
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn it_has_no_opinion_and_takes_no_message() {
        let mut peer = Peer::chained("__DATA__: [{handler: data_file}, {handler: delivery}, {handler: data_file}]");
        assert!(peer.say("EHLO client.example").starts_with("250"));
        assert!(peer.say("MAIL FROM:<a@client.example>").starts_with("250"));
        assert!(peer.say("RCPT TO:<user@example.com>").starts_with("250"));
        assert!(peer.data("x\r\n").starts_with("250 "));
        assert_eq!(peer.messages(), 1);
    }
}
