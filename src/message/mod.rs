//! Messages as octets: what can be learnt from a header while it streams past.
//! Pure; keeps no more than one field name, and never changes what it reads.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

/// The longest field name that is told apart.
const NAME: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Name,
    /// White space after the name: only a colon may follow.
    Gap,
    Rest,
    Body,
}

/// Counts the fields of one name in the header of a message (RFC 5322 §2.2).
/// The header ends at the first empty line; the body is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderScan {
    wanted: &'static str,
    at: At,
    name: [u8; NAME],
    length: usize,
    count: u32,
}

impl HeaderScan {
    /// Counts fields of this name, case aside; at most 64 octets of ASCII.
    pub fn new(wanted: &'static str) -> HeaderScan {
        HeaderScan {
            wanted,
            at: At::Name,
            name: [0; NAME],
            length: 0,
            count: 0,
        }
    }

    /// Counts `Received`, for the detection of loops (RFC 5321 §6.3).
    pub fn received() -> HeaderScan {
        HeaderScan::new("Received")
    }

    /// How many there were so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Reads the next octets of the message, however they are split.
    pub fn feed(&mut self, mut octets: &[u8]) {
        while self.at != At::Body {
            if self.at == At::Rest {
                let Some(end) = octets.iter().position(|b| *b == b'\n') else {
                    return;
                };
                octets = octets.get(end + 1..).unwrap_or_default();
                (self.at, self.length) = (At::Name, 0);
            }
            let Some((octet, rest)) = octets.split_first() else {
                return;
            };
            octets = rest;
            self.name_octet(*octet);
        }
    }

    fn name_octet(&mut self, octet: u8) {
        match octet {
            b'\n' if matches!(self.name.get(..self.length), Some([] | [b'\r'])) => {
                self.at = At::Body;
            }
            b'\n' => self.length = 0,
            b':' => {
                let name = self.name.get(..self.length).unwrap_or_default();
                let same = name.eq_ignore_ascii_case(self.wanted.as_bytes());
                self.count = self.count.saturating_add(u32::from(same));
                self.at = At::Rest;
            }
            b' ' | b'\t' if self.length > 0 => self.at = At::Gap,
            _ if self.at == At::Gap => self.at = At::Rest,
            b' ' | b'\t' => self.at = At::Rest,
            _ => match self.name.get_mut(self.length) {
                Some(place) => {
                    *place = octet;
                    self.length += 1;
                }
                None => self.at = At::Rest,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(message: &[u8], size: usize) -> (u32, bool) {
        let mut scan = HeaderScan::received();
        for piece in message.chunks(size) {
            scan.feed(piece);
        }
        (scan.count(), scan.at == At::Body)
    }

    #[test]
    fn counts_only_in_the_header() {
        let cases: [(&[u8], u32, bool); 8] = [
            (b"Received: a\r\n\tb\r\nRECEIVED:c\r\n\r\nReceived: d\r\n", 2, true),
            (b"Subject: Received: a\r\n Received: b\r\nreceived : c\r\n\r\n", 1, true),
            (b"Received-SPF: pass\r\nX-Received: a\r\n\r\n", 0, true),
            (b"Received: a\nReceived: b\n\nReceived: c\n", 2, true),
            (b"\r\nReceived: a\r\n", 0, true),
            (b"Received: a\r\n", 1, false),
            (b"Received a: b\r\nReceived\r\n\r\n", 0, true),
            (b"", 0, false),
        ];
        for (message, received, ended) in cases {
            for size in [1, 2, 3, 1000] {
                let text = String::from_utf8_lossy(message);
                assert_eq!(count(message, size), (received, ended), "{text:?} by {size}");
            }
        }
        let long = [vec![b'x'; 1000], b": y\r\nReceived: z\r\n".to_vec()].concat();
        assert_eq!(count(&long, 7), (1, false));
    }

    proptest! {
        #[test]
        fn any_split_counts_the_same(
            message in "(Received|Re|x|:| |\r|\n|\r\n){0,60}", size in 1usize..20,
        ) {
            prop_assert_eq!(count(message.as_bytes(), size), count(message.as_bytes(), 10_000));
        }
    }
}
