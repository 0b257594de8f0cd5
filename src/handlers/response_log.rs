//! Replies of a connection, each with a time of its own, for research: see [`crate::chain::record`].
//! In the original it is a class of the module `transaction_log`, and writes to the same file.
//!
//! It looks on wherever it stands, and records what was really sent. Notes: reads none, writes none.

use std::path::Path;
use std::sync::Arc;

use crate::chain::record::{Config, Log, Which};
use crate::chain::{BodyReader, Context, Directory, Facts, Handler, HandlerError, Kind, Outcome};
use crate::session::Verdict;
use crate::smtp::reply::Reply;

/// The handler.
pub struct ResponseLog {
    log: Log,
}

impl Kind for ResponseLog {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "response_log",
        module: "transaction_log",
        class: "ResponseLog",
        verbs: Facts::ANYWHERE,
        decides: &[Verdict::None],
        always_refuses: false,
        taker: false,
        about: "records replies",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> ResponseLog {
        ResponseLog {
            log: Log::new(Which::Responses, Self::FACTS.id, config),
        }
    }
}

impl Handler for ResponseLog {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        self.log.handle(context)
    }

    fn body(&self, context: &mut Context<'_>) -> Option<Box<dyn BodyReader>> {
        self.log.body(context)
    }

    fn concluded(&self, context: &mut Context<'_>, reply: Option<&Reply>) {
        self.log.concluded(context, reply);
    }

    fn shaken(&self, context: &mut Context<'_>) {
        self.log.shaken(context);
    }

    fn records(&self) -> Option<&Path> {
        self.log.directory()
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn it_records_its_part_of_a_session() {
        let list = "[{handler: quit}, {handler: response_log}]";
        let mut peer = Peer::chained(&format!("QUIT: {list}"));
        assert!(peer.say("Quit").starts_with("221 "));
        let (names, text) = peer.records();
        assert_eq!(names.len(), 1);
        let time = "2023-11-14T22:13:22.000000";
        assert_eq!(
            text,
            format!("< {time} 221 2.0.0 mail.example.com closing connection\r\n")
        );
    }
}
