//! STARTTLS (RFC 3207), as far as the conversation goes.

use super::*;

fn offering() -> Peer {
    Peer::with(|limits| limits.starttls = true)
}

#[test]
fn it_is_offered_once_and_taken_once() {
    let mut peer = offering().hello();
    assert!(peer.conversation.session().offers("STARTTLS"));
    assert_eq!(peer.say("STARTTLS"), "220 2.0.0 Ready to start TLS\r\n");
    assert_eq!(peer.say("STARTTLS"), "503 5.5.1 TLS is active already\r\n");
    let hello = peer.say("EHLO client.example");
    assert!(!hello.contains("STARTTLS"), "{hello}");
    assert!(hello.starts_with("250-tls.example.com Hello"), "{hello}");
    assert!(peer.say("STARTTLS").starts_with("503 "));
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    let fields = peer.fields(0);
    assert!(fields.contains("by tls.example.com with ESMTPS id"), "{fields}");
    assert!(
        fields.contains("\r\n\ttls TLS_AES_128_GCM_SHA256 group x25519 (TLSv1.3);"),
        "{fields}"
    );
}

#[test]
fn what_was_said_before_is_forgotten() {
    let mut peer = offering().hello().envelope(&["user"]);
    assert!(peer.say("STARTTLS").starts_with("220 "));
    let session = peer.conversation.session();
    assert!(session.hello.is_none() && session.transaction.is_none() && session.offered.is_empty());
    assert!(peer.say("DATA").starts_with("503 "));
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("503 "));
    assert!(peer.say("MAIL FROM:<a@b.example>").starts_with("503 "), "EHLO first");
}

#[test]
fn a_message_in_chunks_is_forgotten_too() {
    let mut peer = offering().hello().envelope(&["user"]);
    assert!(peer.send(b"BDAT 3\r\nx\r\n").starts_with("250 "));
    assert!(peer.say("STARTTLS").starts_with("220 "));
    assert!(peer.body.octets.is_empty());
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    assert!(peer.send(b"BDAT 3 LAST\r\ny\r\n").starts_with("250 "));
    assert_eq!(peer.text(0), "y\r\n");
}

#[test]
fn a_verdict_of_the_greeting_outlives_it_and_one_of_a_command_does_not() {
    let mut session = crate::session::tests::session();
    let kept = |by: &str| crate::session::Kept {
        by: by.into(),
        verdict: Verdict::Reject,
        reply: None,
        at: crate::session::At::Rcpt,
        of_hello: false,
    };
    session.kept.push(kept("of the address"));
    session.greeted();
    session.kept.push(kept("of what it said"));
    session.secure(TlsFacts {
        version: "TLSv1.2",
        cipher: String::new(),
        group: None,
        sni: None,
        server_name: "tls.example.com".into(),
        hello: Vec::new(),
    });
    assert_eq!(session.kept, [kept("of the address")]);
}

#[test]
fn an_argument_or_a_silent_keeper_leaves_the_session_as_it_is() {
    let mut peer = offering().hello().envelope(&["user"]);
    assert!(peer.say("STARTTLS now").starts_with("501 5.5.4 "));
    peer.keeper.silent = true;
    assert_eq!(peer.say("STARTTLS"), "454 4.7.0 TLS not available now\r\n");
    assert!(
        peer.log
            .iter()
            .any(|line| line.contains("event=tls-unavailable") && line.starts_with("Error"))
    );
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert!(peer.fields(0).contains(" with ESMTP id"));
    peer.keeper.silent = false;
    assert!(peer.say("STARTTLS").starts_with("220 "));
}
