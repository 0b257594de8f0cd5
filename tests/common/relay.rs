//! Real mail servers that relay to ours, and what they say on the way.

use super::processes::Process;
use super::{Client, root, skip, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A mail server in namespaces of its own; ends when dropped.
pub struct Relay {
    child: Child,
    address: SocketAddr,
    _scratch: TempDir,
}

impl Relay {
    /// Starts one, postfix or exim, that relays to `next`; None where it is not installed.
    pub fn start(name: &str, next: SocketAddr) -> Option<Relay> {
        let more = if name == "exim" { "tls_advertise_hosts =" } else { "" };
        Relay::start_with(name, next, more, &[])
    }

    /// As [`Relay::start`], with more lines of configuration and with files, which it finds in `/etc/relay`.
    pub fn start_with(name: &str, next: SocketAddr, more: &str, files: &[(&str, &Path)]) -> Option<Relay> {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let own = tempfile::tempdir().expect("temporary directory");
        fs::write(own.path().join("main"), format!("{more}\n")).expect("written");
        for (name, file) in files {
            fs::copy(file, own.path().join(name)).expect("copied");
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = free.local_addr().expect("address");
        drop(free);
        let mut child = Command::new(root().join("tests/mail_servers/relay"))
            .arg(name)
            .arg(scratch.path())
            .args([address.port().to_string(), next.port().to_string()])
            .arg(own.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/mail_servers/relay");
        let mut ended = None;
        let up = wait_until(|| {
            ended = child.try_wait().ok().flatten();
            // With TLS from the first octet there is no greeting to be read.
            let is_up = if more.contains("wrappermode") {
                TcpStream::connect(address).is_ok()
            } else {
                greets(address)
            };
            ended.is_some() || is_up
        });
        let mut relay = Relay {
            child,
            address,
            _scratch: scratch,
        };
        if up && ended.is_none() {
            return Some(relay);
        }
        let _ = relay.child.kill();
        let mut said = String::new();
        if let Some(mut stderr) = relay.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(77), "{name}: {said}");
        skip(&format!("mass: {name} (its share goes by smtplib)"), said.trim());
        None
    }

    /// Stops all its processes, so that they answer nothing any more. Dropped then, they are gone.
    pub fn freeze(&self) {
        let own = i32::try_from(self.child.id()).expect("a pid");
        let is_stopped = |pid: i32| {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ")
                .next()
                .is_none_or(|state| state.is_empty() || state.starts_with(['T', 'Z']))
        };
        let stopped = || {
            let all = Process::tree(own).into_iter().filter(|one| one.pid != own);
            let stopped: Vec<bool> = all.map(|one| is_stopped(one.pid)).collect();
            stopped.iter().all(|one| *one)
        };
        assert!(wait_until(|| stopped() && stopped()), "one of its processes goes on");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection to it, EHLO said.
    pub fn connect(&self) -> Client {
        let mut client = Client::over(TcpStream::connect(self.address).expect("the relay"));
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        client
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The signal that `--kill-child` asks for is forgotten when the server changes its user: its namespace ends with
        // the first process in it.
        let own = i32::try_from(self.child.id()).unwrap_or(0);
        for first in Process::tree(own).into_iter().filter(|one| one.parent == own) {
            let _ = kill(Pid::from_raw(first.pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn greets(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok_and(|stream| Client::over(stream).try_reply().is_ok_and(|r| r.code == 220))
}

/// Stands between a client and our server and keeps what the client says.
pub struct Recorder {
    /// Where the client is to connect.
    pub address: SocketAddr,
    pieces: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    /// In front of the server there.
    pub fn start(server: SocketAddr) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("address");
        let pieces = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&pieces);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let kept = Arc::clone(&kept);
                thread::spawn(move || pass(client, server, Some(&kept)));
                thread::spawn(move || pass(server2, client2, None));
            }
        });
        Recorder { address, pieces }
    }

    /// What clients have said so far, read by read.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        self.pieces.lock().expect("not poisoned").clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, keep: Option<&Mutex<Vec<Vec<u8>>>>) {
    let mut buffer = vec![0; 65_536];
    let _ = to.set_nodelay(true);
    while let Ok(read) = from.read(&mut buffer) {
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        if let Some(keep) = keep {
            keep.lock().expect("not poisoned").push(piece.to_vec());
        }
        if to.write_all(piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
