//! Replies of a connection, each with a time of its own, for research: see [`crate::chain::record`].
//! In the original it is a class of the module `transaction_log`, and writes to the same file.
//!
//! It looks on wherever it stands, and records what was really sent. Notes: reads none, writes none.

use crate::chain::record::Which;
use crate::chain::{Facts, Logged};
use crate::session::Verdict;

/// The handler.
pub struct ResponseLog;

impl Logged for ResponseLog {
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
    const WHICH: Which = Which::Responses;
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
