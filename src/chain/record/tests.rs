//! Records in both forms, out of whole dialogues.

use super::*;
use crate::chain::conversation::tests::Peer;

fn chain(entry: &str) -> String {
    let list = |handler: &str| format!("[{{handler: {handler}}}, {entry}]");
    let mut text = String::new();
    for (verb, handler) in [
        ("__OPEN__", "greeting"),
        ("EHLO", "hello"),
        ("MAIL", "mail"),
        ("RCPT", "recipient"),
        ("DATA", "data"),
        ("__DATA__", "delivery"),
        ("QUIT", "quit"),
        ("__DEFAULT__", "unknown_command"),
    ] {
        text.push_str(&format!("{verb}: {}\n", list(handler)));
    }
    text
}

fn dialogue(entry: &str) -> Peer {
    let mut peer = Peer::only(&chain(entry), &[]);
    peer.say("EHLO client.example");
    peer.say("mail  FROM:<a@client.example>");
    peer.say("RCPT TO:<user@example.com>");
    peer.say("DATA");
    peer.send(b"Subject: x\r\n\r\n..gr\xfc\xdfe\r\n.\r\nBURN \xff\r\n");
    peer
}

#[test]
fn the_classic_form_is_the_original_s() {
    let mut peer = dialogue("{handler: transaction_log, with: {log_path: /l}}");
    peer.say("QUIT");
    let (names, _) = peer.records();
    assert_eq!(names.len(), 1);
    assert!(
        names[0].starts_with("/l/202311") && names[0].ends_with("-192.0.2.7-6f1c.log"),
        "{names:?}"
    );
    let octets = peer.records.octets();
    let time = "2023-11-14T22:13:21.000000";
    let begin = format!(
        "> 2023-11-14T22:13:20.000000 [buffer: empty] __OPEN__\r\n< {}> {time} [buffer: empty] EHLO client.example\r\n< 250-",
        peer.opened()
    );
    assert!(
        octets.starts_with(begin.as_bytes()),
        "{}",
        String::from_utf8_lossy(&octets)
    );
    let middle = format!(
        "> {time} [buffer: empty] mail FROM:<a@client.example>\r\n< 250 2.1.0 sender OK\r\n\
         > {time} [buffer: empty] RCPT TO:<user@example.com>\r\n< 250 2.1.5 recipient OK\r\n\
         > {time} [buffer: empty] DATA\r\n< 354 end data with <CR><LF>.<CR><LF>\r\nSubject: x\r\n\r\n"
    );
    let end = format!(
        "\r\n\r\n< 2023-11-14T22:13:22.000000 End of DATA\r\n< 250 2.0.0 6f1c-1 accepted\r\n\
         > {time} [buffer: empty] BURN \u{0}\r\n< 500 5.5.1"
    );
    let mut expected = middle.into_bytes();
    expected.extend(b"..gr\xfc\xdfe");
    expected.extend(
        end.as_bytes()
            .iter()
            .map(|octet| if *octet == 0 { 0xff } else { *octet }),
    );
    let found = octets.windows(expected.len()).any(|window| window == expected);
    assert!(found, "{}", String::from_utf8_lossy(&octets));
}

#[test]
fn classic_texts_are_as_the_client_sent_them_and_delivery_gets_the_message() {
    let mut peer = Peer::only(&chain("{handler: transaction_log, with: {log_path: /l}}"), &[]);
    peer.say("EHLO client.example");
    for (sent, message) in [
        (
            &b"..a\r\n.b\r\nc\nd\re\r\n...\r\n"[..],
            &b".a\r\nb\r\nc\r\nd e\r\n..\r\n"[..],
        ),
        (b"\n.\r\nx\r\n", b"\r\n.\r\nx\r\n"),
        (b"..\r\n", b".\r\n"),
    ] {
        peer.begin(&["user"]);
        peer.say("DATA");
        // An octet at a time: what is held back in between is not lost.
        let mut reply = String::new();
        for octet in [sent, b".\r\n"].concat() {
            reply += &peer.send(&[octet]);
        }
        assert!(reply.starts_with("250 "), "{reply}");
        let octets = peer.records.octets();
        let wanted = [b"<CR><LF>.<CR><LF>\r\n", sent, b"\r\n< "].concat();
        let shown = String::from_utf8_lossy(&octets);
        assert!(octets.windows(wanted.len()).any(|window| window == wanted), "{shown:?}");
        assert_eq!(peer.text(peer.messages() - 1).as_bytes(), message);
    }
    let mut peer = Peer::only(&chain("{handler: transaction_log, with: {log_path: /l}}"), &[]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    peer.send(b"BDAT 8\r\n.a\r\n.\r\n\rBDAT 3 LAST\r\n\n\n.");
    let octets = peer.records.octets();
    let shown = String::from_utf8_lossy(&octets);
    assert!(shown.contains("BDAT 8\r\n.a\r\n.\r\n\r"), "{shown:?}");
    assert!(shown.contains("BDAT 3 LAST\r\n\n\n."), "{shown:?}");
}

/// The octets of the JSON string that begins behind its quotation mark: of UTF-8 text, or of base64.
fn unquoted(value: &str, is_base64: bool) -> Vec<u8> {
    let end = value
        .match_indices('"')
        .find(|(at, _)| value[..*at].bytes().rev().take_while(|octet| *octet == b'\\').count() % 2 == 0)
        .unwrap()
        .0;
    let value = &value[..end];
    if is_base64 {
        let digit = |c: u8| match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("{value}"),
        };
        let digits: Vec<u8> = value.trim_end_matches('=').bytes().map(digit).collect();
        let group = |group: &[u8]| {
            let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
            let octets = (bits << (6 * (4 - group.len()))).to_be_bytes();
            octets[1..group.len()].to_vec()
        };
        return digits.chunks(4).flat_map(group).collect();
    }
    let (mut units, mut rest) = (Vec::new(), value.chars());
    while let Some(c) = rest.next() {
        if c != '\\' {
            units.push(c as u16);
            continue;
        }
        units.push(match rest.next().unwrap() {
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => u16::from_str_radix(&rest.by_ref().take(4).collect::<String>(), 16).unwrap(),
            other => other as u16,
        });
    }
    String::from_utf16(&units).unwrap().into_bytes()
}

/// The text in the records of one transaction, put together by their offsets.
fn recorded(text: &str, transaction: u32) -> Vec<u8> {
    let mut all = Vec::new();
    let of_it = format!(",\"tx\":{transaction},\"offset\":");
    for line in text.lines().filter(|line| line.contains("\"event\":\"data\"")) {
        let Some((_, rest)) = line.split_once(&of_it) else {
            continue;
        };
        let (offset, rest) = rest.split_once(",\"text").unwrap();
        assert_eq!(offset.parse(), Ok(all.len()), "{line}");
        let octets = match rest.strip_prefix("_base64\":\"") {
            Some(value) => unquoted(value, true),
            None => unquoted(rest.strip_prefix("\":\"").unwrap(), false),
        };
        assert!((1..=TEXT).contains(&octets.len()), "{}", octets.len());
        all.extend(octets);
    }
    all
}

#[test]
fn jsonl_texts_are_as_the_client_sent_them() {
    let entry = "{handler: transaction_log, with: {log_path: /l, format: jsonl}}";
    let texts: [&[u8]; 3] = [
        b"Subject: gr\xfc\xdfe\r\n\r\n..a\r\n.b\r\nc\nd\re\r\n\"\\\t\0\r\n...\r\n",
        "\n.\r\nx \u{fc} \u{1f4e7}\r\n".as_bytes(),
        b"..\r\n",
    ];
    for size in [1, 2, 7, 1000] {
        let mut peer = Peer::only(&chain(entry), &[]);
        peer.say("EHLO client.example");
        for (sent, number) in texts.iter().zip(1..) {
            peer.begin(&["user"]);
            peer.say("DATA");
            let mut reply = String::new();
            for part in [*sent, b".\r\n"].concat().chunks(size) {
                reply += &peer.send(part);
            }
            assert!(reply.starts_with("250 "), "{reply}");
            let (_, text) = peer.records();
            let shown = format!("{size}: {text}");
            assert_eq!(recorded(&text, number), *sent, "{shown}");
        }
    }
    // Chunks as well, one behind the other.
    let mut peer = Peer::only(&chain(entry), &[]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    peer.send(b"BDAT 8\r\n.a\r\n.\r\n\rBDAT 4 LAST\r\n\n\n.\xff");
    assert_eq!(recorded(&peer.records().1, 1), b".a\r\n.\r\n\r\n\n.\xff");
}

#[test]
fn what_is_too_big_is_not_recorded_without_end() {
    let entry = "{handler: transaction_log, with: {log_path: /l, format: jsonl}}";
    let mut peer = Peer::only(&chain(entry), &[]);
    peer.say("EHLO client.example");
    peer.begin(&["user"]);
    peer.say("DATA");
    let line = b"..345678\r\n";
    for _ in 0..1000 {
        peer.send(line);
    }
    assert!(peer.send(b".\r\n").starts_with("552 "));
    let kept = recorded(&peer.records().1, 1);
    // The limit is of the message's octets, of which each of these lines has one less than was sent.
    assert!((1000..=1200).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept, line.repeat(1000)[..kept.len()]);
}

#[test]
fn every_line_of_jsonl_is_an_object_with_raw_octets() {
    let mut peer = dialogue("{handler: transaction_log, with: {log_path: /l, format: jsonl}}");
    peer.say("QUIT");
    peer.close("closed");
    let (names, text) = peer.records();
    assert_eq!(names, ["/l/transaction_log.jsonl"]);
    assert!(text.is_ascii());
    // JSON is YAML, and the reader of YAML is at hand.
    for line in text.lines() {
        crate::config::Part::parse("line", line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
    }
    for part in [
        r#"{"time":"2023-11-14T22:13:20.000000Z","event":"open","session":"6f1c","peer":"192.0.2.7:4711","local":"#,
        r#""verb":"MAIL","line":"mail  FROM:<a@client.example>","ending":"crlf","buffer":"empty","odd":["extra_spaces","lower_case_verb"]}"#,
        r#""verb":"MAIL","code":250,"status":"2.1.0","lines":["sender OK"],"findings":[{"by":"mail","verdict":"accept","#,
        r#""event":"data","session":"6f1c","peer":"192.0.2.7:4711","tx":1,"offset":0,"text"#,
        r#""_base64":"#.trim_start_matches('"'),
        r#""event":"end_of_data","session":"6f1c","peer":"192.0.2.7:4711","tx":1,"octets":22,"#,
        r#""line_base64":"QlVSTiD/""#,
        r#""event":"close","session":"6f1c","peer":"192.0.2.7:4711","reason":"quit","commands":6,"messages":1,"#,
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

/// A server with STARTTLS that records by this handler in JSON.
fn secured(handler: &str) -> Peer {
    let entry = format!("{{handler: {handler}, with: {{log_path: /l, format: jsonl}}}}");
    let chain = chain(&entry);
    Peer::offering_tls(&format!("{chain}STARTTLS: [{{handler: starttls}}, {entry}]\n"))
}

#[test]
fn tls_is_recorded_once_whole_and_then_with_every_event() {
    let mut peer = secured("transaction_log");
    peer.say("EHLO client.example");
    assert!(peer.say("STARTTLS").starts_with("220 "));
    peer.say("EHLO client.example");
    let (_, text) = peer.records();
    let lines: Vec<&str> = text.lines().collect();
    let facts = r#""tls":{"version":"TLSv1.3","cipher":"TLS_AES_128_GCM_SHA256","sni":"tls.example.com"}"#;
    let (before, after): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| !line.contains(facts));
    let begins = |line: &&str, event: &str| line.contains(&format!("\"event\":\"{event}\""));
    assert!(before.len() == 6 && begins(&before[0], "open"), "{text}");
    assert!(after.len() == 3 && begins(&after[0], "tls"), "{text}");
    assert!(after[0].ends_with(r#","group":"x25519","server_name":"tls.example.com","hello_base64":"FgMB/w=="}"#));
    // Replies alone say less, but under which TLS they were given.
    let mut peer = secured("response_log");
    peer.say("STARTTLS");
    peer.say("EHLO client.example");
    let (_, text) = peer.records();
    assert!(
        !text.contains("hello_base64") && text.matches(facts).count() == 1,
        "{text}"
    );
}

#[test]
fn a_failed_handshake_is_recorded_with_alert_and_hello() {
    let mut peer = secured("command_log");
    peer.fail_handshake(crate::session::TlsFailure {
        error: "no \"cipher\" in common".into(),
        alert: "sent HandshakeFailure".into(),
        sni: None,
        hello: b"\x16\x03\x01\xff".to_vec(),
    });
    peer.close("tls-failed");
    let (_, text) = peer.records();
    for part in [
        r#""event":"tls_failed","session":"6f1c","peer":"192.0.2.7:4711","alert":"sent HandshakeFailure","error":"#,
        r#""error":"no \"cipher\" in common","sni":null,"hello_base64":"FgMB/w=="}"#,
        r#""event":"close","session":"6f1c","peer":"192.0.2.7:4711","reason":"tls-failed""#,
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("\"tls\":"), "{text}");
}

#[test]
fn null_writes_nothing_and_losses_matter_only_where_they_are_required() {
    let peer = dialogue("{handler: transaction_log, with: {log_path: null, required: yes}}");
    assert_eq!(peer.records().0, [""; 0]);
    for (required, code) in [("no", "250 2.1.0"), ("yes", "451 4.3.0")] {
        let entry = format!("{{handler: response_log, with: {{log_path: /l, required: {required}}}}}");
        let mut peer = Peer::only(&chain(&entry), &[]);
        peer.records.broken = true;
        assert!(peer.say("EHLO client.example").starts_with("250-"));
        let reply = peer.say("MAIL FROM:<>");
        assert!(reply.starts_with(code), "{reply}");
        peer.records.broken = false;
        peer.say("RSET");
        assert!(
            peer.say("MAIL FROM:<>")
                .starts_with(if required == "no" { "503" } else { "250" })
        );
    }
}

#[test]
fn what_writes_nothing_is_noted_where_it_is_said() {
    use crate::config::{ChainFile, Part};
    let notes = |chain: &str, file: Option<&str>| {
        let mut faults = Vec::new();
        let chain_file =
            ChainFile::parse("c.yaml", chain, &crate::chain::registry::names(), &mut faults).expect("YAML");
        let file = file.map(|text| Part::parse("transaction_log.yaml", text).expect("YAML"));
        let files = file.into_iter().map(|part| ("transaction_log", part)).collect();
        let chain = crate::chain::Chain::build(
            &chain_file,
            &files,
            &crate::chain::conversation::tests::directory(),
            &mut faults,
        );
        assert_eq!(faults, []);
        let notes = chain.notes(&chain_file);
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let nothing = "transaction_log writes nothing: expected the directory for its records in log_path, found none";
    let plain = "QUIT:\n  - handler: transaction_log\nRSET:\n  - handler: transaction_log\n";
    assert_eq!(notes(plain, None), [""; 0]);
    for text in ["log_path: null", "log_path:", "log_path: ''"] {
        let found = notes(plain, Some(text));
        assert!(
            found.len() == 1
                && found[0].starts_with("transaction_log.yaml:1:")
                && found[0].ends_with(&format!(": log_path: {nothing}")),
            "{text}: {found:?}"
        );
    }
    let with = "QUIT:\n  - {handler: transaction_log, with: {log_path: ~}}\n";
    assert_eq!(
        notes(with, Some("log_path: /l")),
        [format!("c.yaml:2:49: QUIT[0].with.log_path: {nothing}")]
    );
    assert_eq!(notes(&with.replace("~", "/l"), Some("log_path: ~")), [""; 0]);
    assert_eq!(
        notes(&with.replace("log_path: ~}", "log_path: ~}, mode: off"), None),
        [""; 0]
    );
    // In the original it was so without being said.
    let original = "QUIT:\n  - module: rsmtpd.handlers.transaction_log\n    class: TransactionLog\n";
    let twice = format!("{original}{}", original.replace("QUIT", "RSET"));
    assert_eq!(notes(&twice, None), [format!("c.yaml:2:5: QUIT[0]: {nothing}")]);
    assert_eq!(notes(&twice, Some("log_path: /l")), [""; 0]);
}

#[test]
fn what_is_lost_in_a_message_defers_it_where_it_is_required() {
    let mut peer = Peer::only(&chain("{handler: command_log, with: {required: yes}}"), &[]);
    for line in ["EHLO client.example", "MAIL FROM:<>", "RCPT TO:<user@example.com>"] {
        assert!(peer.say(line).starts_with("250"), "{line}");
    }
    assert!(peer.say("DATA").starts_with("354"));
    peer.records.broken = true;
    let reply = peer.send(b"x\r\n.\r\n");
    assert!(reply.starts_with("451 "), "{reply}");
    assert_eq!(peer.messages(), 0);
}

#[test]
fn pieces_of_a_long_record_belong_together() {
    #[derive(Default)]
    struct Pieces(Vec<(usize, bool)>);
    impl Records for Pieces {
        fn write(&mut self, record: Record) -> Result<(), crate::chain::RecordError> {
            self.0.push((record.octets.len(), record.more));
            Ok(())
        }
        fn sync(&mut self) -> Result<(), crate::chain::RecordError> {
            Ok(())
        }
        fn now(&self) -> i64 {
            0
        }
    }
    let target = Target {
        directory: "/l".into(),
        file: "x".into(),
        limit: 1,
    };
    let mut pieces = Pieces::default();
    target.append(&vec![b'x'; 2 * PIECE + 1], &mut pieces);
    assert_eq!(pieces.0, [(PIECE, true), (PIECE, true), (1, false)]);
}

#[test]
fn the_tls_of_a_back_end_is_recorded_while_there_is_one() {
    let entry = "{handler: transaction_log, with: {log_path: /l, format: jsonl}}";
    let mut peer = Peer::only(&format!("__DEFAULT__: [{{handler: proxy}}, {entry}]\n"), &[]);
    peer.protect_back_end(crate::chain::BackEndTls {
        version: "TLSv1.2",
        cipher: "TLS_X".into(),
        group: None,
        verified: "pin",
    });
    peer.say("NOOP");
    let (_, text) = peer.records();
    let facts = r#","back_end_tls":{"version":"TLSv1.2","cipher":"TLS_X","group":null,"verified":"pin"},"#;
    let with: Vec<&str> = text.lines().filter(|line| line.contains(facts)).collect();
    assert!(
        with.len() == 2 && with.iter().all(|line| line.contains("NOOP")),
        "{text}"
    );
    assert!(text.lines().filter(|line| line.contains("back_end_tls")).count() == 2);
}
