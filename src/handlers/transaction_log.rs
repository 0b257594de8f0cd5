//! Commands, replies and texts of a connection, for research: see [`crate::chain::record`].
//!
//! It looks on wherever it stands, and records what was really sent. Notes: reads none, writes none.

use crate::chain::record::Which;
use crate::chain::{Facts, Logged};
use crate::session::Verdict;

/// The handler.
pub struct TransactionLog;

impl Logged for TransactionLog {
    const FACTS: &'static Facts = &Facts {
        id: "transaction_log",
        module: "transaction_log",
        class: "TransactionLog",
        verbs: Facts::ANYWHERE,
        decides: &[Verdict::None],
        always_refuses: false,
        taker: false,
        about: "records commands, replies and texts",
    };
    const WHICH: Which = Which::Transactions;
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn it_records_its_part_of_a_session() {
        let list = "[{handler: quit}, {handler: transaction_log}]";
        let mut peer = Peer::chained(&format!("QUIT: {list}"));
        assert!(peer.say("Quit").starts_with("221 "));
        let (names, text) = peer.records();
        assert_eq!(names.len(), 1);
        let time = "2023-11-14T22:13:21.000000";
        let expected = format!("> {time} [buffer: empty] Quit\r\n< 221 2.0.0 mail.example.com closing connection\r\n");
        assert_eq!(text, expected);
    }
}
