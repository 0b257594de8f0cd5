//! The header of the PROXY protocol, versions 1 and 2, which a proxy sends before anything else to say for whom it speaks.
//!
//! Reading is a pure function of the octets so far: more of them never change what was found, or refused, in fewer. What
//! stands behind a header is not looked at.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands at the beginning of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets of a header of version 1 at most, by its definition, CRLF included.
pub const LONGEST_V1: usize = 107;
/// Octets of a header of version 2 that are taken at most. Its definition allows 65551; the addresses of the longest
/// family are 216, the rest is what a proxy has to say of TLS.
pub const LONGEST: usize = 4096;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Octets.
    V2,
}

/// Whom a proxy speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nobody: it looks whether we are there.
    Itself,
    /// A client that it cannot, or will not, name by address and port.
    Unknown,
    /// A client over TCP.
    Client {
        /// The client.
        from: SocketAddr,
        /// The address that it connected to.
        to: SocketAddr,
    },
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it was written.
    pub version: Version,
    /// For whom.
    pub subject: Subject,
    /// The further values of version 2 (TLVs), one after the other as they came.
    pub values: Vec<u8>,
}

/// Why octets are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(&'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The header at the beginning of `input`, and its length; none while more octets are needed.
///
/// # Errors
/// What stands there is no header, whatever may follow.
pub fn parse(input: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let begins = |with: &[u8]| input.iter().zip(with).all(|(found, wanted)| found == wanted);
    if begins(b"PROXY ") {
        line(input)
    } else if begins(SIGNATURE) {
        binary(input)
    } else {
        Err(Fault("expected a PROXY header, found something else"))
    }
}

/// Whether `input` begins as a header does: for connections where none is expected.
pub fn looks_like(input: &[u8]) -> bool {
    let begins: [&[u8]; 4] = [SIGNATURE, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
    begins.iter().any(|begin| input.starts_with(begin))
}

/// Version 1.
fn line(input: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let head = input.get(..LONGEST_V1).unwrap_or(input);
    let Some(end) = head.iter().position(|octet| matches!(octet, b'\r' | b'\n')) else {
        return match head.len() {
            LONGEST_V1 => Err(Fault("expected a line of at most 107 octets")),
            _ => Ok(None),
        };
    };
    let (text, ending) = head.split_at_checked(end).unwrap_or_default();
    match ending {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if head.len() < LONGEST_V1 => return Ok(None),
        _ => return Err(Fault("expected <CR><LF> at the end of the line")),
    }
    let header = Header {
        version: Version::V1,
        subject: subject(text)?,
        values: Vec::new(),
    };
    Ok(Some((header, end.saturating_add(2))))
}

/// What a line of version 1 says.
fn subject(line: &[u8]) -> Result<Subject, Fault> {
    let text = std::str::from_utf8(line).map_err(|_| Fault("expected ASCII"))?;
    let mut words = text.split(' ').skip(1);
    let is_version_4 = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(Subject::Unknown),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Fault("expected TCP4, TCP6 or UNKNOWN")),
    };
    let mut address = || {
        let text = words.next().unwrap_or_default();
        let found = if is_version_4 {
            text.parse().map(|ip: Ipv4Addr| IpAddr::V4(ip)).ok()
        } else {
            text.parse().map(|ip: Ipv6Addr| IpAddr::V6(ip)).ok()
        };
        found.ok_or(Fault("expected an address of the family named"))
    };
    let (from, to) = (address()?, address()?);
    let mut port = || {
        let text = words.next().unwrap_or_default();
        let plain = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        let found = text.parse().ok().filter(|_| plain);
        found.ok_or(Fault("expected a port from 0 to 65535"))
    };
    let (from, to) = (SocketAddr::new(from, port()?), SocketAddr::new(to, port()?));
    match words.next() {
        None => Ok(Subject::Client { from, to }),
        Some(_) => Err(Fault("expected the end of the line behind the ports")),
    }
}

/// Version 2.
fn binary(input: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let Some((_, rest)) = input.split_at_checked(SIGNATURE.len()) else {
        return Ok(None);
    };
    let Some((&command, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ if command >> 4 == 2 => return Err(Fault("expected the command LOCAL or PROXY")),
        _ => return Err(Fault("expected version 2")),
    };
    let Some((&family, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if !is_local && !matches!(family, 0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32) {
        return Err(Fault("expected a known family and transport"));
    }
    let [high, low, rest @ ..] = rest else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let whole = length.saturating_add(SIGNATURE.len() + 4);
    if whole > LONGEST {
        return Err(Fault("expected at most 4096 octets"));
    }
    let short = Fault("expected room for both addresses");
    match family {
        0x11 if !is_local && length < 12 => return Err(short),
        0x21 if !is_local && length < 36 => return Err(short),
        _ => {}
    }
    let Some(block) = rest.get(..length) else {
        return Ok(None);
    };
    let (subject, values) = match family {
        _ if is_local => (Subject::Itself, &[][..]),
        0x11 => addresses::<4>(block).ok_or(short)?,
        0x21 => addresses::<16>(block).ok_or(short)?,
        // Not a client over TCP, whatever is said of it.
        _ => (Subject::Unknown, &[][..]),
    };
    check_values(values)?;
    let header = Header {
        version: Version::V2,
        subject,
        values: values.to_vec(),
    };
    Ok(Some((header, whole)))
}

/// Both addresses of `N` octets each and their ports; what stands behind them.
fn addresses<const N: usize>(block: &[u8]) -> Option<(Subject, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = block.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let ([a, b, c, d], values) = rest.split_first_chunk::<4>()?;
    let subject = Subject::Client {
        from: SocketAddr::new(IpAddr::from(*from), u16::from_be_bytes([*a, *b])),
        to: SocketAddr::new(IpAddr::from(*to), u16::from_be_bytes([*c, *d])),
    };
    Some((subject, values))
}

/// Each value is a type, a length of two octets, and so many octets; nothing is left over.
fn check_values(mut values: &[u8]) -> Result<(), Fault> {
    while let [_, high, low, rest @ ..] = values {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        values = rest
            .get(length..)
            .ok_or(Fault("expected no value longer than the header"))?;
    }
    if values.is_empty() {
        return Ok(());
    }
    Err(Fault("expected whole values behind the addresses"))
}

/// The header for a connection over TCP from `from` to `to`.
pub fn write(version: Version, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = alike(from, to);
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source, destination) = (from.ip(), to.ip());
            format!(
                "PROXY {family} {source} {destination} {} {}\r\n",
                from.port(),
                to.port()
            )
            .into_bytes()
        }
        Version::V2 => {
            let mut addresses = Vec::with_capacity(36);
            for address in [from.ip(), to.ip()] {
                match address {
                    IpAddr::V4(ip) => addresses.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => addresses.extend_from_slice(&ip.octets()),
                }
            }
            for port in [from.port(), to.port()] {
                addresses.extend_from_slice(&port.to_be_bytes());
            }
            let family = if from.is_ipv4() { 0x11 } else { 0x21 };
            let length = u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes();
            [&SIGNATURE[..], &[0x21, family], &length, &addresses].concat()
        }
    }
}

/// Both of one family: IPv4 where both are, in whatever form, else IPv6.
fn alike(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (from.ip().to_canonical(), to.ip().to_canonical());
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    let (source, destination) = if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    };
    (
        SocketAddr::new(source, from.port()),
        SocketAddr::new(destination, to.port()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(from: &str, to: &str) -> Subject {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Subject::Client { from, to }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    /// The examples of the protocol's definition, and its bounds.
    #[test]
    fn headers_of_version_1() {
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        for (line, subject) in [
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                client("255.255.255.255:65535", "255.255.255.255:65535"),
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 0 25\r\n",
                client("192.0.2.1:0", "192.0.2.2:25"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 4711 25\r\n",
                client("[2001:db8::1]:4711", "[::1]:25"),
            ),
            ("PROXY UNKNOWN\r\n", Subject::Unknown),
            (longest, Subject::Unknown),
        ] {
            let (header, length) = parse([line, "EHLO x\r\n"].concat().as_bytes()).unwrap().unwrap();
            assert_eq!(
                (header.version, header.subject, length),
                (Version::V1, subject, line.len()),
                "{line}"
            );
        }
        let filled = |length: usize| format!("{:x<width$}\r\n", "PROXY UNKNOWN ", width = length - 2);
        assert!(matches!(parse(filled(107).as_bytes()), Ok(Some((_, 107)))));
        assert!(parse(filled(108).as_bytes()).is_err());
    }

    #[test]
    fn what_is_no_header_of_version_1() {
        for line in [
            "EHLO client.example\r\n",
            "proxy TCP4 192.0.2.1 192.0.2.2 1 25\r\n",
            " PROXY UNKNOWN\r\n",
            "PROXY  UNKNOWN\r\n",
            "PROXY UNKNOWN\n",
            "PROXY UNKNOWN\r \n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 25 \r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 1 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 25 26\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -1 25\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 25\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 25\r\n",
            "PROXY TCP4 ::1 ::1 1 25\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 25\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 25\r\n",
            "PROXY TCP4 192.0.2.\u{661} 192.0.2.2 1 25\r\n",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 0, 25];
        let values = [0x02, 0, 3, b'a', b'.', b'b', 0x04, 0, 0];
        let subject = client("192.0.2.1:4711", "192.0.2.2:25");
        for (command, family, block, expected, kept) in [
            (0x21, 0x11, four.to_vec(), subject, 0),
            (0x21, 0x11, [&four[..], &values].concat(), subject, 9),
            (0x20, 0x11, four.to_vec(), Subject::Itself, 0),
            (0x20, 0x00, vec![], Subject::Itself, 0),
            (0x20, 0xff, vec![1], Subject::Itself, 0),
            (0x21, 0x00, vec![], Subject::Unknown, 0),
            (0x21, 0x00, vec![1; 7], Subject::Unknown, 0),
            (0x21, 0x31, vec![0; 216], Subject::Unknown, 0),
            (0x21, 0x12, four.to_vec(), Subject::Unknown, 0),
        ] {
            let wire = v2(command, family, &block);
            let (header, length) = parse(&[&wire[..], b"EHLO x\r\n"].concat()).unwrap().unwrap();
            assert_eq!((header.version, header.subject), (Version::V2, expected));
            assert_eq!((header.values.len(), length), (kept, wire.len()));
        }
    }

    #[test]
    fn what_is_no_header_of_version_2() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x67, 0, 25];
        for (command, family, block) in [
            (0x11, 0x11, four.to_vec()),
            (0x31, 0x11, four.to_vec()),
            (0x22, 0x11, four.to_vec()),
            (0x21, 0x13, four.to_vec()),
            (0x21, 0x41, four.to_vec()),
            (0x21, 0x11, four[..11].to_vec()),
            (0x21, 0x21, four.to_vec()),
            (0x21, 0x11, [&four[..], &[1]].concat()),
            (0x21, 0x11, [&four[..], &[1, 0, 5, 0]].concat()),
            (0x21, 0x11, vec![0; LONGEST - 15]),
        ] {
            assert!(
                parse(&v2(command, family, &block)).is_err(),
                "{command:x} {family:x} {block:?}"
            );
        }
        let most = v2(0x21, 0x00, &vec![0; LONGEST - 16]);
        assert!(matches!(parse(&most), Ok(Some((_, LONGEST)))));
        assert!(parse(b"\r\n\r\n\0\r\nquit\n").is_err());
    }

    /// As soon as it is certain: whoever sends something else need not send more of it to be refused.
    #[test]
    fn what_is_no_header_is_refused_at_its_first_octets() {
        for begin in [
            &b"E"[..],
            b"\x16\x03",
            b"\n",
            b"\r\r",
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIT\n\x31",
        ] {
            assert!(parse(begin).is_err(), "{begin:?}");
        }
        assert_eq!(parse(b""), Ok(None));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| (ip, port).into()),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| (ip, port).into()),
            any::<([u8; 4], u16)>()
                .prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).to_ipv6_mapped().into(), port)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(from in address(), to in address(), first: bool, behind: Vec<u8>) {
            let version = if first { Version::V1 } else { Version::V2 };
            let wire = write(version, from, to);
            let (header, length) = parse(&[&wire[..], &behind].concat()).unwrap().unwrap();
            prop_assert_eq!(length, wire.len());
            prop_assert_eq!(header.version, version);
            prop_assert!(header.values.is_empty());
            let Subject::Client { from: f, to: t } = header.subject else { panic!("{header:?}") };
            prop_assert_eq!((f.ip().to_canonical(), f.port()), (from.ip().to_canonical(), from.port()));
            prop_assert_eq!((t.ip().to_canonical(), t.port()), (to.ip().to_canonical(), to.port()));
            prop_assert_eq!(write(version, f, t), wire);
        }

        /// Any split gives the same: what is found, or refused, in fewer octets stays so.
        #[test]
        fn more_octets_change_nothing(
            begin in prop_oneof![
                Just(b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 25\r\n".to_vec()),
                Just(b"PROXY UNKNOWN ".to_vec()),
                Just(v2(0x21, 0x11, &[1; 15])),
                Just(SIGNATURE.to_vec()),
                Just(Vec::new()),
            ],
            change in any::<Option<(u8, u8)>>(),
            rest in proptest::collection::vec(any::<u8>(), 0..150),
        ) {
            let mut wire = [begin, rest].concat();
            if let Some((at, to)) = change
                && let Some(octet) = wire.get_mut(usize::from(at))
            {
                *octet = to;
            }
            let whole = parse(&wire);
            for length in 0..wire.len() {
                match parse(&wire[..length]) {
                    Ok(None) => {}
                    other => prop_assert_eq!(&other, &whole),
                }
            }
        }
    }
}
