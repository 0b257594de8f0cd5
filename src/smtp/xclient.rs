//! XCLIENT, by which a server in front says whom it speaks for, as Postfix defines it in XCLIENT_README: reads its argument,
//! and writes it for a server behind.
//!
//! Values are xtext (RFC 3461 §4). What is taken has no control characters, and is short.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::command::Fault;
use super::status::Status;

/// The line of the reply to EHLO that offers it.
pub const KEYWORD: &str = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

/// Octets of a decoded value at most: what a domain name may have (RFC 5321 §4.5.3.1.2).
const LONGEST: usize = 255;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<T> {
    /// It is known.
    Known(T),
    /// There is none, or it is not known.
    Unavailable,
    /// It may be known later.
    Unknown,
}

impl<T> Value<T> {
    /// The value, where it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Value::Known(value) => Some(value),
            Value::Unavailable | Value::Unknown => None,
        }
    }
}

/// What was said of a client; an attribute that was not named is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// NAME: its name by the DNS, confirmed.
    pub name: Option<Value<String>>,
    /// ADDR: its address.
    pub address: Option<Value<IpAddr>>,
    /// PORT: its port.
    pub port: Option<Value<u16>>,
    /// PROTO: whether it speaks ESMTP rather than SMTP.
    pub is_extended: Option<bool>,
    /// HELO: what it called itself.
    pub helo: Option<Value<String>>,
    /// LOGIN: whom it has authenticated as.
    pub login: Option<Value<String>>,
    /// DESTADDR: the address that it connected to.
    pub destination: Option<Value<IpAddr>>,
    /// DESTPORT: the port that it connected to.
    pub destination_port: Option<Value<u16>>,
}

/// Reads `NAME=value …`, at least one of them and none twice.
///
/// # Errors
/// 501 5.5.4.
pub fn parse(argument: &[u8]) -> Result<Attributes, Fault> {
    let mut attributes = Attributes::default();
    let mut words = argument
        .split(|octet| matches!(octet, b' ' | b'\t'))
        .filter(|word| !word.is_empty())
        .peekable();
    if words.peek().is_none() {
        return Err(Fault::new(
            501,
            Status::INVALID_ARGUMENTS,
            "Syntax: XCLIENT attribute=value...",
        ));
    }
    for word in words {
        attributes.read(word)?;
    }
    Ok(attributes)
}

fn bad(text: &'static str) -> Fault {
    Fault::new(501, Status::INVALID_ARGUMENTS, text)
}

impl Attributes {
    fn read(&mut self, word: &[u8]) -> Result<(), Fault> {
        let at = word.iter().position(|octet| *octet == b'=');
        let (name, value) = at
            .and_then(|at| word.split_at_checked(at))
            .ok_or(bad("Attribute without a value"))?;
        let value = decode(value.get(1..).unwrap_or_default()).ok_or(bad("Bad attribute value"))?;
        match name.to_ascii_uppercase().as_slice() {
            b"NAME" => put(&mut self.name, read(&value, host_name)?),
            b"ADDR" => put(&mut self.address, read(&value, address)?),
            b"PORT" => put(&mut self.port, read(&value, port)?),
            b"PROTO" => put(&mut self.is_extended, protocol(&value)?),
            b"HELO" => put(&mut self.helo, read(&value, text)?),
            b"LOGIN" => put(&mut self.login, read(&value, text)?),
            b"DESTADDR" => put(&mut self.destination, read(&value, address)?),
            b"DESTPORT" => put(&mut self.destination_port, read(&value, port)?),
            _ => Err(bad("Unknown attribute")),
        }
    }

    /// Takes what was said later. A second address is that of another client, of whom nothing is known yet.
    pub fn update(&mut self, later: Attributes) {
        if self.address.is_some() && later.address.is_some() {
            *self = later;
            return;
        }
        fn take<T>(place: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *place = later;
            }
        }
        take(&mut self.name, later.name);
        take(&mut self.address, later.address);
        take(&mut self.port, later.port);
        take(&mut self.is_extended, later.is_extended);
        take(&mut self.helo, later.helo);
        take(&mut self.login, later.login);
        take(&mut self.destination, later.destination);
        take(&mut self.destination_port, later.destination_port);
    }
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad("Attribute named twice")),
    }
}

/// xtext without its escapes; none where it is none, is too long or is no UTF-8.
fn decode(mut encoded: &[u8]) -> Option<String> {
    let digit = |octet: u8| {
        char::from(octet)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut octets = Vec::new();
    while let [first, rest @ ..] = encoded {
        let (octet, rest) = match (first, rest) {
            (b'+', [high, low, rest @ ..]) => (digit(*high)? << 4 | digit(*low)?, rest),
            (b'+' | b'=', _) => return None,
            (b'!'..=b'~', rest) => (*first, rest),
            _ => return None,
        };
        octets.push(octet);
        encoded = rest;
    }
    let is_short = (1..=LONGEST).contains(&octets.len());
    String::from_utf8(octets).ok().filter(|_| is_short)
}

fn read<T>(value: &str, with: impl FnOnce(&str) -> Option<T>) -> Result<Value<T>, Fault> {
    if value.eq_ignore_ascii_case("[UNAVAILABLE]") {
        Ok(Value::Unavailable)
    } else if value.eq_ignore_ascii_case("[TEMPUNAVAIL]") {
        Ok(Value::Unknown)
    } else {
        with(value).map(Value::Known).ok_or(bad("Bad attribute value"))
    }
}

fn host_name(value: &str) -> Option<String> {
    let octet = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    value.bytes().all(octet).then(|| value.to_owned())
}

fn text(value: &str) -> Option<String> {
    (!value.contains(char::is_control)).then(|| value.to_owned())
}

fn address(value: &str) -> Option<IpAddr> {
    let (tag, rest) = value.split_at_checked(5).unwrap_or_default();
    if tag.eq_ignore_ascii_case("IPV6:") {
        rest.parse().ok().map(|ip: Ipv6Addr| IpAddr::V6(ip).to_canonical())
    } else {
        value.parse().ok().map(|ip: Ipv4Addr| ip.into())
    }
}

fn port(value: &str) -> Option<u16> {
    let plain = value.bytes().all(|octet| octet.is_ascii_digit());
    value.parse().ok().filter(|_| plain)
}

fn protocol(value: &str) -> Result<bool, Fault> {
    match value.to_ascii_uppercase().as_str() {
        "ESMTP" => Ok(true),
        "SMTP" => Ok(false),
        _ => Err(bad("PROTO is SMTP or ESMTP")),
    }
}

/// The line that says that a client is `from` and has connected to `to`, to a server that takes the attributes `taken`,
/// in capitals.
pub fn write(from: SocketAddr, to: SocketAddr, taken: &[String]) -> String {
    let address = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V6(ip) => format!("IPV6:{ip}"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let values = [
        ("NAME", "[UNAVAILABLE]".to_owned()),
        ("ADDR", address(from.ip())),
        ("PORT", from.port().to_string()),
        ("DESTADDR", address(to.ip())),
        ("DESTPORT", to.port().to_string()),
    ];
    let mut line = "XCLIENT".to_owned();
    for (name, value) in values {
        if taken.iter().any(|known| known == name) {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known<T>(value: T) -> Option<Value<T>> {
        Some(Value::Known(value))
    }

    #[test]
    fn all_attributes() {
        let said = "NAME=spike.porcupine.org addr=168.100.189.2 PORT=4711 PROTO=ESMTP HELO=a+2Bb+20+C3+A4 \
            LOGIN=joe+40x  DESTADDR=IPV6:2001:db8::1 DESTPORT=25";
        let expected = Attributes {
            name: known("spike.porcupine.org".into()),
            address: known("168.100.189.2".parse().unwrap()),
            port: known(4711),
            is_extended: Some(true),
            helo: known("a+b ä".into()),
            login: known("joe@x".into()),
            destination: known("2001:db8::1".parse().unwrap()),
            destination_port: known(25),
        };
        assert_eq!(parse(said.as_bytes()), Ok(expected));
        let none = parse(b"NAME=[unavailable] ADDR=[UNAVAILABLE] PORT=[TEMPUNAVAIL] HELO=[TEMPUNAVAIL]").unwrap();
        assert_eq!(none.name, Some(Value::Unavailable));
        assert_eq!(
            (none.address, none.port),
            (Some(Value::Unavailable), Some(Value::Unknown))
        );
        assert_eq!((none.helo, none.login), (Some(Value::Unknown), None));
        let mapped = parse(b"ADDR=ipv6:::ffff:192.0.2.1").unwrap();
        assert_eq!(mapped.address, known("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn an_ipv6_client_is_told_as_one() {
        let (from, to) = ("[2001:db8::7]:4711", "[::ffff:192.0.2.1]:25");
        let taken = ["ADDR", "DESTADDR", "LOGIN"].map(str::to_owned);
        let line = write(from.parse().unwrap(), to.parse().unwrap(), &taken);
        assert_eq!(line, "XCLIENT ADDR=IPV6:2001:db8::7 DESTADDR=192.0.2.1");
    }

    #[test]
    fn what_is_501() {
        let long = format!("HELO={}", "x".repeat(256));
        for said in [
            "",
            " ",
            "NAME",
            "NAME=",
            "=x",
            "REVERSE_NAME=x",
            "NAME=a NAME=b",
            "NAME=a+20b",
            "NAME=x+0D+0AEHLO",
            "HELO=x+0A",
            "HELO=x+00",
            "HELO=x+",
            "HELO=x+2",
            "HELO=x+GG",
            "HELO=x+FF",
            "HELO=x=y",
            "HELO=\u{e4}",
            "ADDR=2001:db8::1",
            "ADDR=IPV6:192.0.2.1",
            "ADDR=192.0.2.256",
            "ADDR=host.example",
            "PORT=65536",
            "PORT=+2B1",
            "PORT=-1",
            "PROTO=SMTPS",
            "PROTO=[UNAVAILABLE]",
            &long,
        ] {
            let fault = parse(said.as_bytes()).map_err(|fault| (fault.code, fault.status));
            assert_eq!(fault, Err((501, Status::INVALID_ARGUMENTS)), "{said:?}");
        }
    }

    #[test]
    fn a_second_address_is_another_client_and_all_else_completes_one() {
        let said = |text: &str| parse(text.as_bytes()).unwrap();
        let mut all = said("HELO=a NAME=a.example");
        all.update(said("ADDR=192.0.2.1"));
        all.update(said("PORT=1 NAME=[UNAVAILABLE]"));
        assert_eq!(all, said("ADDR=192.0.2.1 NAME=[UNAVAILABLE] PORT=1 HELO=a"));
        all.update(said("ADDR=192.0.2.2"));
        assert_eq!(all, said("ADDR=192.0.2.2"));
    }

    proptest! {
        #[test]
        fn xtext_is_read_back(text in "[ -~äß€]{1,60}") {
            let encoded: String = text
                .bytes()
                .map(|octet| match octet {
                    b'+' | b'=' | b' ' | 0x7f.. => format!("+{octet:02X}"),
                    plain => char::from(plain).to_string(),
                })
                .collect();
            prop_assert_eq!(decode(encoded.as_bytes()), Some(text));
        }
    }
}
