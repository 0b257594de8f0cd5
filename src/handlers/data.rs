//! DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030): lets the body come. A BDAT chunk is answered when it is there.
//!
//! Notes: reads none, writes none.

use crate::chain::registry::Material;
use crate::chain::{Context, Facts, Handler, HandlerError, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;

/// Who it is.
pub const FACTS: Facts = Facts {
    id: "data",
    class: "DataHandler",
    verbs: &["DATA", "BDAT"],
    decides: &[Verdict::Accept],
    taker: false,
    about: "354 for DATA; lets a BDAT chunk come",
};

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

struct Data {
    config: Config,
}

/// Makes one from its settings.
pub fn make(material: &mut Material) -> Box<dyn Handler> {
    let mut config = Config::default();
    material.settings.text("message", &mut config.message);
    Box::new(Data { config })
}

impl Handler for Data {
    fn facts(&self) -> &'static Facts {
        &FACTS
    }

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
