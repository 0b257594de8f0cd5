//! Command lines into commands (RFC 5321 §4.1). Syntax only: what is allowed when is the
//! session's. Never refuses what the RFC asks to tolerate; what was odd is noted.

use super::address::{Domain, ForwardPath, ReversePath, forward_path, reverse_path};
use super::line::{CommandLine, LineEnding};
use super::params::{self, MailParameters, Parameter};
use std::fmt;

pub use super::fault::{Fault, Oddity};
pub use super::params::Advertised;
pub use super::verb::Verb;

/// What the argument of HELO or EHLO looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloKind {
    /// A domain name by its syntax.
    Name,
    /// An address literal or another tagged literal.
    Literal(Domain),
    /// Neither: noted, never a reason to refuse mail (RFC 5321 §4.1.4).
    Malformed,
}

/// The argument of HELO or EHLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloName {
    /// As sent: ASCII without control characters.
    pub text: String,
    /// What it looks like.
    pub kind: HelloKind,
}

impl HelloName {
    /// The name as sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for HelloName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a command brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// Nothing.
    None,
    /// HELO, EHLO.
    Hello(HelloName),
    /// MAIL.
    #[allow(missing_docs)]
    Mail {
        reverse_path: ReversePath,
        parameters: MailParameters,
    },
    /// RCPT. None of its parameters are offered: those listed are ignored.
    #[allow(missing_docs)]
    Rcpt {
        forward_path: ForwardPath,
        parameters: Vec<Parameter>,
    },
    /// BDAT: octets that follow, and whether they end the message.
    #[allow(missing_docs)]
    Bdat { size: u64, last: bool },
    /// Anything else, bad UTF-8 replaced.
    Text(String),
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its verb.
    pub verb: Verb,
    /// The octets after the verb, without the white space around them.
    pub argument: Vec<u8>,
    /// The argument understood, or why it is refused.
    pub parsed: Result<Arguments, Fault>,
    /// What was odd.
    pub oddities: Vec<Oddity>,
}

/// Understands a command line.
pub fn parse(line: &CommandLine, advertised: &Advertised) -> Command {
    let mut oddities = Vec::new();
    if line.ending == LineEnding::Lf {
        oddities.push(Oddity::BareLf);
    }
    let bytes = line.bytes.as_slice();
    let text = trim_start(bytes);
    if text.len() < bytes.len() {
        oddities.push(Oddity::LeadingSpace);
    }
    let trimmed = trim_end(text);
    if trimmed.len() < text.len() {
        oddities.push(Oddity::TrailingSpace);
    }
    // A bare LF, kept where it is a fault, is no part of the verb.
    let ends = |b: &u8| is_space(*b) || *b == b'\n';
    let end = trimmed.iter().position(ends).unwrap_or(trimmed.len());
    let (word, rest) = trimmed.split_at_checked(end).unwrap_or((trimmed, b""));
    let argument = trim_start(rest);
    if rest.len() > argument.len() + 1 || rest.first() == Some(&b'\t') {
        oddities.push(Oddity::ExtraSpaces);
    }
    let verb = Verb::read(word);
    note_case(word, &mut oddities);
    if !matches!(verb, Verb::Mail | Verb::Rcpt) && !bytes.is_ascii() {
        oddities.push(Oddity::EightBitWithoutSmtputf8);
    }
    let parsed = match octet_fault(line, &mut oddities) {
        Some(fault) => Err(fault),
        None => arguments(&verb, argument, advertised, &mut oddities),
    };
    Command {
        verb,
        argument: argument.to_vec(),
        parsed,
        oddities,
    }
}

fn note_case(word: &[u8], oddities: &mut Vec<Oddity>) {
    let upper = word.iter().any(u8::is_ascii_uppercase);
    let lower = word.iter().any(u8::is_ascii_lowercase);
    match (upper, lower) {
        (false, true) => oddities.push(Oddity::LowerCaseVerb),
        (true, true) => oddities.push(Oddity::MixedCaseVerb),
        _ => {}
    }
}

/// Faults of the line as such.
fn octet_fault(line: &CommandLine, oddities: &mut Vec<Oddity>) -> Option<Fault> {
    let mut fault = None;
    if line.bytes.iter().any(|b| matches!(*b, b'\r' | b'\n')) {
        fault = Some(Fault::BAD_OCTET);
        if line.bytes.contains(&b'\r') {
            oddities.push(Oddity::BareCr);
        }
    }
    if line.bytes.contains(&0) {
        fault = Some(Fault::BAD_OCTET);
        oddities.push(Oddity::Nul);
    }
    if line.too_long {
        fault = Some(Fault::LINE_TOO_LONG);
        oddities.push(Oddity::LineTooLong);
    }
    fault
}

fn arguments(
    verb: &Verb,
    argument: &[u8],
    advertised: &Advertised,
    oddities: &mut Vec<Oddity>,
) -> Result<Arguments, Fault> {
    match verb {
        Verb::Helo | Verb::Ehlo => hello(argument, oddities).map(Arguments::Hello),
        Verb::Mail => mail(argument, advertised, oddities),
        Verb::Rcpt => rcpt(argument, advertised, oddities),
        Verb::Bdat if !advertised.chunking => Err(Fault::NO_CHUNKING),
        Verb::Bdat => bdat(argument),
        Verb::Data | Verb::Rset | Verb::Quit | Verb::StartTls => match argument {
            [] => Ok(Arguments::None),
            _ => Err(Fault::arguments("No argument allowed")),
        },
        Verb::Vrfy | Verb::Expn if argument.is_empty() => Err(Fault::arguments("An argument is needed")),
        Verb::Other(_) => Err(Fault::UNKNOWN_COMMAND),
        _ if argument.is_empty() => Ok(Arguments::None),
        _ => Ok(Arguments::Text(String::from_utf8_lossy(argument).into_owned())),
    }
}

fn hello(argument: &[u8], oddities: &mut Vec<Oddity>) -> Result<HelloName, Fault> {
    let text = std::str::from_utf8(argument).unwrap_or_default();
    let printable = |b: u8| matches!(b, b' '..=b'~' | b'\t');
    if text.is_empty() || !text.bytes().all(printable) {
        return Err(Fault::arguments("A host name is needed"));
    }
    let kind = match text.parse::<Domain>() {
        Ok(Domain::Name(_)) => HelloKind::Name,
        Ok(literal) => HelloKind::Literal(literal),
        Err(_) => {
            oddities.push(Oddity::MalformedHello);
            HelloKind::Malformed
        }
    };
    Ok(HelloName {
        text: text.replace('\t', " "),
        kind,
    })
}

fn mail(argument: &[u8], advertised: &Advertised, oddities: &mut Vec<Oddity>) -> Result<Arguments, Fault> {
    let text = after_keyword(argument, b"FROM", oddities)?;
    let text = utf8(text, asks_smtputf8(text, advertised), Fault::BAD_SENDER, oddities)?;
    let (reverse_path, rest) = reverse_path(text, oddities).map_err(|_| Fault::BAD_SENDER)?;
    let parameters = params::split(after_path(rest, Fault::BAD_SENDER)?, oddities)?;
    let parameters = params::mail(&parameters, advertised, oddities)?;
    if reverse_path.is_utf8() && !parameters.smtputf8 {
        return Err(Fault::NON_ASCII_ADDRESS);
    }
    Ok(Arguments::Mail {
        reverse_path,
        parameters,
    })
}

fn rcpt(argument: &[u8], advertised: &Advertised, oddities: &mut Vec<Oddity>) -> Result<Arguments, Fault> {
    let text = after_keyword(argument, b"TO", oddities)?;
    let text = utf8(text, advertised.smtputf8, Fault::BAD_RECIPIENT, oddities)?;
    let (forward_path, rest) = forward_path(text, oddities).map_err(|_| Fault::BAD_RECIPIENT)?;
    let parameters = params::split(after_path(rest, Fault::BAD_RECIPIENT)?, oddities)?;
    params::rcpt(&parameters, advertised, oddities)?;
    Ok(Arguments::Rcpt {
        forward_path,
        parameters,
    })
}

/// What follows `FROM:` or `TO:`, spaces around the colon noted.
fn after_keyword<'a>(argument: &'a [u8], keyword: &[u8], oddities: &mut Vec<Oddity>) -> Result<&'a [u8], Fault> {
    let missing = match keyword {
        b"TO" => Fault::arguments("Syntax: RCPT TO:<address>"),
        _ => Fault::arguments("Syntax: MAIL FROM:<address>"),
    };
    let (word, rest) = argument.split_at_checked(keyword.len()).ok_or(missing)?;
    if !word.eq_ignore_ascii_case(keyword) {
        return Err(missing);
    }
    let colon = trim_start(rest);
    if colon.len() < rest.len() {
        oddities.push(Oddity::SpaceBeforeColon);
    }
    let rest = colon.strip_prefix(b":").ok_or(missing)?;
    let path = trim_start(rest);
    if path.len() < rest.len() {
        oddities.push(Oddity::SpaceAfterColon);
    }
    Ok(path)
}

fn utf8<'a>(text: &'a [u8], asked: bool, malformed: Fault, oddities: &mut Vec<Oddity>) -> Result<&'a str, Fault> {
    if !text.is_ascii() && !asked {
        oddities.push(Oddity::EightBitWithoutSmtputf8);
        return Err(Fault::NON_ASCII_ADDRESS);
    }
    std::str::from_utf8(text).map_err(|_| malformed)
}

/// Whether some word of the argument is the parameter SMTPUTF8.
fn asks_smtputf8(text: &[u8], advertised: &Advertised) -> bool {
    let asks = |word: &[u8]| word.eq_ignore_ascii_case(b"SMTPUTF8");
    advertised.smtputf8 && text.split(|b| is_space(*b)).skip(1).any(asks)
}

/// Parameters have to be apart from the path.
fn after_path(rest: &str, malformed: Fault) -> Result<&str, Fault> {
    match rest.strip_prefix([' ', '\t']) {
        Some(parameters) => Ok(parameters),
        None if rest.is_empty() => Ok(rest),
        None => Err(malformed),
    }
}

fn bdat(argument: &[u8]) -> Result<Arguments, Fault> {
    let fault = Fault::arguments("Syntax: BDAT octets [LAST]");
    let text = std::str::from_utf8(argument).map_err(|_| fault)?;
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let digits = words.next().ok_or(fault)?;
    let last = match words.next() {
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(fault),
        None => false,
    };
    if words.next().is_some() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault);
    }
    let size = digits.parse().map_err(|_| fault)?;
    Ok(Arguments::Bdat { size, last })
}

fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::params::Body;
    use super::super::verb::VERBS;
    use super::*;
    use proptest::prelude::*;

    const OFFERED: Advertised = Advertised {
        size_limit: 1000,
        smtputf8: true,
        eightbit: true,
        chunking: true,
        tolerant: false,
    };

    fn read(bytes: &[u8]) -> Command {
        let line = CommandLine {
            bytes: bytes.to_vec(),
            ending: LineEnding::CrLf,
            too_long: false,
        };
        parse(&line, &OFFERED)
    }

    fn refusal(text: &str) -> (u16, String) {
        match read(text.as_bytes()).parsed {
            Err(fault) => (fault.code, fault.status.to_string()),
            Ok(arguments) => (250, format!("{arguments:?}")),
        }
    }

    #[test]
    fn verbs_are_known_in_any_case() {
        for (verb, name) in &VERBS {
            assert_eq!(&read(name.as_bytes()).verb, verb);
            assert_eq!(read(name.to_lowercase().as_bytes()).verb.name(), *name);
        }
        assert_eq!(read(b"noop").oddities, [Oddity::LowerCaseVerb]);
        assert_eq!(read(b"Noop").oddities, [Oddity::MixedCaseVerb]);
        assert_eq!(read(b"get / HTTP/1.0").verb, Verb::Other("GET".to_owned()));
    }

    #[test]
    fn refusals_have_their_codes() {
        let cases = [
            ("", 500, "5.5.2"),
            ("BLAH", 500, "5.5.2"),
            ("EHLO", 501, "5.5.4"),
            ("HELO  ", 501, "5.5.4"),
            ("EHLO m\u{fc}nchen", 501, "5.5.4"),
            ("RSET x", 501, "5.5.4"),
            ("QUIT x", 501, "5.5.4"),
            ("DATA x", 501, "5.5.4"),
            ("STARTTLS x", 501, "5.5.4"),
            ("VRFY", 501, "5.5.4"),
            ("NOOP\0", 501, "5.5.2"),
            ("NOOP \rQUIT", 501, "5.5.2"),
            ("MAIL", 501, "5.5.4"),
            ("MAIL TO:<a@b>", 501, "5.5.4"),
            ("MAIL FROM <a@b>", 501, "5.5.4"),
            ("MAIL FROM:", 501, "5.1.7"),
            ("MAIL FROM:<a>", 501, "5.1.7"),
            ("MAIL FROM:<a@b>SIZE=1", 501, "5.1.7"),
            ("MAIL FROM:<> SIZE=1001", 552, "5.3.4"),
            ("MAIL FROM:<> SIZE=99999999999999999999", 552, "5.3.4"),
            ("MAIL FROM:<> SIZE=100000000000000000000", 501, "5.5.4"),
            ("MAIL FROM:<> SIZE", 501, "5.5.4"),
            ("MAIL FROM:<> SIZE=", 501, "5.5.4"),
            ("MAIL FROM:<> SIZE=-1", 501, "5.5.4"),
            ("MAIL FROM:<> SIZE=1 size=1", 501, "5.5.4"),
            ("MAIL FROM:<> BODY=BINARYMIME", 501, "5.5.4"),
            ("MAIL FROM:<> BODY", 501, "5.5.4"),
            ("MAIL FROM:<> SMTPUTF8=1", 501, "5.5.4"),
            ("MAIL FROM:<> RET=FULL", 555, "5.5.4"),
            ("MAIL FROM:<> =x", 501, "5.5.4"),
            ("MAIL FROM:<\u{e4}@b>", 553, "5.6.7"),
            ("MAIL FROM:<a@\u{e4}> SIZE=1", 553, "5.6.7"),
            ("RCPT TO:<>", 501, "5.1.3"),
            ("RCPT TO:<a>", 501, "5.1.3"),
            ("RCPT FROM:<a@b>", 501, "5.5.4"),
            ("RCPT TO:<a@b> NOTIFY=NEVER", 555, "5.5.4"),
            ("BDAT", 501, "5.5.4"),
            ("BDAT x", 501, "5.5.4"),
            ("BDAT +1", 501, "5.5.4"),
            ("BDAT 1 FIRST", 501, "5.5.4"),
            ("BDAT 1 LAST x", 501, "5.5.4"),
            ("BDAT 99999999999999999999", 501, "5.5.4"),
        ];
        for (text, code, status) in cases {
            assert_eq!(refusal(text), (code, status.to_owned()), "{text:?}");
        }
        assert_eq!(read(b"MAIL FROM:<\xff@b> SMTPUTF8").parsed, Err(Fault::BAD_SENDER));
    }

    #[test]
    fn what_was_not_offered_is_unknown() {
        let line = |text: &str| {
            let bytes = text.as_bytes().to_vec();
            let line = CommandLine {
                bytes,
                ending: LineEnding::Lf,
                too_long: false,
            };
            parse(&line, &Advertised::default())
        };
        for text in ["MAIL FROM:<> BODY=7BIT", "MAIL FROM:<> SMTPUTF8"] {
            assert_eq!(line(text).parsed, Err(Fault::UNKNOWN_PARAMETER), "{text}");
        }
        assert_eq!(line("RCPT TO:<\u{e4}@b>").parsed, Err(Fault::NON_ASCII_ADDRESS));
        assert_eq!(line("BDAT 1").parsed, Err(Fault::NO_CHUNKING));
        assert!(line("MAIL FROM:<> SIZE=99999999999").parsed.is_ok());
        assert_eq!(line("NOOP").oddities, [Oddity::BareLf]);
    }

    #[test]
    fn mail_and_rcpt_are_understood() {
        let command = read(b"MAIL FROM:<j\xc3\xbc@b.co> SIZE=10 BODY=8bitmime smtputf8");
        let Ok(Arguments::Mail {
            reverse_path,
            parameters,
        }) = command.parsed
        else {
            panic!("{command:?}");
        };
        assert_eq!(reverse_path.address(), "j\u{fc}@b.co");
        let body = Some(Body::EightBitMime);
        assert_eq!(
            parameters,
            MailParameters {
                size: Some(10),
                body,
                smtputf8: true
            }
        );
        assert_eq!(command.oddities, []);
        let command = read(b"RCPT TO:<a@b.co>");
        assert_eq!(command.argument, b"TO:<a@b.co>");
        assert!(matches!(command.parsed, Ok(Arguments::Rcpt { .. })));
    }

    #[test]
    fn what_is_tolerated_is_noted() {
        use Oddity::*;
        let cases: [(&str, Vec<Oddity>); 10] = [
            ("MAIL FROM: <a@b>", vec![SpaceAfterColon]),
            ("MAIL from :<a@b>", vec![SpaceBeforeColon]),
            ("MAIL FROM:a@b SIZE=1", vec![MissingBrackets]),
            ("RCPT TO:<@x:a@b>", vec![SourceRoute]),
            (" NOOP", vec![LeadingSpace]),
            ("QUIT ", vec![TrailingSpace]),
            ("NOOP  x", vec![ExtraSpaces]),
            ("MAIL FROM:<a@b>  SIZE=1", vec![ExtraSpaces]),
            ("EHLO my_host", vec![MalformedHello]),
            ("NOOP anything <goes>", vec![]),
        ];
        for (text, odd) in cases {
            let command = read(text.as_bytes());
            assert!(command.parsed.is_ok(), "{text} {command:?}");
            assert_eq!(command.oddities, odd, "{text}");
        }
        let command = read(b"MAIL FROM:<> RET=FULL ENVID=x");
        let unknown = |name: &str| UnknownParameter(name.to_owned());
        assert_eq!(command.oddities, [unknown("RET"), unknown("ENVID")]);
    }

    #[test]
    fn greetings_and_chunks_are_understood() {
        let kind = |text: &str| match read(text.as_bytes()).parsed {
            Ok(Arguments::Hello(name)) => name.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind("EHLO a.example"), HelloKind::Name);
        assert!(matches!(
            kind("HELO [192.0.2.1]"),
            HelloKind::Literal(Domain::Literal(_))
        ));
        assert_eq!(kind("EHLO two words"), HelloKind::Malformed);
        let bdat = |size, last| Ok(Arguments::Bdat { size, last });
        assert_eq!(read(b"BDAT 12").parsed, bdat(12, false));
        assert_eq!(read(b"bdat 0 last").parsed, bdat(0, true));
    }

    #[test]
    fn a_bare_line_feed_is_no_part_of_the_verb() {
        let command = read(b"NOOP\n");
        assert_eq!((command.verb, command.parsed), (Verb::Noop, Err(Fault::BAD_OCTET)));
    }

    #[test]
    fn long_lines_are_refused() {
        let bytes = b"NOOP xxx".to_vec();
        let line = CommandLine {
            bytes,
            ending: LineEnding::CrLf,
            too_long: true,
        };
        let command = parse(&line, &OFFERED);
        assert_eq!((command.verb, command.parsed), (Verb::Noop, Err(Fault::LINE_TOO_LONG)));
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            for verb in ["", "MAIL FROM:", "RCPT TO:<", "EHLO ", "BDAT ", "MAIL FROM:<> "] {
                let command = read(&[verb.as_bytes(), &bytes].concat());
                prop_assert!(!command.verb.name().contains(' '));
            }
        }
    }
}
