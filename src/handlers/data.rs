//! DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030): lets the body come. A BDAT chunk is answered when it is there.
//!
//! Notes: reads none, writes none.

use std::sync::Arc;

use crate::chain::{Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Settings};
use crate::config::{Field, Section};
use crate::session::Verdict;
use crate::smtp::reply::Reply;

/// `data.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Text of the 354.
    pub message: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "end data with <CR><LF>.<CR><LF>".into(),
        }
    }
}

/// The handler.
pub struct Data {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

impl Kind for Data {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "data",
        module: "data",
        class: "DataHandler",
        verbs: &["DATA", "BDAT"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "354 for DATA; lets a BDAT chunk come",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Data {
        Data { config }
    }
}

impl Handler for Data {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let text = context.expand(&self.config.message);
        Ok(Outcome::accept(Reply::new(354, None, text)))
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn asks_for_the_text() {
        let mut peer = Peer::with_recipient();
        assert_eq!(peer.say("DATA"), "354 end data with <CR><LF>.<CR><LF>\r\n");
    }
}
