//! What the protocol itself demands, whatever the chain says.

use super::verdicts::peer;
use super::*;
use crate::chain::Mode;
use crate::chain::opinion::Outcome;
use crate::session::Anomaly;
use crate::smtp::command::Oddity;
use proptest::prelude::*;

impl Peer {
    fn anomalies(&self) -> Vec<Anomaly> {
        let seen = self.conversation.session().anomalies.iter();
        seen.map(|one| one.anomaly.clone()).collect()
    }

    /// Sends the text of a message, which has to be stuffed and ended.
    fn text_of_message(&mut self, text: &[u8]) -> String {
        assert!(self.say("DATA").starts_with("354 "));
        self.send(text)
    }
}

#[test]
fn the_greeting_and_answers_to_hello_have_no_enhanced_code() {
    for line in ["EHLO", "HELO", "EHLO \u{fc}"] {
        let reply = Peer::open().say(line);
        assert!(reply.starts_with("501 ") && !reply.contains("5.5.4"), "{line}: {reply}");
    }
    for verb in ["__OPEN__", "EHLO"] {
        let mut peer = peer(verb, Mode::Enforce, |_| {
            Ok(super::verdicts::reject(crate::session::At::Now))
        });
        let reply = match verb {
            "EHLO" => peer.say("EHLO client.example"),
            _ => peer.opened().to_owned(),
        };
        assert_eq!(reply, "550 policy\r\n", "{verb}");
    }
}

#[test]
fn a_refused_hello_changes_nothing() {
    let mut peer = Peer::with_recipient();
    assert!(peer.say("EHLO").starts_with("501 "));
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert!(peer.fields(0).contains("with ESMTP"));
}

#[test]
fn a_greeting_that_refuses_waits_for_quit() {
    let mut peer = peer("__OPEN__", Mode::Enforce, |_| {
        Ok(Outcome::reject(Reply::new(554, Some(Status(5, 7, 1)), "not you")))
    });
    assert_eq!(peer.opened(), "554 not you\r\n");
    assert!(!peer.is_closed());
    for line in ["EHLO client.example", "MAIL FROM:<>", "NOOP", "WIZ", "BDAT x"] {
        assert!(peer.say(line).starts_with("503 "), "{line}");
    }
    assert!(peer.say("QUIT").starts_with("221 ") && peer.is_closed());
    assert!(peer.delivery.commits.is_empty());
}

#[test]
fn recipients_beyond_the_limit_are_put_off_and_no_error() {
    let mut peer = Peer::greeted();
    peer.begin(&["user", "other", "third"]);
    for number in 0..200 {
        let reply = peer.say("RCPT TO:<fourth@example.com>");
        assert!(reply.starts_with("452 4.5.3"), "{number}: {reply}");
    }
    assert!(peer.data("x\r\n").starts_with("250 "));
    assert_eq!(peer.copies(0).len(), 3);
    peer.begin(&["user", "other", "third"]);
    let more = (0..2000).find(|_| peer.say("RCPT TO:<fourth@example.com>").starts_with("421 "));
    assert!(more.is_some(), "there is an end to it");
}

#[test]
fn bad_octets_are_501_whatever_the_verb() {
    for line in [&b"WIZ\0\r\n"[..], b"NOOP\rNOOP\r\n", b"NOOP \0\r\n", b"\0\r\n"] {
        let mut peer = Peer::greeted();
        let reply = peer.send(line);
        assert!(reply.starts_with("501 5.5.2"), "{line:?}: {reply}");
    }
}

#[test]
fn a_hop_count_has_an_exact_limit() {
    for (hops, code) in [(2, "250 "), (3, "554 5.4.6")] {
        let mut peer = Peer::with_recipient();
        let reply = peer.data(&("Received: x\r\n".repeat(hops) + "\r\nReceived: in the body\r\n"));
        assert!(reply.starts_with(code), "{hops}: {reply}");
    }
}

#[test]
fn a_failed_chunk_spoils_those_behind_it() {
    let mut peer = Peer::with_recipient();
    let big = "x".repeat(1001);
    let all = format!("BDAT 1001\r\n{big}BDAT 5\r\nQUIT\nBDAT 0\r\nBDAT 5 LAST\r\nRSET\nNOOP\r\n");
    assert_eq!(codes(&peer.send(all.as_bytes())), ["552", "503", "503", "503", "250"]);
    peer.begin(&["user"]);
    assert_eq!(codes(&peer.send(b"BDAT 0\r\nBDAT 2\r\na\nBDAT 0 LAST\r\n")), ["250"; 3]);
    assert_eq!(peer.text(0), "a\r\n");
}

#[test]
fn what_was_odd_is_kept_by_type() {
    use Oddity::*;
    let command = |oddity: Oddity| Anomaly::Command(oddity);
    let cases: [(&[u8], Anomaly); 22] = [
        (b"noop\r\n", command(LowerCaseVerb)),
        (b"Noop\r\n", command(MixedCaseVerb)),
        (b" NOOP\r\n", command(LeadingSpace)),
        (b"NOOP \r\n", command(TrailingSpace)),
        (b"NOOP  x\r\n", command(ExtraSpaces)),
        (b"NOOP\tx\r\n", command(ExtraSpaces)),
        (b"NOOP\n", command(BareLf)),
        (b"NOOP \r x\r\n", command(BareCr)),
        (b"NOOP \0\r\n", command(Nul)),
        (b"NOOP \xe4\r\n", command(EightBitWithoutSmtputf8)),
        (b"EHLO \xe4\r\n", command(EightBitWithoutSmtputf8)),
        (b"EHLO under_score\r\n", command(MalformedHello)),
        (b"MAIL FROM:a@b.example\r\n", command(MissingBrackets)),
        (b"MAIL FROM: <a@b.example>\r\n", command(SpaceAfterColon)),
        (b"MAIL FROM :<a@b.example>\r\n", command(SpaceBeforeColon)),
        (b"MAIL FROM:<@x.example:a@b.example>\r\n", command(SourceRoute)),
        (b"MAIL FROM:<\xc3\xa4@b.example>\r\n", command(EightBitWithoutSmtputf8)),
        (b"MAIL FROM:<> AUTH=<>\r\n", command(UnknownParameter("AUTH".into()))),
        (
            b"MAIL FROM:<>\r\nRCPT TO:<\xc3\xa4@example.com>\r\n",
            command(EightBitWithoutSmtputf8),
        ),
        (
            b"MAIL FROM:<>\r\nRCPT TO:<user@example.com> NOTIFY=NEVER\r\n",
            command(UnknownParameter("NOTIFY".into())),
        ),
        (b"EHLO again\r\nNOOP\r\n", Anomaly::IllegalPipelining("EHLO".into())),
        (
            b"HELO plain\r\nMAIL FROM:<>\r\nRSET\r\n",
            Anomaly::IllegalPipelining("MAIL".into()),
        ),
    ];
    for (input, anomaly) in cases {
        let mut peer = Peer::greeted();
        assert_eq!(peer.anomalies(), [], "nothing is odd about EHLO client.example");
        peer.send(input);
        let seen = peer.anomalies();
        assert!(seen.contains(&anomaly), "{}: {seen:?}", String::from_utf8_lossy(input));
    }
    let mut long = Peer::greeted();
    long.say(&format!("NOOP {}", "x".repeat(600)));
    assert_eq!(long.anomalies(), [command(LineTooLong)]);
    let mut long = Peer::greeted();
    long.say(&format!("MAIL FROM:<{}@b.example>", "x".repeat(65)));
    assert_eq!(long.anomalies(), [command(LongLocalPart)]);
}

#[test]
fn what_was_odd_about_a_body_is_kept_by_type() {
    let body = |text: &[u8]| {
        let mut peer = Peer::with_recipient();
        peer.text_of_message(text);
        peer.anomalies()
    };
    assert_eq!(body(b"a\r\n\r\nb\r\n.\r\n"), []);
    let (count, first) = (1, Some(1));
    assert_eq!(body(b"a\nb\r\n.\r\n"), [Anomaly::BareLf { count, first }]);
    assert_eq!(body(b"a\rb\r\n.\r\n"), [Anomaly::BareCr { count, first }]);
    assert_eq!(
        body(b"a\n.\nb\r\n.\r\n"),
        [
            Anomaly::BareLf { count: 2, first },
            Anomaly::EndOfDataLookalike { offset: 2 }
        ]
    );
    assert_eq!(body(b"a\0b\r\n.\r\n"), [Anomaly::Nul]);
    let long = [vec![b'x'; 999], b"\r\n.\r\n".to_vec()].concat();
    assert_eq!(body(&long), [Anomaly::LongLines(1)]);

    let mut peer = Peer::with_recipient();
    peer.send(b"BDAT 3\r\nab\rBDAT 2 LAST\r\n\nc");
    assert_eq!(peer.anomalies(), [Anomaly::ChunkBoundary(3)]);

    let mut peer = Peer::greeted();
    peer.say("MAIL FROM:<> SIZE=10");
    peer.say("RCPT TO:<user@example.com>");
    peer.data("x\r\n");
    assert_eq!(
        peer.anomalies(),
        [Anomaly::SizeMismatch {
            announced: 10,
            received: 3
        }]
    );
}

#[test]
fn the_end_of_the_session_names_what_was_odd() {
    let mut peer = Peer::greeted();
    peer.send(b"noop\r\nnoop\r\nMAIL FROM:a@b.example\r\n");
    let lines = peer.close("lost").lines;
    let odd = "anomalies=6 odd=lower_case_verb,illegal_pipelining,missing_brackets,no_quit ";
    assert!(lines.iter().any(|(_, line)| line.contains(odd)), "{lines:?}");
    let mut peer = Peer::greeted();
    peer.say("QUIT");
    let lines = peer.close("closed").lines;
    assert!(
        lines.iter().any(|(_, line)| line.contains("anomalies=0 odd=none ")),
        "{lines:?}"
    );
}

#[test]
fn extensions_after_helo_are_served_and_noted() {
    let mut peer = Peer::open();
    peer.say("HELO client.example");
    assert!(
        peer.say("MAIL FROM:<> SIZE=1 BODY=8BITMIME SMTPUTF8")
            .starts_with("250 ")
    );
    peer.say("RCPT TO:<user@example.com>");
    assert!(peer.send(b"BDAT 1 LAST\r\nx").starts_with("250 "));
    let names = ["SIZE", "BODY", "SMTPUTF8", "BDAT"];
    assert_eq!(peer.anomalies(), names.map(|name| Anomaly::NotOffered(name.to_owned())));
}

#[test]
fn notes_of_line_endings_become_evidence() {
    let text = b"a\n.\r\nb\rc\r\n.\r\n";
    for (endings, wanted) in [(LineEndings::Note, true), (LineEndings::Normalize, false)] {
        let mut peer = Peer::with(|limits| limits.line_endings = endings).hello();
        peer.begin(&["user"]);
        assert!(peer.text_of_message(text).starts_with("250 "));
        assert_eq!(peer.text(0), "a\r\n.\r\nb c\r\n", "{endings:?}");
        for part in [
            "symbol=BARE_LF value=\"count=1 offset=1\"",
            "symbol=BARE_CR value=\"count=1 offset=1\"",
            "symbol=EOD_LOOKALIKE value=\"offset=2\"",
        ] {
            let found = peer
                .log
                .iter()
                .any(|line| line.contains("event=evidence") && line.contains(part));
            assert_eq!(found, wanted, "{endings:?} {part}: {:?}", peer.log);
        }
    }
    let mut peer = Peer::with(|limits| limits.line_endings = LineEndings::Note).hello();
    peer.send(b"NOOP\n");
    assert!(
        peer.log
            .iter()
            .any(|line| line.contains("symbol=BARE_LF") && line.contains("verb=NOOP")),
        "{:?}",
        peer.log
    );
}

#[test]
fn strict_line_endings_hold_for_commands_and_chunks() {
    let strict = || {
        let mut peer = Peer::with(|limits| limits.line_endings = LineEndings::Strict).hello();
        peer.begin(&["user"]);
        peer
    };
    let mut peer = strict();
    assert!(peer.send(b"NOOP\n").starts_with("550 5.5.2") && peer.is_closed());
    assert!(
        peer.log
            .iter()
            .any(|line| line.contains("event=reject") && line.contains("code=550"))
    );
    let mut peer = strict();
    assert!(peer.send(b"BDAT 3 LAST\r\na\nb").starts_with("550 5.5.2") && peer.is_closed());
    assert!(peer.delivery.commits.is_empty());
}

#[test]
fn parameters_that_are_not_offered_can_be_tolerated() {
    let tolerant = || Peer::with(|limits| limits.tolerate_unadvertised_params = true).hello();
    let mut peer = tolerant();
    assert!(peer.say("MAIL FROM:<> RET=HDRS ENVID=x AUTH=<>").starts_with("250 "));
    assert!(
        peer.say("RCPT TO:<user@example.com> NOTIFY=NEVER ORCPT=rfc822;a@b")
            .starts_with("250 ")
    );
    let unknown = |name: &str| Anomaly::Command(Oddity::UnknownParameter(name.to_owned()));
    assert_eq!(
        peer.anomalies(),
        ["RET", "ENVID", "AUTH", "NOTIFY", "ORCPT"].map(unknown)
    );
    let mut peer = tolerant();
    assert!(peer.say("MAIL FROM:<> BODY=BINARYMIME").starts_with("501 "));
    assert!(peer.say("MAIL FROM:<> =x").starts_with("501 "));
    assert!(peer.say("MAIL FROM:<> SIZE=1001 X=y").starts_with("552 "));
}

#[test]
fn why_it_ended_is_told() {
    let mut peer = Peer::greeted();
    peer.say("QUIT");
    let lines = peer.close("closed").lines;
    assert!(lines.iter().any(|(_, line)| line.contains("reason=quit")), "{lines:?}");
    let mut peer = Peer::greeted();
    while !peer.is_closed() {
        peer.say("DATA");
    }
    let lines = peer.close("closed").lines;
    assert!(
        lines.iter().any(|(_, line)| line.contains("reason=closed")),
        "{lines:?}"
    );
}

/// Commands good and bad, messages by DATA and by chunks.
fn dialogues() -> impl Strategy<Value = Vec<u8>> {
    let step = prop_oneof![
        Just("EHLO client.example\r\n".to_owned()),
        Just("MAIL FROM:<a@b.example>\r\n".to_owned()),
        Just("RCPT TO:<user@example.com>\r\n".to_owned()),
        Just("RCPT TO:<nobody@example.com>\n".to_owned()),
        Just("MAIL FROM:<>\r\nRCPT TO:<user@example.com>\r\nDATA\r\n".to_owned()),
        Just("DATA\r\n".to_owned()),
        Just(".\r\n".to_owned()),
        Just("BDAT 4\r\na\r\r\n".to_owned()),
        Just("BDAT 0 LAST\r\n".to_owned()),
        Just("BDAT 3 LAST\r\n.\r\n".to_owned()),
        Just("RSET\r\n".to_owned()),
        "[a.\r\n]{0,12}",
        "[A-Z ]{0,6}\r\n",
    ];
    prop::collection::vec(step, 0..24).prop_map(|steps| steps.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_is_answered_the_same(input in dialogues(), step in 1usize..9) {
        let play = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut peer = Peer::greeted();
            let replies: String = pieces.map(|piece| peer.send(piece)).collect();
            let bodies: Vec<String> = (0..peer.delivery.commits.len()).map(|n| peer.text(n)).collect();
            (replies, bodies, peer.is_closed())
        };
        let whole = play(&mut std::iter::once(input.as_slice()));
        prop_assert_eq!(play(&mut input.chunks(step)), whole);
    }
}

/// What the response variables become: in the greeting, in the reply to EHLO, and in one to what follows it.
#[test]
fn the_five_variables_are_filled_in_and_nothing_else_is() {
    let template = "<server_name>|<version>|<client.ip>|<client.port>|<client.advertised_name>|";
    let others = "<unknown> <Client.IP> <client.ip > <> < <<client.ip>> a<b <client.port";
    let message = format!("{template}{others}");
    let mut text = String::new();
    for (verb, handler) in [
        ("__OPEN__", "greeting"),
        ("EHLO", "hello"),
        ("MAIL", "mail"),
        ("QUIT", "quit"),
    ] {
        text += &format!("{verb}: [{{handler: {handler}, with: {{message: '{message}'}}}}]\n");
    }
    let mut peer = Peer::only(&text, &[]);
    let filled = |name: &str| {
        let version = env!("CARGO_PKG_VERSION");
        format!(
            "mail.example.com|{version}|192.0.2.7|4711|{name}|<unknown> <Client.IP> <client.ip > <> < <192.0.2.7> a<b <client.port\r\n"
        )
    };
    let shown = peer.opened().to_owned();
    assert!(shown.ends_with(&filled("[192.0.2.7:4711]")), "{shown}");
    let shown = peer.say("EHLO <version>");
    let first = |shown: &str| shown.split_inclusive('\n').next().unwrap_or_default().to_owned();
    assert!(
        first(&shown).ends_with(&filled("<version>")),
        "not searched again: {shown}"
    );
    let shown = peer.say("EHLO client.example");
    assert!(first(&shown).ends_with(&filled("client.example")), "{shown}");
    let shown = peer.say("MAIL FROM:<a@client.example>");
    assert!(
        shown.starts_with("250 ") && shown.ends_with(&filled("client.example")),
        "{shown}"
    );
    let shown = peer.say("QUIT");
    assert!(
        shown.starts_with("221 ") && shown.ends_with(&filled("client.example")),
        "{shown}"
    );
}
