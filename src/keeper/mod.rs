//! The keeper process: holds the private keys, and the right to bind any port.
//!
//! It may assume that its configuration is an administrator's. Its requests are a closed list: a worker may have a
//! handshake signed; the master may have the configuration read again, or one of its listeners bound. It must never read
//! from the network, run a program, take a path or an address from a request, or let a key out.

pub mod client;
pub mod keys;
pub mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::config::{self, Daemon, Faults};
use crate::helper::{Seat, Turn};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::{FromHelper, ToHelper};
use crate::ipc::keeper::{FromKeeper, Shown, ToKeeper};
use crate::ipc::numbered::Numbered;
use crate::sys::socket;
use keys::Keys;

/// The keeper's end of a worker's door.
type Door = Channel<Numbered<FromKeeper>, Numbered<ToKeeper>>;

const CONTROL: Token = Token(usize::MAX);
/// Requests taken through one door before the others have their turn.
const TURN: usize = 4;

/// What of rsmtpd.yaml is the keeper's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    certificates: Vec<config::Certificate>,
    listeners: Vec<SocketAddr>,
}

impl Settings {
    /// As `daemon` says.
    pub fn of(daemon: &Daemon) -> Settings {
        Settings {
            certificates: daemon.certificates().to_vec(),
            listeners: daemon
                .listening()
                .iter()
                .flat_map(config::Listener::addresses)
                .collect(),
        }
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter();
        pairs.flat_map(|one| [one.pem_file.as_path(), one.key_file.as_path()])
    }
}

/// What the keeper works with.
pub struct Place<'a> {
    /// Its seat.
    pub seat: Seat,
    /// The configuration to begin with.
    pub settings: Settings,
    /// Where files may be; none: anywhere.
    pub reach: Option<Vec<PathBuf>>,
    /// Reads the configuration again.
    pub reread: &'a dyn Fn() -> Result<Settings, Faults>,
}

struct Keeper<'a> {
    poll: Poll,
    place: Place<'a>,
    keys: Keys,
    doors: BTreeMap<usize, Door>,
    ready: BTreeSet<usize>,
    next: usize,
}

/// Serves until the control channel ends.
///
/// # Errors
/// The event loop cannot be made, or the control channel is broken.
pub fn run(place: Place<'_>) -> io::Result<()> {
    let poll = Poll::new()?;
    let control = place.seat.control.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&control), CONTROL, Interest::READABLE)?;
    let mut keeper = Keeper {
        poll,
        place,
        keys: Keys::default(),
        doors: BTreeMap::new(),
        ready: BTreeSet::new(),
        next: 0,
    };
    let control = &keeper.place.seat.control;
    let said = match keeper.place.seat.turn {
        Turn::First => control.send(&FromHelper::Ready),
        Turn::Again | Turn::Instead => control.send_nowait(&FromHelper::Ready, &[]),
    };
    said.map_err(io::Error::other)?;
    keeper.renew(Vec::new());
    keeper.serve()
}

impl Keeper<'_> {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = (!self.ready.is_empty()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    CONTROL if !self.hear_master()? => return Ok(()),
                    CONTROL => {}
                    Token(number) => {
                        self.ready.insert(number);
                    }
                }
            }
            for number in std::mem::take(&mut self.ready) {
                self.hear_worker(number);
            }
        }
    }

    /// Takes what the master says; false when it is gone.
    fn hear_master(&mut self) -> io::Result<bool> {
        loop {
            match self.place.seat.control.receive_nowait() {
                Ok((ToHelper::Door { .. } | ToHelper::LentDoor, Some(fd))) => self.admit(Door::new(fd))?,
                Ok((ToHelper::Reload { .. }, _)) => self.reload(),
                Ok((ToHelper::Listen { position }, _)) => self.listen(position),
                Ok(_) => {}
                Err(Fault::WouldBlock) => return Ok(true),
                Err(Fault::Closed) => return Ok(false),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn admit(&mut self, door: Door) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        self.poll
            .registry()
            .register(&mut SourceFd(&door.as_raw_fd()), Token(number), Interest::READABLE)?;
        self.doors.insert(number, door);
        Ok(())
    }

    /// Answers a worker. Whoever sends what is no request, or does not take the answers, loses the door.
    fn hear_worker(&mut self, number: usize) {
        for _ in 0..TURN {
            let Some(door) = self.doors.get(&number) else { return };
            let answered = door.receive_nowait().and_then(|(request, _)| {
                let answer = Numbered {
                    number: request.number,
                    words: self.keys.answer(&request.words),
                };
                door.send_nowait(&answer, &[]).map_err(|_| Fault::Closed)
            });
            match answered {
                Ok(()) => {}
                Err(Fault::WouldBlock) => return,
                Err(_) => {
                    self.doors.remove(&number);
                    return;
                }
            }
        }
        self.ready.insert(number);
    }

    fn reload(&mut self) {
        let faults = match (self.place.reread)() {
            Ok(settings) => {
                self.place.settings = settings;
                Vec::new()
            }
            Err(faults) => faults.0,
        };
        self.renew(faults);
    }

    /// Reads all files, and shows the master what came of it.
    fn renew(&mut self, faults: Vec<config::Fault>) {
        for fault in faults {
            self.show(Shown::Broken {
                path: fault.file.clone(),
                reason: fault.to_string(),
                kept: true,
            });
        }
        let reach = self.place.reach.as_deref();
        for (broken, kept) in self.keys.renew(&self.place.settings.certificates, reach) {
            self.show(Shown::Broken {
                path: broken.path.display().to_string(),
                reason: broken.reason,
                kept,
            });
        }
        for certificate in self.keys.certificates() {
            self.show(Shown::Certificate(certificate.clone()));
        }
        self.show(Shown::Done);
    }

    /// Binds the socket address at this position in the configuration.
    fn listen(&self, position: u32) {
        let address = self.place.settings.listeners.get(position as usize);
        let listener = address
            .ok_or_else(|| io::Error::other("rsmtpd.yaml has changed meanwhile"))
            .and_then(|address| socket::listen(*address, socket::BACKLOG));
        let (shown, fds) = match &listener {
            Ok(listener) => (Shown::Listening, vec![listener.as_fd()]),
            Err(error) => (
                Shown::NotListening {
                    reason: error.to_string(),
                    taken: error.kind() == io::ErrorKind::AddrInUse,
                },
                Vec::new(),
            ),
        };
        let _ = self.place.seat.control.send_with(&FromHelper::Keeper(shown), &fds);
    }

    /// Waits for room: the master reads until it has heard `Done`.
    fn show(&self, shown: Shown) {
        let _ = self.place.seat.control.send(&FromHelper::Keeper(shown));
    }
}
