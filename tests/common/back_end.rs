//! A mail server for the proxy to talk to: answers as it is told, and keeps all that it hears.

use super::certificates::Pair;
use rustls::crypto::ring;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{self, BufRead, BufReader, Read, Write};
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
    /// How many of them came in clear, where TLS came behind them, and the name that was asked for.
    pub tls: Option<(usize, Option<String>)>,
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
    /// What it does for lines that begin so; `OPEN` stands for the connection itself, `TEXT` for the first line of a
    /// message, `END` for the end of one.
    pub rules: Vec<(&'static str, Does)>,
    /// Octets of a header that comes before the greeting.
    pub preface: usize,
    /// Its certificate, if it speaks TLS: STARTTLS is a line of its reply to EHLO then, in clear.
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS comes before the greeting.
    pub implicit: bool,
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
            tls: None,
            implicit: false,
        }
    }
}

impl Script {
    /// With a further rule.
    pub fn rule(mut self, line: &'static str, does: Does) -> Script {
        self.rules.push((line, does));
        self
    }

    /// With TLS and this certificate.
    pub fn tls(mut self, (chain, key): &Pair) -> Script {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
            .expect("certificates")
            .map(|one| one.expect("PEM"))
            .collect();
        let key = PrivateKeyDer::from_pem_file(key).expect("key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        self.tls = Some(Arc::new(config));
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

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// Shakes hands; the name that was asked for as well.
    fn protected(self, config: &Arc<ServerConfig>) -> io::Result<(Stream, Option<String>)> {
        let Stream::Plain(mut stream) = self else {
            return Err(io::Error::other("TLS within TLS"));
        };
        let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let name = connection.server_name().map(str::to_owned);
        Ok((Stream::Tls(Box::new(StreamOwned::new(connection, stream))), name))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(octets),
            Stream::Tls(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

fn protect(
    input: BufReader<Stream>,
    config: &Arc<ServerConfig>,
    lines: usize,
    note: &mut impl FnMut(&mut dyn FnMut(&mut Heard)),
) -> io::Result<BufReader<Stream>> {
    let buffered = input.buffer().to_vec();
    assert!(
        buffered.is_empty(),
        "in clear behind STARTTLS: {}",
        buffered.escape_ascii()
    );
    let (stream, name) = input.into_inner().protected(config)?;
    note(&mut |heard| heard.tls = Some((lines, name.clone())));
    Ok(BufReader::new(stream))
}

/// Does what the script says for a line; whether the connection goes on.
fn act(script: &Script, out: &mut Stream, line: &str, usual: String) -> io::Result<bool> {
    let rule = script.rules.iter().find(|(start, _)| line.starts_with(start));
    let text = match rule.map(|(_, does)| does) {
        Some(Does::Closes) => return Ok(false),
        Some(Does::Hangs) => {
            thread::sleep(Duration::from_secs(60));
            return Ok(true);
        }
        Some(Does::Says(text)) => (*text).to_owned(),
        None => usual,
    };
    out.write_all(format!("{text}\r\n").as_bytes())?;
    out.flush()?;
    Ok(!rule.is_some_and(|(_, does)| matches!(does, Does::Says(text) if text.starts_with("421"))))
}

fn usual(script: &Script, verb: &str, in_clear: bool) -> String {
    let offers = script.tls.is_some() && in_clear;
    match verb {
        "EHLO" if offers => multi(250, &[script.ehlo.as_slice(), &["STARTTLS"]].concat()),
        "EHLO" => multi(250, &script.ehlo),
        "HELO" => "250 back.example".into(),
        "STARTTLS" if offers => "220 go ahead".into(),
        "MAIL" => "250 2.1.0 sender fine".into(),
        "RCPT" => "250 2.1.5 recipient fine".into(),
        "DATA" => "354 go on".into(),
        "QUIT" => "221 2.0.0 bye".into(),
        "VRFY" => "252 2.0.0 perhaps".into(),
        "XCLIENT" => "220 back.example ready for somebody else".into(),
        "RSET" | "NOOP" => "250 2.0.0 done".into(),
        _ => "502 5.5.1 unknown to the back end".into(),
    }
}

/// Takes a message; whether the connection goes on.
fn take_message(
    script: &Script,
    input: &mut BufReader<Stream>,
    note: &mut impl FnMut(&mut dyn FnMut(&mut Heard)),
) -> io::Result<bool> {
    let mut message = Vec::new();
    while !(message == b".\r\n" || message.ends_with(b"\r\n.\r\n")) {
        if input.read_until(b'\n', &mut message)? == 0 || script.rules.iter().any(|(start, _)| *start == "TEXT") {
            return Ok(false);
        }
    }
    note(&mut |heard| heard.messages.push(message.clone()));
    act(script, input.get_mut(), "END", "250 2.0.0 back end has it".into())
}

fn serve(script: &Script, stream: TcpStream, mut note: impl FnMut(&mut dyn FnMut(&mut Heard))) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut input = BufReader::new(Stream::Plain(stream));
    if script.preface > 0 {
        let mut preface = vec![0; script.preface];
        input.read_exact(&mut preface)?;
        note(&mut |heard| heard.preface.clone_from(&preface));
    }
    let mut lines = 0;
    let mut in_clear = true;
    if let Some(config) = script.tls.as_ref().filter(|_| script.implicit) {
        input = protect(input, config, 0, &mut note)?;
        in_clear = false;
    }
    if !act(script, input.get_mut(), "OPEN", "220 back.example ready".into())? {
        return Ok(());
    }
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned();
        note(&mut |heard| heard.lines.push(line.clone()));
        lines += 1;
        let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let asks = !script.rules.iter().any(|(start, _)| line.starts_with(start));
        if !act(script, input.get_mut(), &line, usual(script, &verb, in_clear))? || verb == "QUIT" {
            return Ok(());
        }
        match (&script.tls, verb.as_str()) {
            (Some(config), "STARTTLS") if asks && in_clear => {
                input = protect(input, config, lines, &mut note)?;
                in_clear = false;
            }
            (_, "DATA") if asks && !take_message(script, &mut input, &mut note)? => return Ok(()),
            _ => {}
        }
    }
}

fn multi(code: u16, lines: &[&str]) -> String {
    let last = lines.len().saturating_sub(1);
    let line = |(at, text): (usize, &&str)| format!("{code}{}{text}", if at == last { ' ' } else { '-' });
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\r\n")
}
