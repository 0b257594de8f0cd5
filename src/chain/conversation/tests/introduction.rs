//! Who acts at a back end that trusts us with more than the client: nobody whom it has not been told of.

use super::relays::{PROXY, XCLIENT, built, log_has, relayed, relayed_by};
use super::*;

const OURS: &str = "EHLO mail.example.com";
const TOLD: &str = "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7";

/// What the back end has heard since it was asked last, and that nothing of it was done as us.
fn heard(peer: &mut Peer) -> Vec<String> {
    assert_eq!(peer.back_end.as_us, [""; 0], "{:?}", peer.back_end.said);
    std::mem::take(&mut peer.back_end.said)
}

/// Replies of the back end from now on: to all, and before them to whom it takes for us.
fn tell(peer: &mut Peer, all: &[(&'static str, u16)], us: &[(&'static str, u16)]) {
    (peer.back_end.told, peer.back_end.told_us) = (all.to_vec(), us.to_vec());
}

#[test]
fn without_xclient_nothing_is_said_but_what_the_client_says() {
    let mut peer = relayed(&[]);
    peer.back_end.lacks = XCLIENT;
    assert_eq!(peer.opened(), "220 back end on OPEN\r\n");
    for line in ["EHLO client.example", "MAIL FROM:<a@b.example>", "RSET", "EHLO again"] {
        assert_eq!(codes(&peer.say(line)), ["250"]);
    }
    let expected = [
        "OPEN",
        "EHLO client.example",
        "MAIL FROM:<a@b.example>",
        "RSET",
        "EHLO again",
    ];
    assert_eq!(peer.back_end.said, expected);
}

#[test]
fn ehlo_introduces_and_is_answered_as_to_the_client() {
    let mut peer = relayed(&[]);
    assert_eq!(heard(&mut peer), ["OPEN"]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    assert_eq!(heard(&mut peer), ["EHLO client.example", TOLD, "EHLO client.example"]);
    for line in ["NOOP", "EHLO again", "HELO again", "RSET", "MAIL FROM:<a@b.example>"] {
        assert_eq!(codes(&peer.say(line)), ["250"]);
        assert_eq!(heard(&mut peer), [line], "once is enough");
    }
    // What it said to us is not the client's to hear, refusals included.
    for code in [450, 501, 502, 504, 550, 554] {
        let mut peer = relayed(&[]);
        tell(&mut peer, &[], &[("EHLO client", code)]);
        assert_eq!(codes(&peer.say("EHLO client.example")), ["250"], "{code}");
        let expected = ["OPEN", "EHLO client.example", OURS, TOLD, "EHLO client.example"];
        assert_eq!(heard(&mut peer), expected, "{code}");
    }
    let mut peer = relayed(&[]);
    tell(&mut peer, &[("EHLO client", 554)], &[("EHLO client", 250)]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["554"]);
    assert_eq!(
        heard(&mut peer),
        ["OPEN", "EHLO client.example", TOLD, "EHLO client.example"]
    );
    assert_eq!(codes(&peer.say("NOOP")), ["250"]);
    assert_eq!(heard(&mut peer), ["NOOP"]);
}

#[test]
fn any_other_command_waits_until_the_client_is_known() {
    for line in ["HELO c", "RSET", "NOOP", "VRFY x", "EXPN x", "HELP", "HELP x"] {
        let mut peer = relayed(&[]);
        assert_eq!(codes(&peer.say(line)), ["250"], "{line}");
        assert_eq!(heard(&mut peer), ["OPEN", OURS, TOLD, line]);
        assert_eq!(codes(&peer.say("EHLO client.example")), ["250"], "{line}");
        assert_eq!(heard(&mut peer), ["EHLO client.example"], "{line}");
        // Where it cannot be known there is nothing to wait for a second time.
        let mut peer = relayed(&[]);
        peer.back_end.lacks = XCLIENT;
        peer.say(line);
        peer.say(line);
        assert_eq!(peer.back_end.said, ["OPEN", OURS, line, line]);
    }
    let mut peer = relayed(&[]);
    for line in ["MAIL FROM:<a@b.example>", "RCPT TO:<x@y.example>", "DATA"] {
        assert_eq!(codes(&peer.say(line)), ["503"], "{line}");
    }
    assert_eq!(codes(&peer.say("AUTH PLAIN AGEAYg==")), ["500"]);
    assert_eq!(codes(&peer.say("QUIT")), ["221"]);
    assert_eq!(heard(&mut peer), ["OPEN", "QUIT"]);
    // The text of a chunk out of place is read and thrown away, and the connection with it.
    let mut peer = relayed(&[]);
    assert_eq!(codes(&peer.send(b"BDAT 3 LAST\r\na\r\nNOOP\r\n")), ["503", "250"]);
    assert_eq!(heard(&mut peer), ["OPEN", "OPEN", OURS, TOLD, "NOOP"]);
}

/// It has not said whether it takes XCLIENT, however often it is asked.
#[test]
fn while_ehlo_is_put_off_nothing_gets_there() {
    for line in ["EHLO client.example", "HELO c", "NOOP", "RSET", "VRFY x"] {
        let mut peer = relayed(&[("EHLO", 451)]);
        assert_eq!(codes(&peer.say(line)), ["451"], "{line}");
        let all = b"EHLO client.example\r\nNOOP\r\nMAIL FROM:<a@b.example>\r\nRSET\r\nHELO c\r\nDATA\r\n";
        let expected = ["451", "451", "503", "451", "451", "503"];
        assert_eq!(codes(&peer.send(all)), expected, "{line}");
        let said = heard(&mut peer);
        assert!(
            said.iter().all(|line| line == "OPEN" || line.starts_with("EHLO ")),
            "{said:?}"
        );
        tell(&mut peer, &[], &[]);
        assert_eq!(codes(&peer.say("VRFY x")), ["250"], "{line}");
        assert_eq!(heard(&mut peer), [OURS, TOLD, "VRFY x"]);
    }
    for line in ["EHLO client.example", "NOOP"] {
        let mut peer = relayed(&[("EHLO", 421)]);
        assert_eq!(codes(&peer.say(line)), ["421"], "{line}");
        assert!(peer.is_closed() && heard(&mut peer).len() == 2);
    }
    // Only the client's: then what it takes is known all the same.
    let mut peer = relayed(&[("EHLO client", 451)]);
    assert_eq!(codes(&peer.send(b"EHLO client.example\r\nNOOP\r\n")), ["451", "250"]);
    let again = ["OPEN", "EHLO client.example", OURS, TOLD, "EHLO client.example", "NOOP"];
    assert_eq!(heard(&mut peer), again);
}

/// The name in the client's EHLO may be what is refused: that nobody knows XCLIENT it must not be taken for.
#[test]
fn ehlo_refused_for_good_is_no_want_of_xclient() {
    for code in [500, 501, 502, 504, 550, 554] {
        for next in ["HELO c", "NOOP", "EHLO fine.example"] {
            let mut peer = relayed(&[("EHLO client", code)]);
            let replies = peer.send(format!("EHLO client.example\r\n{next}\r\n").as_bytes());
            assert_eq!(codes(&replies), [code.to_string(), "250".into()], "{next}");
            let expected = ["OPEN", "EHLO client.example", OURS, TOLD, "EHLO client.example", next];
            assert_eq!(heard(&mut peer), expected, "{code}");
        }
    }
    // Ours, and not known: it knows no XCLIENT either.
    for code in [500, 502] {
        let mut peer = relayed(&[("EHLO", code)]);
        assert_eq!(codes(&peer.say("EHLO client.example")), [code.to_string()]);
        assert_eq!(codes(&peer.say("HELO c")), ["250"]);
        assert_eq!(peer.back_end.said, ["OPEN", "EHLO client.example", OURS, "HELO c"]);
    }
    // Ours, and not wanted: that says nothing of XCLIENT.
    for code in [220, 251, 354, 501, 504, 550, 554] {
        for line in ["EHLO client.example", "HELO c", "NOOP"] {
            let mut peer = relayed(&[("EHLO", code)]);
            assert_eq!(codes(&peer.say(line)), ["421"], "{code} {line}");
            assert!(peer.is_closed() && !peer.back_end.open);
            assert!(log_has(&peer, "event=back-end-lost") && log_has(&peer, &code.to_string()));
            heard(&mut peer);
        }
    }
}

#[test]
fn xclient_counts_when_it_was_taken() {
    for line in ["EHLO client.example", "HELO c", "NOOP"] {
        for code in [220, 250] {
            let mut peer = relayed(&[("XCLIENT", code)]);
            assert_eq!(codes(&peer.say(line)), ["250"], "{code} {line}");
            heard(&mut peer);
        }
        for code in [0, 354, 500, 501, 503, 550] {
            let mut peer = relayed(&[("XCLIENT", code)]);
            assert_eq!(codes(&peer.say(line)), ["421"], "{code} {line}");
            assert!(peer.is_closed() && !peer.back_end.open);
            assert!(log_has(&peer, "event=back-end-lost"), "{:?}", peer.log);
            assert_eq!(heard(&mut peer).last().map(String::as_str), Some(TOLD));
        }
        // Put off, it may count in part: the connection is nobody's any more.
        let mut peer = relayed(&[("XCLIENT", 450)]);
        assert_eq!(codes(&peer.say(line)), ["450"], "{line}");
        assert!(!peer.is_closed() && !peer.back_end.open);
        heard(&mut peer);
        assert_eq!(codes(&peer.send(b"RSET\r\nMAIL FROM:<>\r\n")), ["450", "503"]);
        assert_eq!(heard(&mut peer), ["OPEN", OURS, TOLD]);
        tell(&mut peer, &[], &[]);
        assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
        let expected = ["OPEN", "EHLO client.example", TOLD, "EHLO client.example"];
        assert_eq!(heard(&mut peer), expected, "{line}");
        let mut peer = relayed(&[("XCLIENT", 450)]);
        peer.say(line);
        assert!(codes(&peer.say("QUIT")) == ["221"] && peer.is_closed());
        let mut peer = relayed(&[("XCLIENT", 421)]);
        assert!(codes(&peer.say(line)) == ["421"] && peer.is_closed());
    }
}

/// One connection's introduction is none of the next one's.
#[test]
fn whoever_is_reached_again_is_told_again() {
    let given_up = || {
        let mut peer = relayed(&[]);
        peer.say("EHLO client.example");
        peer.begin(&["user"]);
        assert!(peer.data(&"0123456\r\n".repeat(200)).starts_with("552 "));
        heard(&mut peer);
        peer
    };
    let told = ["OPEN", OURS, TOLD, "EHLO client.example"];
    for line in ["MAIL FROM:<>", "NOOP", "RSET", "VRFY x", "HELP"] {
        let mut peer = given_up();
        assert_eq!(codes(&peer.say(line)), ["250"], "{line}");
        assert_eq!(heard(&mut peer), [told.as_slice(), &[line]].concat());
    }
    let mut peer = given_up();
    assert_eq!(codes(&peer.say("HELO c")), ["250"]);
    assert_eq!(heard(&mut peer), ["OPEN", OURS, TOLD, "HELO c"]);
    let mut peer = given_up();
    assert_eq!(codes(&peer.say("EHLO c")), ["250"]);
    assert_eq!(heard(&mut peer), ["OPEN", "EHLO c", TOLD, "EHLO c"]);
    // EHLO put off there, the client goes by what it said before.
    let mut peer = given_up();
    tell(&mut peer, &[("EHLO", 451)], &[]);
    assert_eq!(codes(&peer.say("EHLO c")), ["451"]);
    assert_eq!(codes(&peer.say("MAIL FROM:<>")), ["451"]);
    assert_eq!(heard(&mut peer), ["OPEN", "EHLO c", OURS, OURS]);
    tell(&mut peer, &[], &[]);
    assert_eq!(codes(&peer.say("MAIL FROM:<>")), ["250"]);
    assert_eq!(heard(&mut peer), [OURS, TOLD, "EHLO client.example", "MAIL FROM:<>"]);
}

/// A hello in the middle of a text ends the connection; put off on the next one, what follows is no message there.
#[test]
fn a_text_goes_nowhere_but_where_it_began() {
    let mut peer = relayed(&[]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    assert_eq!(codes(&peer.send(b"BDAT 3\r\na\r\n")), ["250"]);
    tell(&mut peer, &[("EHLO", 451)], &[]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["451"]);
    assert_eq!(codes(&peer.send(b"BDAT 3 LAST\r\nb\r\n")), ["421"]);
    assert!(peer.is_closed() && peer.back_end.taken.is_empty());
    heard(&mut peer);
}

#[test]
fn a_greeting_that_is_none_ends_the_session() {
    for code in [250, 354] {
        let mut peer = relayed(&[("OPEN", code)]);
        assert!(peer.is_closed(), "{code}");
        assert_eq!(heard(&mut peer), ["OPEN"]);
    }
}

fn in_front(prepare: impl FnOnce(&mut Peer)) -> Peer {
    let (chain, faults) = built(PROXY);
    assert_eq!(faults, [""; 0]);
    let change = |limits: &mut Limits| {
        (limits.starttls, limits.xclient) = (true, true);
        limits.maximum_errors = 50;
    };
    Peer::prepared(chain, change, prepare)
}

/// TLS begins the session here anew, and the back end hears nothing of it.
#[test]
fn starttls_introduces_nobody() {
    const INSIDE: &str = "EHLO tls.example.com";
    let mut peer = in_front(|_| {});
    assert_eq!(codes(&peer.say("STARTTLS")), ["220"]);
    assert_eq!(heard(&mut peer), ["OPEN"]);
    assert_eq!(codes(&peer.say("HELO c")), ["250"]);
    assert_eq!(heard(&mut peer), [INSIDE, TOLD, "HELO c"]);
    let mut peer = in_front(|_| {});
    tell(&mut peer, &[("EHLO", 451)], &[]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["451"]);
    assert_eq!(codes(&peer.say("STARTTLS")), ["220"]);
    assert_eq!(codes(&peer.say("NOOP")), ["451"]);
    tell(&mut peer, &[], &[]);
    heard(&mut peer);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    assert_eq!(heard(&mut peer), ["EHLO client.example", TOLD, "EHLO client.example"]);
    // The same connection of the same client.
    let mut peer = in_front(|_| {});
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    heard(&mut peer);
    assert_eq!(codes(&peer.say("STARTTLS")), ["220"]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    assert_eq!(heard(&mut peer), ["EHLO client.example"]);
}

/// The back end knows another client for each that a server in front speaks for, and for what was said before TLS.
#[test]
fn who_came_by_xclient_is_who_the_back_end_is_told_of() {
    const FIRST: &str = "XCLIENT NAME=[UNAVAILABLE] ADDR=198.51.100.9";
    const SECOND: &str = "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::1";
    let mut peer = in_front(|peer| peer.conversation.may_introduce());
    assert_eq!(codes(&peer.say("EHLO front.example")), ["250"]);
    heard(&mut peer);
    assert_eq!(codes(&peer.say("XCLIENT ADDR=198.51.100.9")), ["220"]);
    assert_eq!(codes(&peer.say("NOOP")), ["250"]);
    assert_eq!(heard(&mut peer), ["OPEN", OURS, FIRST, "NOOP"]);
    assert_eq!(codes(&peer.say("XCLIENT ADDR=IPV6:2001:db8::1")), ["220"]);
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    assert_eq!(
        heard(&mut peer),
        ["OPEN", "EHLO client.example", SECOND, "EHLO client.example"]
    );
    peer.begin(&["user"]);
    heard(&mut peer);
    assert_eq!(codes(&peer.say("STARTTLS")), ["220"]);
    assert_eq!(codes(&peer.say("EHLO front.example")), ["250"]);
    assert_eq!(
        heard(&mut peer),
        ["OPEN", "EHLO front.example", TOLD, "EHLO front.example"]
    );
}

#[test]
fn who_came_by_a_proxy_is_who_the_back_end_is_told_of() {
    use crate::smtp::proxy_header::{Version, parse, write};
    let wire = write(
        Version::V2,
        "198.51.100.1:7".parse().unwrap(),
        "192.0.2.25:25".parse().unwrap(),
    );
    let header = parse(&wire).unwrap().unwrap().0;
    let mut peer = in_front(|peer| peer.conversation.proxied(header));
    const TOLD: &str = "XCLIENT NAME=[UNAVAILABLE] ADDR=198.51.100.1";
    assert_eq!(codes(&peer.say("EHLO client.example")), ["250"]);
    let expected = ["OPEN", "EHLO client.example", TOLD, "EHLO client.example"];
    assert_eq!(heard(&mut peer), expected);
}

/// What the entry that opened the connection wants counts for all that is said there.
#[test]
fn nobody_is_introduced_where_that_is_not_wanted() {
    let without = "{handler: proxy, with: {xclient: no}}";
    let mut peer = relayed_by(&format!("__DEFAULT__:\n  - {without}\n"), &[]);
    for line in ["NOOP", "EHLO client.example", "MAIL FROM:<>"] {
        assert_eq!(codes(&peer.say(line)), ["250"]);
    }
    let expected = ["OPEN", "NOOP", "EHLO client.example", "MAIL FROM:<>"];
    assert_eq!(peer.back_end.said, expected);
    let mut peer = relayed_by(&format!("NOOP:\n  - {without}\n{PROXY}"), &[]);
    assert_eq!(codes(&peer.say("NOOP")), ["250"]);
    assert_eq!(heard(&mut peer), ["OPEN", OURS, TOLD, "NOOP"]);
}
