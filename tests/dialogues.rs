//! Plays the scripts in `dialogues/` against the real binary, each against a
//! server of its own. A line of a script is one of
//!
//! ```text
//! # a comment
//! F: worker.yaml maximum_recipients: 100   sets a key before the start
//! C: EHLO client.example     sends the text and CRLF
//! C> QUIT\r\n                sends the text alone (\r \n \t \0 \\ \xHH)
//! C* 3000 a                  sends the text so many times, alone
//! C# 100 RCPT TO:<{n}@a.b>   sends so many lines, numbered from 1
//! S: 250 2.1.0*              the next reply: its code (or `501|553`), and a
//!                            pattern (`*`) that one of its lines has to fit
//! S# 100 250                 so many replies, each with this code
//! U: 421                     skips replies until one has this code
//! S+ SIZE *                  another line of the same reply fits
//! S! STARTTLS*               no line of the same reply fits
//! quiet                      nothing arrives for a quarter of a second
//! closed                     the server has closed the connection
//! --                         hangs up and connects anew
//! M: test@example.com 2      the mailbox has exactly so many messages
//! B: text                    the newest message there has this line
//! B! text                    it has not
//! B~ Received: *             a header field, unfolded, fits the pattern
//! B^ Received: *             no header field does
//! L: event=reject *          some line of the log fits the pattern before long
//! ```

mod common;

use common::{Client, Reply, Server, Setup};
use std::fs;

const KINDS: &[&str] = &[
    "", "F:", "C:", "C>", "C*", "C#", "S:", "S#", "S+", "S!", "U:", "--", "M:", "B:", "B!", "B~", "B^", "L:", "quiet",
    "closed",
];

struct Play {
    server: Server,
    client: Client,
    reply: Option<Reply>,
    message: Vec<u8>,
}

fn play(name: &str) {
    let path = common::root().join("tests/dialogues").join(format!("{name}.txt"));
    let script = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut setup = Setup::new();
    for line in script.lines() {
        if let Some(setting) = line.strip_prefix("F: ") {
            let (file, rest) = setting.split_once(' ').expect("file key: value");
            let (key, value) = rest.split_once(": ").expect("key: value");
            setup.set(file, key, &value.replace("\\n", "\n"));
        }
    }
    let server = setup.start();
    let client = server.connect();
    let mut play = Play {
        server,
        client,
        reply: None,
        message: Vec::new(),
    };
    for (number, line) in script.lines().enumerate() {
        if let Err(why) = play.line(line) {
            panic!("{name}.txt:{}: {line}\n  {why}", number + 1);
        }
    }
}

impl Play {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let (kind, rest) = (line.get(..2).unwrap_or(line), line.get(3..).unwrap_or(""));
        match kind {
            "" | "F:" => {}
            _ if line.starts_with('#') => {}
            "C:" => self.client.send(&[unescape(rest), b"\r\n".to_vec()].concat()),
            "C>" => self.client.send(&unescape(rest)),
            "C*" => {
                let (count, text) = numbered(rest)?;
                self.client.send(&unescape(text).repeat(count));
            }
            "C#" => {
                let (count, text) = numbered(rest)?;
                for number in 1..=count {
                    let line = text.replace("{n}", &number.to_string());
                    self.client.send(&[unescape(&line), b"\r\n".to_vec()].concat());
                }
            }
            "S:" => self.expect(rest)?,
            "S#" => {
                let (count, expected) = numbered(rest)?;
                for number in 1..=count {
                    self.expect(expected).map_err(|e| format!("reply {number}: {e}"))?;
                }
            }
            "U:" => {
                while self.expect(rest).is_err() {
                    if self.reply.is_none() {
                        return Err("it never came".into());
                    }
                }
            }
            "S+" => self.fits(rest, true)?,
            "S!" => self.fits(rest, false)?,
            "--" => {
                self.client = self.server.connect();
                self.reply = None;
            }
            "M:" => self.mailbox(rest)?,
            "B:" => self.body_has(rest, true)?,
            "B!" => self.body_has(rest, false)?,
            "L:" => self.is_logged(rest)?,
            "B~" => self.header_fits(rest, true)?,
            "B^" => self.header_fits(rest, false)?,
            _ if line == "quiet" => {
                if !self.client.is_quiet() {
                    return Err(format!("got {:?}", self.client.try_reply()));
                }
            }
            _ if line == "closed" => {
                if !self.client.is_closed() {
                    return Err("the connection is open, or more was said".into());
                }
            }
            _ => return Err("not a line of a dialogue".into()),
        }
        Ok(())
    }

    fn expect(&mut self, expected: &str) -> Result<(), String> {
        self.reply = None;
        let reply = self.client.try_reply().map_err(|e| format!("no reply: {e}"))?;
        let (code, pattern) = expected.split_once(' ').unwrap_or((expected, "*"));
        let right = code.split('|').any(|c| c == reply.code.to_string());
        let status = has_right_status(&reply);
        let fits = reply.lines.iter().any(|line| matches(pattern, line));
        let shown = format!("got {} {:?}", reply.code, reply.lines);
        self.reply = Some(reply);
        match (right && fits, status) {
            (true, true) => Ok(()),
            (true, false) => Err(format!("an enhanced code of the wrong class: {shown}")),
            _ => Err(shown),
        }
    }

    fn fits(&self, pattern: &str, wanted: bool) -> Result<(), String> {
        let reply = self.reply.as_ref().ok_or("no reply yet")?;
        if reply.lines.iter().any(|line| matches(pattern, line)) == wanted {
            return Ok(());
        }
        Err(format!("got {} {:?}", reply.code, reply.lines))
    }

    fn mailbox(&mut self, rest: &str) -> Result<(), String> {
        let (address, count) = rest.split_once(' ').ok_or("M: address count")?;
        let count: usize = count.parse().map_err(|_| "no number")?;
        let mail = match count {
            0 => self.server.mail(address),
            _ => self.server.await_mail(address, count),
        };
        if mail.len() != count {
            return Err(format!("there are {}", mail.len()));
        }
        self.message = mail.into_iter().next_back().unwrap_or_default();
        Ok(())
    }

    fn is_logged(&self, pattern: &str) -> Result<(), String> {
        let fits = || self.server.said().lines().any(|line| matches(pattern, line));
        if common::wait_until(fits) {
            return Ok(());
        }
        Err(format!("the log is\n{}", self.server.said()))
    }

    fn header_fits(&self, pattern: &str, wanted: bool) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.message).replace("\r\n", "\n");
        let header = text.split("\n\n").next().unwrap_or_default();
        let unfolded = header.replace("\n\t", " ").replace("\n ", " ");
        if unfolded.lines().any(|line| matches(pattern, line)) == wanted {
            return Ok(());
        }
        Err(format!("the header is\n{header}"))
    }

    fn body_has(&self, line: &str, wanted: bool) -> Result<(), String> {
        let line = unescape(line);
        let mut lines = self.message.split(|&b| b == b'\n');
        if lines.any(|l| l.strip_suffix(b"\r").unwrap_or(l) == line) == wanted {
            return Ok(());
        }
        Err(format!("the message is\n{}", String::from_utf8_lossy(&self.message)))
    }
}

fn numbered(text: &str) -> Result<(usize, &str), String> {
    let (count, rest) = text.split_once(' ').ok_or("a number and a text")?;
    Ok((count.parse().map_err(|_| "no number")?, rest))
}

/// RFC 2034 §4: where a line begins with an enhanced code, its class is the
/// reply's.
fn has_right_status(reply: &Reply) -> bool {
    reply.lines.iter().all(|line| {
        let word = line.split(' ').next().unwrap_or_default();
        let parts: Vec<&str> = word.split('.').collect();
        let numbers = parts.iter().all(|p| !p.is_empty() && p.parse::<u16>().is_ok());
        if parts.len() != 3 || !numbers {
            return true;
        }
        reply.code != 354 && parts.first() == Some(&(reply.code / 100).to_string().as_str())
    })
}

/// `*` stands for any text, also none.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((front, rest)) => text.strip_prefix(front).is_some_and(|text| {
            (0..=text.len())
                .filter(|&at| text.is_char_boundary(at))
                .any(|at| matches(rest, text.get(at..).unwrap_or_default()))
        }),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut result = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            result.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'r') => result.push(b'\r'),
            Some(b'n') => result.push(b'\n'),
            Some(b't') => result.push(b'\t'),
            Some(b'0') => result.push(0),
            Some(b'x') => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                result.push(u8::from_str_radix(&digits, 16).expect("two hex digits"));
            }
            other => result.extend(other),
        }
    }
    result
}

macro_rules! dialogues {
    ($($name:ident)*) => {
        $(#[test] fn $name() { play(stringify!($name)); })*

        #[test]
        fn every_script_is_played_and_understood() {
            let mut found: Vec<String> = fs::read_dir(common::root().join("tests/dialogues"))
                .expect("directory")
                .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
                .collect();
            found.sort();
            let mut played = vec![$(concat!(stringify!($name), ".txt").to_owned()),*];
            played.sort();
            assert_eq!(found, played);
            for name in found {
                let path = common::root().join("tests/dialogues").join(&name);
                for line in fs::read_to_string(path).expect("script").lines() {
                    let kind = line.split(' ').next().unwrap_or_default();
                    assert!(KINDS.contains(&kind) || kind.starts_with('#'), "{name}: {line}");
                }
            }
        }
    };
}

dialogues! {
    bdat bdat_malformed bounces dots eight_bit errors hello help internationalized_domains limits
    limits_of_harmless_commands limits_of_lines limits_of_sessions line_endings line_endings_note
    line_endings_strict many_messages noop ordering parameters parameters_tolerated pipelining
    pipelining_not_offered postmaster quit recipients reject_all reject_all_closing rset size smtputf8 smuggling
    syntax trace unknown_commands vrfy
}
