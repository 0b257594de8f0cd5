//! Commands and texts of a connection, without the replies to commands, for research: see [`crate::chain::record`].
//! In the original it is a class of the module `transaction_log`, and writes to the same file.
//!
//! It looks on wherever it stands, and records what was really sent. Notes: reads none, writes none.

use crate::chain::record::Which;
use crate::chain::{Facts, Logged};
use crate::session::Verdict;

/// The handler.
pub struct CommandLog;

impl Logged for CommandLog {
    const FACTS: &'static Facts = &Facts {
        id: "command_log",
        module: "transaction_log",
        class: "CommandLog",
        verbs: Facts::ANYWHERE,
        decides: &[Verdict::None],
        always_refuses: false,
        taker: false,
        about: "records commands and texts",
    };
    const WHICH: Which = Which::Commands;
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn it_records_its_part_of_a_session() {
        let list = "[{handler: quit}, {handler: command_log}]";
        let mut peer = Peer::chained(&format!("QUIT: {list}"));
        assert!(peer.say("Quit").starts_with("221 "));
        let (names, text) = peer.records();
        assert_eq!(names.len(), 1);
        assert_eq!(text, "> 2023-11-14T22:13:21.000000 [buffer: empty] Quit\r\n");
    }
}
