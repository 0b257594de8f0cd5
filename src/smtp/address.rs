//! Mailboxes and paths (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3).
//!
//! May assume nothing of the text. Never accepts what only a header may hold: comments,
//! folding, obsolete forms.

use super::command::Oddity;
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
        if !local_part
            .chars()
            .all(|c| matches!(c, ' '..='~') || is_utf8_text(c))
        {
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

impl Domain {
    /// Whether both are the same domain, ASCII case aside.
    pub fn matches(&self, other: &Domain) -> bool {
        match (self, other) {
            (Domain::Name(a), Domain::Name(b)) => a.eq_ignore_ascii_case(b),
            _ => self == other,
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
        Some(_) => rest
            .strip_prefix('>')
            .ok_or(AddressFault("no closing bracket"))?,
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
        text = rest
            .strip_prefix(',')
            .ok_or(AddressFault("bad source route"))?;
    }
    Err(AddressFault("bad source route"))
}

/// A mailbox at the beginning of the text, and the rest.
fn mailbox(text: &str) -> Result<(Mailbox, &str), AddressFault> {
    let (local_part, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted)?,
        None => {
            let end = text
                .find(|c| c != '.' && !is_atext(c))
                .unwrap_or(text.len());
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
        let (inside, rest) = literal
            .split_once(']')
            .ok_or(AddressFault("no closing bracket"))?;
        return Ok((literal_domain(inside)?, rest));
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || is_utf8_text(c);
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
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
        let ip = content.parse::<Ipv6Addr>();
        return ip
            .map(|ip| Domain::Literal(IpAddr::V6(ip)))
            .map_err(|_| AddressFault("bad IPv6 literal"));
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
