//! Mailboxes and paths (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3).
//!
//! May assume nothing of the text. Never accepts what only a header may hold: comments,
//! folding, obsolete forms.

use super::fault::Oddity;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The longest domain, in octets (RFC 5321 §4.5.3.1.2).
const DOMAIN: usize = 255;
/// Longer local parts are accepted and noted (RFC 5321 §4.5.3.1.1).
const USUAL_LOCAL_PART: usize = 64;

/// Not an address of RFC 5321: what was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressFault(pub &'static str);

/// The right-hand side of a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// A domain name as sent: case kept, compare without it.
    Name(String),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
    /// Another tagged literal, `tag:content`, without its brackets.
    General(String),
}

/// A mailbox. The local part is kept unquoted: `"a"@b` and `a@b` are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    local_part: String,
    domain: Domain,
}

/// The argument of MAIL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`
    Null,
    /// A sender.
    Mailbox(Mailbox),
}

/// The argument of RCPT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain, in any case (RFC 5321 §4.5.1).
    Postmaster,
    /// A recipient.
    Mailbox(Mailbox),
}

impl Mailbox {
    /// A mailbox of an unquoted local part. Fault: octets that no quoting allows.
    pub fn new(local_part: &str, domain: Domain) -> Result<Mailbox, AddressFault> {
        if !local_part.chars().all(|c| matches!(c, ' '..='~') || is_utf8_text(c)) {
            return Err(AddressFault("control character in local part"));
        }
        Ok(Mailbox {
            local_part: local_part.to_owned(),
            domain,
        })
    }

    /// The local part, unquoted, as sent.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether it needs SMTPUTF8.
    pub fn is_utf8(&self) -> bool {
        let domain = match &self.domain {
            Domain::Name(text) | Domain::General(text) => text.is_ascii(),
            Domain::Literal(_) => true,
        };
        !(domain && self.local_part.is_ascii())
    }
}

impl FromStr for Mailbox {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Mailbox, AddressFault> {
        match mailbox(text)? {
            (mailbox, "") => Ok(mailbox),
            _ => Err(AddressFault("text after the address")),
        }
    }
}

impl FromStr for Domain {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Domain, AddressFault> {
        match domain(text)? {
            (domain, "") => Ok(domain),
            _ => Err(AddressFault("text after the domain")),
        }
    }
}

impl ReversePath {
    /// The mailbox, if any.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Without brackets; empty for the null path.
    pub fn address(&self) -> String {
        self.mailbox().map(Mailbox::to_string).unwrap_or_default()
    }

    /// Whether it needs SMTPUTF8.
    pub fn is_utf8(&self) -> bool {
        self.mailbox().is_some_and(Mailbox::is_utf8)
    }
}

impl ForwardPath {
    /// The mailbox, if it has a domain.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ForwardPath::Postmaster => None,
            ForwardPath::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Whether it needs SMTPUTF8.
    pub fn is_utf8(&self) -> bool {
        self.mailbox().is_some_and(Mailbox::is_utf8)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Name(name) => f.write_str(name),
            Domain::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Domain::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
            Domain::General(text) => write!(f, "[{text}]"),
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local_part) {
            return write!(f, "{}@{}", self.local_part, self.domain);
        }
        f.write_str("\"")?;
        for c in self.local_part.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.address())
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => f.write_str("<Postmaster>"),
            ForwardPath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// Reads a reverse path, `<>` included, and returns what follows it.
pub(super) fn reverse_path<'a>(
    text: &'a str,
    oddities: &mut Vec<Oddity>,
) -> Result<(ReversePath, &'a str), AddressFault> {
    if let Some(rest) = text.strip_prefix("<>") {
        return Ok((ReversePath::Null, rest));
    }
    let (mailbox, rest) = path(text, oddities)?;
    Ok((ReversePath::Mailbox(mailbox), rest))
}

/// Reads a forward path and returns what follows it.
pub(super) fn forward_path<'a>(
    text: &'a str,
    oddities: &mut Vec<Oddity>,
) -> Result<(ForwardPath, &'a str), AddressFault> {
    let bare = text.strip_prefix('<').unwrap_or(text);
    let end = bare.find(['>', ' ', '\t']).unwrap_or(bare.len());
    let (word, rest) = bare.split_at_checked(end).unwrap_or((bare, ""));
    if word.eq_ignore_ascii_case("postmaster") {
        if !text.starts_with('<') {
            oddities.push(Oddity::MissingBrackets);
            return Ok((ForwardPath::Postmaster, rest));
        }
        if let Some(rest) = rest.strip_prefix('>') {
            return Ok((ForwardPath::Postmaster, rest));
        }
    }
    let (mailbox, rest) = path(text, oddities)?;
    Ok((ForwardPath::Mailbox(mailbox), rest))
}

/// A path: brackets optional but noted, a source route skipped and noted.
fn path<'a>(text: &'a str, oddities: &mut Vec<Oddity>) -> Result<(Mailbox, &'a str), AddressFault> {
    let bracketed = text.strip_prefix('<');
    if bracketed.is_none() {
        oddities.push(Oddity::MissingBrackets);
    }
    let mut inner = bracketed.unwrap_or(text);
    if inner.starts_with('@') {
        inner = skip_route(inner)?;
        oddities.push(Oddity::SourceRoute);
    }
    let (mailbox, rest) = mailbox(inner)?;
    if mailbox.local_part.len() > USUAL_LOCAL_PART {
        oddities.push(Oddity::LongLocalPart);
    }
    let rest = match bracketed {
        Some(_) => rest.strip_prefix('>').ok_or(AddressFault("no closing bracket"))?,
        None => rest,
    };
    Ok((mailbox, rest))
}

/// `@a,@b:` before the mailbox (RFC 5321 appendix C).
fn skip_route(mut text: &str) -> Result<&str, AddressFault> {
    while let Some(after) = text.strip_prefix('@') {
        let (_, rest) = domain(after)?;
        if let Some(rest) = rest.strip_prefix(':') {
            return Ok(rest);
        }
        text = rest.strip_prefix(',').ok_or(AddressFault("bad source route"))?;
    }
    Err(AddressFault("bad source route"))
}

/// A mailbox at the beginning of the text, and the rest.
fn mailbox(text: &str) -> Result<(Mailbox, &str), AddressFault> {
    let (local_part, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted)?,
        None => {
            let end = text.find(|c| c != '.' && !is_atext(c)).unwrap_or(text.len());
            let (word, rest) = text.split_at_checked(end).unwrap_or((text, ""));
            if !is_dot_string(word) {
                return Err(AddressFault("bad local part"));
            }
            (word.to_owned(), rest)
        }
    };
    let rest = rest.strip_prefix('@').ok_or(AddressFault("no domain"))?;
    let (domain, rest) = domain(rest)?;
    Ok((Mailbox { local_part, domain }, rest))
}

/// What stands in a quoted string, unquoted, and what follows the closing quote.
fn quoted_string(text: &str) -> Result<(String, &str), AddressFault> {
    let mut unquoted = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next() {
            Some('"') => return Ok((unquoted, chars.as_str())),
            Some('\\') => match chars.next() {
                Some(c @ ' '..='~') => unquoted.push(c),
                _ => return Err(AddressFault("bad quoted pair")),
            },
            Some(c) if matches!(c, ' '..='~') || is_utf8_text(c) => unquoted.push(c),
            Some(_) => return Err(AddressFault("control character in local part")),
            None => return Err(AddressFault("no closing quote")),
        }
    }
}

/// A domain or an address literal at the beginning of the text, and the rest.
pub(super) fn domain(text: &str) -> Result<(Domain, &str), AddressFault> {
    if let Some(literal) = text.strip_prefix('[') {
        let (inside, rest) = literal.split_once(']').ok_or(AddressFault("no closing bracket"))?;
        return Ok((literal_domain(inside)?, rest));
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || is_utf8_text(c);
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let label = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if name.len() > DOMAIN || !name.split('.').all(label) {
        return Err(AddressFault("bad domain"));
    }
    Ok((Domain::Name(name.to_owned()), rest))
}

fn literal_domain(inside: &str) -> Result<Domain, AddressFault> {
    let Some((tag, content)) = inside.split_once(':') else {
        let ip = ipv4(inside).ok_or(AddressFault("bad address literal"))?;
        return Ok(Domain::Literal(IpAddr::V4(ip)));
    };
    if tag.eq_ignore_ascii_case("IPv6") {
        let ip = ipv6(content).ok_or(AddressFault("bad IPv6 literal"))?;
        return Ok(Domain::Literal(IpAddr::V6(ip)));
    }
    let tag_fits = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && tag.ends_with(|c: char| c.is_ascii_alphanumeric());
    let dcontent = |b: u8| matches!(b, 33..=90 | 94..=126);
    if !tag_fits || content.is_empty() || !content.bytes().all(dcontent) {
        return Err(AddressFault("bad address literal"));
    }
    Ok(Domain::General(inside.to_owned()))
}

/// Four decimal numbers; RFC 5321 allows leading zeros.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if !(1..=3).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// As usual, but `::` stands for two groups at least (RFC 5321 §4.1.3).
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let width = |group: &str| match group {
        "" => 0,
        dotted if dotted.contains('.') => 2,
        _ => 1,
    };
    let groups: usize = text.split(':').map(width).sum();
    if text.contains("::") && groups > 6 {
        return None;
    }
    text.parse().ok()
}

fn is_dot_string(text: &str) -> bool {
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_text(c)
}

/// Non-ASCII that is neither a control nor a space of another script.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::path::PathBuf;

    fn forward(text: &str) -> Result<(String, Vec<Oddity>), AddressFault> {
        let mut oddities = Vec::new();
        let (path, rest) = forward_path(text, &mut oddities)?;
        assert_eq!(rest, "", "{text}");
        Ok((path.to_string(), oddities))
    }

    #[test]
    fn paths_are_read_with_what_was_odd() {
        use Oddity::*;
        let cases: [(&str, &str, Vec<Oddity>); 11] = [
            ("<a@b.co>", "<a@b.co>", vec![]),
            ("a@b.co", "<a@b.co>", vec![MissingBrackets]),
            ("<@x.org,@[192.0.2.1]:u@c.org>", "<u@c.org>", vec![SourceRoute]),
            ("<@x:u@c>", "<u@c>", vec![SourceRoute]),
            ("<POSTmaster>", "<Postmaster>", vec![]),
            ("postmaster", "<Postmaster>", vec![MissingBrackets]),
            ("<postmaster@b.co>", "<postmaster@b.co>", vec![]),
            ("<\"a\"@B.co>", "<a@B.co>", vec![]),
            ("<\"a b\\\"c>\"@b.co>", "<\"a b\\\"c>\"@b.co>", vec![]),
            ("<a@[IPV6:2001:DB8:0:0::1]>", "<a@[IPv6:2001:db8::1]>", vec![]),
            ("<a@[x400:c=us;o=y]>", "<a@[x400:c=us;o=y]>", vec![]),
        ];
        for (text, shown, odd) in cases {
            assert_eq!(forward(text), Ok((shown.to_owned(), odd)), "{text}");
        }
        let long = format!("<{}@b.co>", "x".repeat(65));
        assert_eq!(forward(&long), Ok((long.clone(), vec![LongLocalPart])));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let wrong = [
            "",
            "<>",
            "<",
            "<a>",
            "<a@>",
            "<@b>",
            "<a@b",
            "< a@b>",
            "<a@b >",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<a@b..c>",
            "<a@-b>",
            "<a@b->",
            "<a@b_c>",
            "<a@.b>",
            "<a@b.>",
            "<@a:>",
            "<@a,b:c@d>",
            "<@a@b>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.256]>",
            "<a@[IPv6:1]>",
            "<a@[x:]>",
            "<a@[:x]>",
            "<a@[]>",
            "<a@[1.2.3.4>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<a b@c>",
            "<postmaster",
            "<a\u{1}@b>",
            "<\"\u{7f}\"@b>",
            "<a\u{a0}@b>",
        ];
        for text in wrong {
            let mut oddities = Vec::new();
            let read = forward_path(text, &mut oddities);
            assert!(read.is_err(), "{text}: {read:?}");
        }
        assert!("a@b>".parse::<Mailbox>().is_err());
    }

    #[test]
    fn local_parts_keep_their_case_and_domains_do_not_matter() {
        let one: Mailbox = "Joe@Example.ORG".parse().unwrap();
        let two: Mailbox = "\"Joe\"@example.org".parse().unwrap();
        assert_eq!(one.local_part(), two.local_part());
        assert!(!one.is_utf8());
        assert!("j\u{fc}rgen@x.org".parse::<Mailbox>().unwrap().is_utf8());
        assert!("j@m\u{fc}nchen.de".parse::<Mailbox>().unwrap().is_utf8());
    }

    /// The published cases: what SMTP allows is read, all else is refused.
    #[test]
    fn agrees_with_the_isemail_suite() {
        // On the real standard error: what a test prints is kept back while it passes.
        let skip = |why: &str| {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: smtp::address::agrees_with_the_isemail_suite: {why}"
            );
        };
        let Some(root) = std::env::var_os("RSMTPD_VECTORS") else {
            skip("RSMTPD_VECTORS does not name the directory of published vectors");
            return;
        };
        let file = PathBuf::from(root).join("addresses/isemail-tests-odd.xml");
        let Ok(text) = std::fs::read_to_string(&file) else {
            skip(&format!("no {}", file.display()));
            return;
        };
        let mut seen = 0;
        for test in text.split("<test ").skip(1) {
            let field = |name: &str| {
                let (_, rest) = test.split_once(&format!("<{name}>")).unwrap_or_default();
                rest.split_once("</").unwrap_or_default().0.to_owned()
            };
            let diagnosis = field("diagnosis");
            if diagnosis == "ISEMAIL_RFC5322_LOCAL_TOOLONG" || diagnosis == "ISEMAIL_RFC5322_TOOLONG" {
                continue; // limits that a receiver may exceed
            }
            let address = decode(&field("address"));
            let category = field("category");
            let valid = ["ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321"];
            let expected = valid.contains(&category.as_str());
            let read = address.parse::<Mailbox>();
            assert_eq!(read.is_ok(), expected, "{address:?} {category} {diagnosis} {read:?}");
            seen += 1;
        }
        assert!(seen > 60, "only {seen} cases");
    }

    /// XML references, and the pictures of control characters that the suite uses.
    fn decode(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('&') {
            let (name, after) = after.split_once(';').unwrap_or((after, ""));
            out.push_str(before);
            let hex = name.strip_prefix("#x").map(|hex| u32::from_str_radix(hex, 16));
            let decimal = name.strip_prefix('#').map(str::parse);
            out.push(match (name, hex, decimal) {
                ("lt", ..) => '<',
                ("gt", ..) => '>',
                ("quot", ..) => '"',
                ("apos", ..) => '\'',
                (_, Some(Ok(code)), _) | (_, _, Some(Ok(code))) => char::from_u32(code).unwrap(),
                _ => '&',
            });
            rest = after;
        }
        out.push_str(rest);
        let control = |c: char| match c as u32 {
            code @ 0x2400..=0x241f => char::from_u32(code - 0x2400).unwrap(),
            _ => c,
        };
        out.chars().map(control).collect()
    }

    fn domains() -> impl Strategy<Value = Domain> {
        prop_oneof![
            "[A-Za-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\\.[a-z\u{e0}-\u{ff}]{1,5}){0,3}".prop_map(Domain::Name),
            any::<[u8; 4]>().prop_map(|ip| Domain::Literal(IpAddr::from(ip))),
            any::<[u16; 8]>().prop_map(|ip| Domain::Literal(IpAddr::from(ip))),
            prop::array::uniform8(0u16..2).prop_map(|ip| Domain::Literal(IpAddr::from(ip))),
            "[a-z]{1,3}[0-9]:[!-Z^-~]{1,9}".prop_map(Domain::General),
        ]
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(
            local in prop_oneof!["[ -~]{0,20}", "[a-z.]{1,9}", "[\u{a1}-\u{17f}a\" ]{1,9}"],
            domain in domains(),
        ) {
            let mailbox = Mailbox::new(&local, domain).unwrap();
            let shown = mailbox.to_string();
            prop_assert_eq!(shown.parse::<Mailbox>(), Ok(mailbox.clone()));
            let forward = ForwardPath::Mailbox(mailbox.clone());
            let mut odd = Vec::new();
            let text = forward.to_string();
            prop_assert_eq!(forward_path(&text, &mut odd), Ok((forward, "")));
            let reverse = ReversePath::Mailbox(mailbox);
            let text = reverse.to_string();
            prop_assert_eq!(reverse_path(&text, &mut odd), Ok((reverse, "")));
        }

        #[test]
        fn what_is_read_can_be_written(text in "[a\"\\\\@.<>\\[\\]:, 1\u{e4}-]{0,16}") {
            if let Ok(mailbox) = text.parse::<Mailbox>() {
                prop_assert_eq!(mailbox.to_string().parse::<Mailbox>(), Ok(mailbox));
            }
            let _ = forward_path(&text, &mut Vec::new());
        }
    }
}
