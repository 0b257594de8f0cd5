//! HELP (RFC 5321 §4.1.1.8): the verbs that have a chain.
//!
//! Notes: reads none, writes none.

use crate::chain::{Answer, Context, Facts};
use crate::session::Verdict;
use crate::smtp::status::Status;

/// The handler.
pub struct Help;

impl Answer for Help {
    const FACTS: &'static Facts = &Facts {
        id: "help",
        module: "help",
        class: "HelpHandler",
        verbs: &["HELP"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "214 and the verbs served",
    };
    const REPLY: (u16, Option<Status>) = (214, Some(Status::OK));
    const MESSAGE: &'static str = "<server_name> knows these commands:";

    fn more(context: &Context<'_>) -> Vec<String> {
        let served = |verb: &&String| *verb != "STARTTLS" || context.tls_available();
        let verbs: Vec<&str> = context.verbs().iter().filter(served).map(String::as_str).collect();
        vec![verbs.join(" ")]
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn lists_the_verbs() {
        let reply = Peer::open().say("HELP");
        assert!(reply.starts_with("214-2.0.0 mail.example.com"), "{reply}");
        assert!(reply.contains("214 2.0.0 HELO EHLO MAIL RCPT DATA"), "{reply}");
    }
}
