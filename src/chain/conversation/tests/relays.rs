//! Relayed sessions: what the back end hears, what the client is told.

use super::*;
use crate::chain::{Effect, FieldName, HeaderField};

/// The line by which the back end offers it.
pub(super) const XCLIENT: &str = "XCLIENT NAME ADDR";

pub(super) const PROXY: &str = "\
__DEFAULT__:
  - handler: proxy
";

pub(super) fn built(text: &str) -> (Chain, Vec<String>) {
    let mut faults = Vec::new();
    let file = ChainFile::parse("chain.yaml", text, &registry::names(), &mut faults).expect("YAML");
    let chain = Chain::build(&file, &Default::default(), &directory(), &mut faults);
    (chain, faults.iter().map(ToString::to_string).collect())
}

pub(super) fn relayed_by(text: &str, told: &[(&'static str, u16)]) -> Peer {
    let (chain, faults) = built(text);
    assert_eq!(faults, [""; 0]);
    let told = told.to_vec();
    Peer::prepared(
        chain,
        |limits| limits.maximum_errors = 50,
        |peer| peer.back_end.told = told,
    )
}

pub(super) fn relayed(told: &[(&'static str, u16)]) -> Peer {
    relayed_by(PROXY, told)
}

pub(super) fn log_has(peer: &Peer, words: &str) -> bool {
    peer.log.iter().any(|line| line.contains(words))
}

#[test]
fn every_reply_is_the_back_ends() {
    let mut peer = relayed(&[("VRFY", 252), ("RCPT TO:<gone@", 550), ("EXPN", 502)]);
    assert_eq!(peer.opened(), "220 back end on OPEN\r\n");
    let hello = peer.say("EHLO client.example");
    assert_eq!(hello, "250-back.example\r\n250-SIZE 500\r\n250 8BITMIME\r\n");
    assert!(
        peer.say("MAIL FROM: <a@b.example> size=10 BODY=8bitmime")
            .starts_with("250 back end on MAIL")
    );
    assert!(peer.say("rcpt to:gone@example.com").starts_with("550 back end on RCPT"));
    assert!(peer.say("RCPT TO:<\"a b\"@elsewhere.example>").starts_with("250 "));
    assert_eq!(peer.data("..x\r\nh\r\n"), "250 back end on END\r\n");
    assert!(peer.say("VRFY me").starts_with("252 ") && peer.say("EXPN all").starts_with("502 "));
    assert!(peer.say("NOOP  x").starts_with("250 ") && peer.say("RSET").starts_with("250 "));
    assert!(peer.say("QUIT").starts_with("221 back end") && peer.is_closed());
    let said: Vec<&str> = peer.back_end.said.iter().map(String::as_str).collect();
    let expected = [
        "OPEN",
        "EHLO client.example",
        "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7",
        "EHLO client.example",
        "MAIL FROM:<a@b.example> SIZE=10 BODY=8BITMIME",
        "RCPT TO:<gone@example.com>",
        "RCPT TO:<\"a b\"@elsewhere.example>",
        "DATA",
        "END",
        "VRFY me",
        "EXPN all",
        "NOOP x",
        "RSET",
        "QUIT",
    ];
    assert_eq!(said, expected);
    assert_eq!(peer.back_end.taken, [b".x\r\nh\r\n".to_vec()]);
    assert!(log_has(&peer, "event=message ") && peer.delivery.commits.is_empty());
    assert_eq!(peer.conversation.session().counters.unknown_commands, 0);
}

/// Nothing that would change what the two sides mean by what follows reaches the back end.
#[test]
fn what_cannot_be_carried_is_answered_here() {
    let mut peer = relayed(&[]);
    peer.say("EHLO client.example");
    let heard = peer.back_end.said.len();
    for (line, code) in [
        ("AUTH PLAIN AGEAYg==", "500"),
        ("XCLIENT ADDR=127.0.0.1", "502"),
        ("STARTTLS", "502"),
        ("XFORWARD ADDR=127.0.0.1", "500"),
        ("ETRN x", "502"),
        ("MAIL FROM:<a@b.example> SMTPUTF8", "555"),
        ("MAIL FROM:<a@b.example> RET=HDRS", "555"),
        ("MAIL FROM:<a@b.example> AUTH=<>", "555"),
        ("RCPT TO:<x@y.example>", "503"),
        ("DATA", "503"),
    ] {
        assert_eq!(codes(&peer.say(line)), [code], "{line}");
    }
    assert_eq!(peer.back_end.said.len(), heard, "{:?}", peer.back_end.said);
    let mut peer = relayed(&[]);
    peer.say("HELO client.example");
    assert!(peer.say("MAIL FROM:<a@b.example> SIZE=10").starts_with("250 "));
    assert_eq!(
        peer.back_end.said.last().map(String::as_str),
        Some("MAIL FROM:<a@b.example>")
    );
}

#[test]
fn a_lost_back_end_is_421_and_the_log_says_how_far_it_was() {
    for (step, hello) in [
        ("OPEN", false),
        ("EHLO c", false),
        ("MAIL", true),
        ("RCPT", true),
        ("DATA", true),
    ] {
        let mut peer = relayed(&[(step, 0)]);
        let mut replies = vec![peer.opened().to_owned()];
        for line in [
            "EHLO client.example",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@y.example>",
            "DATA",
        ] {
            if !peer.is_closed() {
                replies.push(peer.say(line));
            }
        }
        let last = replies.last().expect("one");
        assert!(last.starts_with("421 ") && peer.is_closed(), "{step}: {replies:?}");
        assert!(
            log_has(&peer, "event=back-end-lost session=6f1c"),
            "{step}: {:?}",
            peer.log
        );
        assert!(log_has(&peer, &format!("hello={hello}")), "{step}: {:?}", peer.log);
    }
    for step in ["TEXT", "END"] {
        let mut peer = relayed(&[(step, 0)]);
        for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
            peer.say(line);
        }
        assert!(peer.data("x\r\n").starts_with("421 ") && peer.is_closed(), "{step}");
        assert!(
            log_has(&peer, "from=\"<a@b.example>\" recipients=1 body=true"),
            "{:?}",
            peer.log
        );
        assert!(!log_has(&peer, "event=message ") && peer.back_end.taken.is_empty());
    }
}

/// RFC 5321 §4.2: only the back end's own 2yz makes one.
#[test]
fn no_250_but_the_back_ends() {
    for code in [354, 421, 451, 452, 550, 554] {
        let mut peer = relayed(&[("END", code)]);
        for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
            peer.say(line);
        }
        let reply = peer.data("x\r\n");
        let expected = if code == 354 { 451 } else { code };
        assert!(reply.starts_with(&expected.to_string()), "{code}: {reply}");
        assert_eq!(peer.is_closed(), code == 421);
        assert_eq!(peer.conversation.session().counters.messages, 0);
    }
    let mut peer = relayed(&[("DATA", 250)]);
    for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
        peer.say(line);
    }
    assert!(peer.say("DATA").starts_with("421 ") && peer.is_closed());
}

#[test]
fn chunks_go_on_as_data() {
    let mut peer = relayed(&[]);
    for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
        peer.say(line);
    }
    assert_eq!(
        codes(&peer.send(b"BDAT 4\r\n.\r\nxBDAT 3 LAST\r\n\r\n.")),
        ["250", "250"]
    );
    assert_eq!(peer.back_end.taken, [b".\r\nx\r\n.".to_vec()]);
    assert_eq!(peer.back_end.said.iter().filter(|line| *line == "DATA").count(), 1);
    peer.say("MAIL FROM:<a@b.example>");
    peer.say("RCPT TO:<x@y.example>");
    peer.back_end.told = vec![("DATA", 452)];
    assert_eq!(codes(&peer.send(b"BDAT 4\r\nQUITNOOP\r\n")), ["452", "250"]);
    assert!(peer.say("MAIL FROM:<a@b.example>").starts_with("250 "));
    let said = peer.back_end.said.join("|");
    assert!(
        said.contains("DATA|OPEN|EHLO mail.example.com|XCLIENT"),
        "the transaction there has to end: {said}"
    );
}

/// What is refused here when the text went there already must not become a message there.
#[test]
fn a_text_that_is_refused_here_never_ends_there() {
    let mut peer = relayed(&[]);
    for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
        peer.say(line);
    }
    assert!(peer.data(&"0123456\r\n".repeat(200)).starts_with("552 "));
    assert!(!peer.back_end.open && peer.back_end.taken.is_empty());
    assert!(peer.say("MAIL FROM:<a@b.example>").starts_with("250 "));
    let again = [
        "OPEN",
        "EHLO mail.example.com",
        "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7",
        "EHLO c",
        "MAIL",
    ];
    let said = &peer.back_end.said[peer.back_end.said.len() - again.len()..];
    assert!(
        said.iter().zip(again).all(|(line, start)| line.starts_with(start)),
        "{said:?}"
    );
    assert!(peer.say("RCPT TO:<x@y.example>").starts_with("250 "));
    assert!(peer.data("x\r\n").starts_with("250 "));
}

#[test]
fn handlers_before_it_may_refuse_and_the_back_end_hears_nothing() {
    let text = "\
RCPT:
  - handler: recipient
  - handler: proxy
__DEFAULT__:
  - handler: proxy
";
    let mut peer = relayed_by(text, &[("RCPT TO:<other@", 550)]);
    peer.say("EHLO c");
    peer.say("MAIL FROM:<a@b.example>");
    assert!(peer.say("RCPT TO:<nobody@example.com>").starts_with("550 5.1.1"));
    assert!(peer.say("RCPT TO:<x@elsewhere.example>").starts_with("550 5.7.1"));
    assert!(peer.say("RCPT TO:<other@example.com>").starts_with("550 back end"));
    assert!(peer.say("RCPT TO:<user@example.com>").starts_with("250 back end"));
    let heard = peer
        .back_end
        .said
        .iter()
        .filter(|line| line.starts_with("RCPT"))
        .count();
    assert_eq!(heard, 2);
    let mut peer = relayed(&[("OPEN", 554)]);
    assert!(peer.opened().starts_with("554 ") && peer.say("NOOP").starts_with("503 "));
    assert!(peer.say("QUIT").starts_with("221 ") && peer.is_closed());
}

/// What a handler wants with the header that cannot be had is said.
#[test]
fn fields_are_added_in_front_and_none_is_taken_out() {
    use super::verdicts::{link, prepend};
    let (mut chain, _) = built(&format!("MAIL:\n  - handler: proxy\n{PROXY}"));
    let judge = |_: &crate::chain::Context<'_>| {
        let outcome = crate::chain::Outcome::none();
        let outcome = outcome.with(Effect::AddField(HeaderField::new("X-Seen", "yes")?));
        Ok(outcome.with(Effect::RemoveField(FieldName::new("X-Spam")?)))
    };
    prepend(&mut chain, "MAIL", link("policy", crate::chain::Mode::Enforce, judge));
    let mut peer = Peer::prepared(chain, |_| {}, |_| {});
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    assert!(peer.data("X-Spam: no\r\n\r\nx\r\n").starts_with("250 "));
    assert_eq!(
        peer.back_end.taken,
        [b"X-Seen: yes\r\nX-Spam: no\r\n\r\nx\r\n".to_vec()]
    );
    assert!(
        log_has(&peer, "event=fields-dropped ") && log_has(&peer, "count=1"),
        "{:?}",
        peer.log
    );
}

#[test]
fn a_chain_relays_whole_or_not_at_all() {
    let (_, faults) = built("RCPT:\n  - handler: proxy\n");
    assert_eq!(
        faults,
        ["chain.yaml:2:5: RCPT[0]: expected proxy in __DEFAULT__, as __OPEN__ has no list, found none"]
    );
    let (_, faults) = built("RCPT:\n  - handler: recipient\n__DEFAULT__:\n  - handler: proxy\n  - handler: noop\n");
    assert_eq!(
        faults,
        [
            "chain.yaml:5:5: __DEFAULT__[1]: expected noop only in NOOP, found it in __DEFAULT__",
            "chain.yaml:1:1: RCPT: expected proxy in it, as other commands go through it, found none",
            "chain.yaml:5:5: __DEFAULT__[1]: expected proxy as the last one, found noop behind it",
        ]
    );
}

/// Between two chunks the back end hears text: no command may become part of it, or end it.
#[test]
fn commands_between_chunks() {
    let chunking = || {
        let mut peer = relayed(&[]);
        for line in ["EHLO c", "MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>"] {
            peer.say(line);
        }
        assert!(peer.send(b"BDAT 3\r\na\r\n").starts_with("250 "));
        peer
    };
    let mut peer = chunking();
    let heard = peer.back_end.said.len();
    assert_eq!(codes(&peer.say("NOOP")), ["250"]);
    assert_eq!(codes(&peer.say("VRFY x")), ["503"]);
    assert_eq!(peer.back_end.said.len(), heard);
    assert_eq!(codes(&peer.send(b"BDAT 3 LAST\r\nb\r\n")), ["250"]);
    assert_eq!(peer.back_end.taken, [b"a\r\nb\r\n".to_vec()]);
    for line in ["RSET", "EHLO again"] {
        let mut peer = chunking();
        assert_eq!(codes(&peer.say(line)), ["250"], "{line}");
        assert!(peer.back_end.taken.is_empty() && peer.back_end.text.is_empty());
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with("250 "), "{line}");
    }
    let mut peer = chunking();
    assert!(peer.say("QUIT").starts_with("221 ") && peer.back_end.taken.is_empty());
}

/// TLS ends here: the back end hears nothing of it, and the new EHLO as any other.
#[test]
fn starttls_is_served_here() {
    let (chain, _) = built(PROXY);
    let mut peer = Peer::prepared(chain, |limits| limits.starttls = true, |_| {});
    assert!(peer.say("EHLO client.example").contains("250 STARTTLS"));
    peer.say("MAIL FROM:<a@b.example>");
    let heard = peer.back_end.said.len();
    assert!(peer.say("STARTTLS").starts_with("220 "));
    assert_eq!(peer.back_end.said.len(), heard);
    assert!(peer.say("MAIL FROM:<a@b.example>").starts_with("503 "));
    assert!(!peer.say("EHLO client.example").contains("STARTTLS"));
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert!(relayed(&[]).say("STARTTLS").starts_with("502 "));
}

const KEEPING: &str = "\
__DATA__:
  - handler: data_file
  - handler: proxy
  - {handler: post_data_reset, with: {keep_data_file: yes}}
__DEFAULT__:
  - handler: proxy
";

#[test]
fn a_copy_is_kept_of_what_passes() {
    let mut peer = relayed_by(KEEPING, &[("END", 550)]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    assert!(peer.data("..x\r\n").starts_with("550 back end"));
    peer.back_end.told.clear();
    peer.begin(&["user"]);
    assert_eq!(
        codes(&peer.send(b"BDAT 3\r\na\r\nBDAT 4 LAST\r\n.b\r\n")),
        ["250", "250"]
    );
    let kept = peer.delivery.commits.iter().map(|commit| {
        let only: Vec<Disposition> = commit.recipients.iter().map(|copy| copy.disposition).collect();
        assert_eq!(only, [Disposition::Copy]);
        assert_eq!(commit.reverse_path, "a@client.example");
        commit.body.clone()
    });
    let kept: Vec<Body> = kept.collect();
    let expected = [b".x\r\n".to_vec(), b"a\r\n.b\r\n".to_vec()].map(Body::Inline);
    assert_eq!(kept, expected);
    assert_eq!(peer.back_end.taken, [b"a\r\n.b\r\n".to_vec()]);
    let mut peer = relayed_by(&KEEPING.replace("yes", "no"), &[]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    assert!(peer.data("x\r\n").starts_with("250 ") && peer.delivery.commits.is_empty());
}

/// The copy is nobody's mail: whether the message was taken is the back end's to say.
#[test]
fn without_a_copy_the_message_passes_all_the_same() {
    for full in [true, false] {
        let mut peer = relayed_by(KEEPING, &[]);
        (peer.body.full, peer.delivery.down) = (full, !full);
        peer.say("EHLO client.example");
        peer.begin(&["user"]);
        assert!(peer.data("x\r\ny\r\n").starts_with("250 back end"));
        assert_eq!(peer.back_end.taken, [b"x\r\ny\r\n".to_vec()]);
        assert!(log_has(&peer, "Error event=copy-failed "), "{:?}", peer.log);
        (peer.body.full, peer.delivery.down) = (false, false);
        peer.begin(&["user"]);
        assert!(peer.data("z\r\n").starts_with("250 back end"));
        assert_eq!(peer.delivery.commits.len(), 1);
    }
}

#[test]
fn a_copy_that_cannot_be_is_noted() {
    let notes = |text: &str| {
        let mut faults = Vec::new();
        let file = ChainFile::parse("chain.yaml", text, &registry::names(), &mut faults).expect("YAML");
        let chain = Chain::build(&file, &Default::default(), &directory(), &mut faults);
        assert_eq!(faults, []);
        let notes = chain.notes(&file);
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let refusing =
        "__OPEN__:\n  - handler: reject_all\n__DATA__:\n  - {handler: post_data_reset, with: {keep_data_file: yes}}\n";
    assert_eq!(
        notes(refusing),
        ["chain.yaml:4:5: __DATA__[0]: post_data_reset keeps no copies: no message is taken here"]
    );
    assert_eq!(notes(&refusing.replace("yes", "no")), [""; 0]);
    assert_eq!(notes(KEEPING), [""; 0]);
}

/// Behind one name there may be several servers: the one that is reached next must know what the client was offered.
#[test]
fn another_back_end_keeps_what_was_promised_or_is_lost() {
    for (lacks, last, code) in [
        ("8BITMIME", "MAIL FROM:<a@b.example> BODY=8BITMIME", "421"),
        ("SIZE 500", "MAIL FROM:<a@b.example>", "421"),
        ("DSN", "MAIL FROM:<a@b.example> BODY=8BITMIME", "250"),
        ("8BITMIME", "EHLO client.example", "250"),
    ] {
        let mut peer = relayed(&[]);
        peer.say("EHLO client.example");
        peer.begin(&["user"]);
        assert!(peer.data(&"0123456\r\n".repeat(200)).starts_with("552 "));
        peer.back_end.lacks = lacks;
        let reply = peer.say(last);
        assert!(
            codes(&reply) == [code] && peer.is_closed() == (code == "421"),
            "{lacks}: {reply}"
        );
        assert_eq!(log_has(&peer, "event=back-end-lost"), code == "421", "{lacks}");
        assert!(!reply.contains(lacks), "{reply}");
    }
    let mut peer = relayed(&[]);
    peer.say("HELO client.example");
    peer.begin(&["user"]);
    assert!(peer.data(&"0123456\r\n".repeat(200)).starts_with("552 "));
    peer.back_end.lacks = "8BITMIME";
    assert!(peer.say("MAIL FROM:<a@b.example>").starts_with("250 "));
}

/// A proxy with a handler in front that looks at everything.
fn behind_a_judge(mode: crate::chain::Mode, judge: super::verdicts::Judge) -> Peer {
    let (mut chain, faults) = built(PROXY);
    assert_eq!(faults, [""; 0]);
    super::verdicts::prepend(&mut chain, "__DEFAULT__", super::verdicts::link("judge", mode, judge));
    Peer::prepared(chain, |limits| limits.maximum_errors = 50, |_| {})
}

fn slowly(_: &crate::chain::Context<'_>) -> Result<crate::chain::Outcome, crate::chain::HandlerError> {
    let outcome = crate::chain::Outcome::none().with(Effect::Delay(Duration::from_secs(3)));
    Ok(outcome.with(Effect::Stutter(Duration::from_secs(1))))
}

/// The order of what happened so far, in short; forgotten then.
fn order(peer: &Peer) -> Vec<String> {
    let all = std::mem::take(&mut *peer.pauses.order.borrow_mut());
    all.into_iter()
        .map(|one| one.split(" FROM:").next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn what_is_delayed_the_back_end_hears_of_afterwards() {
    let mut peer = behind_a_judge(crate::chain::Mode::Enforce, slowly);
    peer.back_end.lacks = XCLIENT;
    assert_eq!(order(&peer), ["pause 3", "OPEN"]);
    for (said, heard) in [
        ("EHLO client.example", "EHLO client.example"),
        ("MAIL FROM:<a@b.example>", "MAIL"),
        ("RCPT TO:<c@d.example>", "RCPT TO:<c@d.example>"),
        ("DATA", "DATA"),
    ] {
        assert!(!peer.say(said).is_empty());
        assert_eq!(order(&peer), ["pause 3", heard], "{said}");
    }
    // Once: the reply does not wait again, but what slows its octets down is about the reply.
    let only_slow = Hold {
        delay: Duration::ZERO,
        stutter: Duration::from_secs(1),
    };
    assert!(peer.held.len() == 5 && peer.held.iter().all(|hold| *hold == only_slow));
    // What was taken is acknowledged at once (RFC 1047).
    assert!(peer.send(b"x\r\n.\r\n").starts_with("250 "));
    assert_eq!(order(&peer), ["END"]);
    assert_eq!(peer.held.last(), Some(&Hold::default()));
    assert!(peer.say("QUIT").starts_with("221 "));
    assert_eq!(order(&peer), ["pause 3", "QUIT"]);
}

#[test]
fn a_chunk_that_is_delayed_the_back_end_hears_of_afterwards() {
    let mut peer = behind_a_judge(crate::chain::Mode::Enforce, slowly);
    for line in [
        "EHLO client.example",
        "MAIL FROM:<a@b.example>",
        "RCPT TO:<c@d.example>",
    ] {
        peer.say(line);
    }
    order(&peer);
    assert!(peer.send(b"BDAT 3\r\nx\r\n").starts_with("250 "));
    assert_eq!(order(&peer), ["pause 3", "DATA"]);
    // The last one's time passes before the back end is told of the end, for which nobody waits then.
    assert!(peer.send(b"BDAT 3 LAST\r\ny\r\n").starts_with("250 "));
    assert_eq!(order(&peer), ["pause 3", "END"]);
    assert!(peer.held.iter().all(|hold| hold.delay.is_zero()));
    assert_eq!(peer.back_end.taken, [b"x\r\ny\r\n".to_vec()]);
}

#[test]
fn what_is_refused_or_only_observed_the_back_end_is_not_kept_from() {
    let refuse: super::verdicts::Judge = |context| {
        let mail = context.stage() == crate::chain::decision::Stage::Mail;
        let outcome = if mail {
            super::verdicts::reject(crate::session::At::Now)
        } else {
            crate::chain::Outcome::none()
        };
        Ok(outcome.with(Effect::Delay(Duration::from_secs(3))))
    };
    let mut peer = behind_a_judge(crate::chain::Mode::Enforce, refuse);
    peer.say("EHLO client.example");
    order(&peer);
    assert!(peer.say("MAIL FROM:<>").starts_with("550 "));
    assert_eq!(order(&peer), [""; 0], "the back end hears nothing, and the reply waits");
    assert_eq!(peer.held.last().map(|hold| hold.delay), Some(Duration::from_secs(3)));

    let mut peer = behind_a_judge(crate::chain::Mode::Observe, refuse);
    peer.say("EHLO client.example");
    order(&peer);
    assert!(peer.say("MAIL FROM:<>").starts_with("250 back end on MAIL"));
    assert_eq!(order(&peer), ["MAIL"]);
    assert!(log_has(&peer, "event=observed") && log_has(&peer, "by=judge verdict=reject"));
}

#[test]
fn the_back_end_hears_nothing_of_a_client_that_left_meanwhile() {
    let mut peer = behind_a_judge(crate::chain::Mode::Enforce, slowly);
    peer.say("EHLO client.example");
    peer.say("MAIL FROM:<a@b.example>");
    order(&peer);
    peer.pauses.left = true;
    assert_eq!(peer.say("RCPT TO:<c@d.example>"), "");
    assert!(peer.is_closed() && !peer.back_end.open);
    assert_eq!(order(&peer), ["pause 3"]);
    assert!(!log_has(&peer, "event=back-end-lost"));
}
