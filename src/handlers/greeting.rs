//! The greeting (RFC 5321 §3.1), at `__OPEN__`.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Greeting;

impl Answer for Greeting {
    const FACTS: &'static Facts = &Facts {
        id: "greeting",
        module: "greeting",
        class: "GreetingHandler",
        verbs: &["__OPEN__"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "220 and the name of the server",
    };
    const REPLY: (u16, Option<Status>) = (220, None);
    // The first word is the server's name (RFC 5321 §4.2): clients show it, and look for their own to find loops.
    const MESSAGE: &'static str = "<server_name> RSMTPD v<version> service ready";
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn names_the_server() {
        let expected = format!(
            "220 mail.example.com RSMTPD v{} service ready\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(Peer::new().opened(), expected);
    }
}
