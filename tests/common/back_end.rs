//! A mail server for the proxy to talk to: answers as it is told, and keeps all that it hears.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does on some connections, for a line that begins with the words.
#[derive(Debug, Clone)]
pub enum Does {
    /// Answers so, without the CRLF.
    Says(&'static str),
    /// Closes the connection.
    Closes,
    /// Says nothing.
    Hangs,
}

/// One connection as it was heard.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Octets before the greeting, where a header is expected.
    pub preface: Vec<u8>,
    /// Command lines.
    pub lines: Vec<String>,
    /// Messages with their end, as sent.
    pub messages: Vec<Vec<u8>>,
    /// The connection has ended.
    pub ended: bool,
}

/// The server; it ends with the test.
pub struct BackEnd {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

/// How it behaves.
#[derive(Debug, Clone)]
pub struct Script {
    /// The lines of its reply to EHLO.
    pub ehlo: Vec<&'static str>,
    /// What it does for lines that begin so; `OPEN` stands for the connection itself, `END` for the end of a message.
    pub rules: Vec<(&'static str, Does)>,
    /// Octets of a header that comes before the greeting.
    pub preface: usize,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            ehlo: vec![
                "back.example at your service",
                "PIPELINING",
                "SIZE 30000000",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
                "CHUNKING",
            ],
            rules: Vec::new(),
            preface: 0,
        }
    }
}

impl Script {
    /// With a further rule.
    pub fn rule(mut self, line: &'static str, does: Does) -> Script {
        self.rules.push((line, does));
        self
    }
}

impl BackEnd {
    /// Serves by `script`.
    pub fn start(script: Script) -> BackEnd {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        BackEnd::start_at(any, script).expect("free port")
    }

    /// The same at an address; none if it cannot be had.
    pub fn start_at(address: SocketAddr, script: Script) -> Option<BackEnd> {
        let listener = TcpListener::bind(address).ok()?;
        let address = listener.local_addr().ok()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = {
                    let mut all = all.lock().expect("not poisoned");
                    all.push(Heard::default());
                    all.len() - 1
                };
                let (script, all) = (script.clone(), Arc::clone(&all));
                thread::spawn(move || {
                    let _ = serve(&script, stream, |change| {
                        change(&mut all.lock().expect("not poisoned")[number])
                    });
                    all.lock().expect("not poisoned")[number].ended = true;
                });
            }
        });
        Some(BackEnd { address, heard })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("not poisoned").clone()
    }

    /// All lines of all connections so far.
    pub fn lines(&self) -> Vec<String> {
        self.heard().into_iter().flat_map(|one| one.lines).collect()
    }

    /// All messages of all connections so far.
    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.heard().into_iter().flat_map(|one| one.messages).collect()
    }
}

fn serve(script: &Script, stream: TcpStream, mut note: impl FnMut(&mut dyn FnMut(&mut Heard))) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    if script.preface > 0 {
        let mut preface = vec![0; script.preface];
        std::io::Read::read_exact(&mut input, &mut preface)?;
        note(&mut |heard| heard.preface.clone_from(&preface));
    }
    let mut act = |line: &str, usual: String| -> std::io::Result<bool> {
        let rule = script.rules.iter().find(|(start, _)| line.starts_with(start));
        match rule.map(|(_, does)| does) {
            Some(Does::Closes) => return Ok(false),
            Some(Does::Hangs) => thread::sleep(Duration::from_secs(60)),
            Some(Does::Says(text)) => out.write_all(format!("{text}\r\n").as_bytes())?,
            None => out.write_all(format!("{usual}\r\n").as_bytes())?,
        }
        Ok(!rule.is_some_and(|(_, does)| matches!(does, Does::Says(text) if text.starts_with("421"))))
    };
    if !act("OPEN", "220 back.example ready".into())? {
        return Ok(());
    }
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned();
        note(&mut |heard| heard.lines.push(line.clone()));
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let usual = match verb.as_str() {
            "EHLO" => multi(250, &script.ehlo),
            "HELO" => "250 back.example".into(),
            "MAIL" => "250 2.1.0 sender fine".into(),
            "RCPT" => "250 2.1.5 recipient fine".into(),
            "DATA" => "354 go on".into(),
            "QUIT" => "221 2.0.0 bye".into(),
            "VRFY" => "252 2.0.0 perhaps".into(),
            "XCLIENT" => "220 back.example ready for somebody else".into(),
            "RSET" | "NOOP" => "250 2.0.0 done".into(),
            _ => "502 5.5.1 unknown to the back end".into(),
        };
        let asks = !script.rules.iter().any(|(start, _)| line.starts_with(start));
        if !act(&line, usual)? {
            return Ok(());
        }
        if verb == "QUIT" {
            return Ok(());
        }
        if verb == "DATA" && asks {
            let mut message = Vec::new();
            while !(message == b".\r\n" || message.ends_with(b"\r\n.\r\n")) {
                if input.read_until(b'\n', &mut message)? == 0 {
                    return Ok(());
                }
            }
            note(&mut |heard| heard.messages.push(message.clone()));
            if !act("END", "250 2.0.0 back end has it".into())? {
                return Ok(());
            }
        }
    }
}

fn multi(code: u16, lines: &[&str]) -> String {
    let last = lines.len().saturating_sub(1);
    let line = |(at, text): (usize, &&str)| format!("{code}{}{text}", if at == last { ' ' } else { '-' });
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\r\n")
}
