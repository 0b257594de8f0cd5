//! Servers of our own that a measurement needs: what a proxy relays to, and a handshake with the key at hand.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, fork};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the servers under measurement were told to use.
#[derive(Clone, Debug, Default)]
pub struct Aids {
    /// Takes what proxies relay.
    pub sink: Option<Sink>,
    /// Certificate and key of both servers.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// A server that takes every message and keeps none; a thread a connection.
#[derive(Clone, Debug)]
pub struct Sink {
    taken: Arc<AtomicU64>,
}

impl Sink {
    /// Listens there.
    pub fn start(port: u16) -> io::Result<Sink> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let taken = Arc::new(AtomicU64::new(0));
        let sink = Sink {
            taken: Arc::clone(&taken),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                thread::spawn(move || take(stream, &taken));
            }
        });
        Ok(sink)
    }

    /// Messages so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

fn take(stream: TcpStream, taken: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(1 << 16, stream);
    out.write_all(b"220 sink.example.com ESMTP\r\n")?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
            Some(b"EHLO") => out.write_all(b"250-sink.example.com\r\n250-PIPELINING\r\n250 8BITMIME\r\n")?,
            Some(b"DATA") => {
                out.write_all(b"354 go on\r\n")?;
                loop {
                    line.clear();
                    if input.read_until(b'\n', &mut line)? == 0 {
                        return Ok(());
                    }
                    if line == b".\r\n" {
                        break;
                    }
                }
                taken.fetch_add(1, Ordering::SeqCst);
                out.write_all(b"250 2.0.0 taken\r\n")?;
            }
            Some(b"QUIT") => return out.write_all(b"221 2.0.0 bye\r\n"),
            _ => out.write_all(b"250 2.0.0 OK\r\n")?,
        }
    }
}

/// A server in a process of its own that forks for each connection, as ours does, and signs by itself.
pub struct Reference {
    child: Child,
    /// Where it listens.
    pub port: u16,
}

impl Reference {
    /// Starts this program again.
    pub fn start((chain, key): &(PathBuf, PathBuf)) -> io::Result<Reference> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--reference")
            .args([chain, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().map(BufReader::new);
        said.ok_or(io::ErrorKind::BrokenPipe)?.read_line(&mut line)?;
        let port = line.trim().parse().map_err(io::Error::other);
        match port {
            Ok(port) => Ok(Reference { child, port }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process of a [`Reference`] does: says its port and serves until it is killed.
pub fn refer(chain: &Path, key: &Path) -> io::Result<()> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_file_iter(chain)
        .map_err(io::Error::other)?
        .collect();
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(io::Error::other)?, key)
        .map_err(io::Error::other)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    // SAFETY: no handler is installed; the kernel reaps the children.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    loop {
        let (stream, _) = listener.accept()?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => {}
            ForkResult::Child => {
                let ended = shake_hands(stream, config);
                std::process::exit(i32::from(ended.is_err()));
            }
        }
    }
}

fn shake_hands(mut stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 reference.example.com ESMTP\r\n")?;
    answer(&mut stream, b"250-reference.example.com\r\n250 STARTTLS\r\n")?;
    answer(&mut stream, b"220 2.0.0 go ahead\r\n")?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut secure = StreamOwned::new(connection, stream);
    answer(&mut secure, b"250 reference.example.com\r\n")?;
    answer(&mut secure, b"221 2.0.0 bye\r\n")
}

/// Reads a line and says that.
fn answer(stream: &mut (impl Read + Write), reply: &[u8]) -> io::Result<()> {
    let mut octet = [0];
    while octet != *b"\n" {
        stream.read_exact(&mut octet)?;
    }
    stream.write_all(reply)?;
    stream.flush()
}
