//! A name server of our own on the loopback: knows what it is told, by UDP and by TCP, and can behave badly.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// How it answers a name, whatever kind is asked for.
#[derive(Debug, Clone)]
pub enum Says {
    /// These addresses to A and AAAA, each to its own.
    Addresses(Vec<IpAddr>),
    /// These names to PTR.
    Names(Vec<&'static str>),
    /// Nothing at all.
    Silence,
    /// That it failed.
    Failure,
    /// By UDP only that it does not fit; by TCP these addresses.
    ByTcp(Vec<IpAddr>),
    /// First octets that are no answer, with another number, and another question, then these addresses.
    AfterForgeries(Vec<IpAddr>),
    /// Octets that are none of the DNS.
    Garbage,
}

/// The server; it ends with the test.
pub struct Dns {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    by_tcp: Arc<AtomicUsize>,
}

/// One question as it was heard.
struct Asked {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// Name, type and class as they came.
    octets: Vec<u8>,
}

impl Dns {
    /// Knows these names; others do not exist.
    pub fn start(zone: &[(&str, Says)]) -> Dns {
        // The same port twice: somebody else may have the one of TCP.
        let pair = |_| {
            let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
            let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
            Some((udp, tcp))
        };
        let (udp, tcp) = (0..100).find_map(pair).expect("a free port for both");
        let address = udp.local_addr().expect("address");
        let zone: HashMap<String, Says> = zone
            .iter()
            .map(|(name, says)| (name.to_lowercase(), says.clone()))
            .collect();
        let zone = Arc::new(zone);
        let (asked, by_tcp) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (of_tcp, count) = (Arc::clone(&zone), Arc::clone(&by_tcp));
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let mut length = [0; 2];
                let Ok(()) = stream.read_exact(&mut length) else {
                    continue;
                };
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                let Ok(()) = stream.read_exact(&mut question) else {
                    continue;
                };
                for answer in answers(&of_tcp, &read(&question), true) {
                    let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        });
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let question = read(&buffer[..length]);
                heard
                    .lock()
                    .expect("not poisoned")
                    .push(format!("{} {}", question.kind, question.name));
                for answer in answers(&zone, &question, false) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        Dns { address, asked, by_tcp }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked by UDP: type and name.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }

    /// How often it was asked by TCP.
    pub fn asked_by_tcp(&self) -> usize {
        self.by_tcp.load(Ordering::SeqCst)
    }
}

fn read(message: &[u8]) -> Asked {
    let mut labels = Vec::new();
    let mut at = 12;
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_lowercase());
        at = end;
    }
    Asked {
        id: [message[0], message[1]],
        name: labels.join("."),
        kind: u16::from_be_bytes([message[at + 1], message[at + 2]]),
        octets: message[12..at + 5].to_vec(),
    }
}

/// A message with this number, these flags and code, and these records of the name asked for.
fn message(id: [u8; 2], question: &[u8], code: u8, truncated: bool, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let count = u16::try_from(records.len()).expect("few").to_be_bytes();
    let flags = 0x85 | if truncated { 2 } else { 0 };
    let mut octets = vec![id[0], id[1], flags, 0x80 | code, 0, 1, count[0], count[1], 0, 0, 0, 0];
    octets.extend(question);
    for (kind, data) in records {
        octets.extend([0xc0, 12]);
        octets.extend(kind.to_be_bytes());
        octets.extend([0, 1, 0, 0, 0, 60]);
        octets.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        octets.extend(data);
    }
    octets
}

fn answers(zone: &HashMap<String, Says>, asked: &Asked, by_tcp: bool) -> Vec<Vec<u8>> {
    let of_kind = |addresses: &[IpAddr]| -> Vec<(u16, Vec<u8>)> {
        let record = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        addresses
            .iter()
            .map(record)
            .filter(|(kind, _)| *kind == asked.kind)
            .collect()
    };
    let good = |records: &[(u16, Vec<u8>)]| message(asked.id, &asked.octets, 0, false, records);
    match zone.get(&asked.name) {
        None => vec![message(asked.id, &asked.octets, 3, false, &[])],
        Some(Says::Addresses(addresses)) => vec![good(&of_kind(addresses))],
        Some(Says::Names(names)) => {
            let wire = |name: &&str| {
                let label = |label: &str| [&[u8::try_from(label.len()).expect("short")], label.as_bytes()].concat();
                let mut octets: Vec<u8> = name.split('.').flat_map(label).collect();
                octets.push(0);
                (12, octets)
            };
            vec![good(&names.iter().map(wire).collect::<Vec<_>>())]
        }
        Some(Says::Silence) => Vec::new(),
        Some(Says::Failure) => vec![message(asked.id, &asked.octets, 2, false, &[])],
        Some(Says::ByTcp(addresses)) if by_tcp => vec![good(&of_kind(addresses))],
        Some(Says::ByTcp(_)) => vec![message(asked.id, &asked.octets, 0, true, &[])],
        Some(Says::AfterForgeries(addresses)) => {
            let forged: Vec<(u16, Vec<u8>)> = vec![(1, vec![203, 0, 113, 66])];
            let other = [asked.id[0], asked.id[1] ^ 1];
            let mut question = asked.octets.clone();
            question[1] ^= 3;
            vec![
                b"x".to_vec(),
                message(other, &asked.octets, 0, false, &forged),
                message(asked.id, &question, 0, false, &forged),
                good(&of_kind(addresses)),
            ]
        }
        Some(Says::Garbage) => vec![[&asked.id[..], &[0xff; 300]].concat()],
    }
}
