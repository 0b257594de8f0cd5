//! DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030): lets the body come. A BDAT chunk is answered when it is there.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Data;

impl Answer for Data {
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
    const REPLY: (u16, Option<Status>) = (354, None);
    const MESSAGE: &'static str = "end data with <CR><LF>.<CR><LF>";
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
