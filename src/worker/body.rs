//! The body of the message under way, and the door to delivery that takes it.
//!
//! A small body stays in memory and travels inside the commit; a larger one goes to a file that delivery
//! opened, passed through the door. Either way it is only *staged*: delivery makes its own copy.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use crate::chain::{BodySink, DeliveryError, DeliveryPort};
use crate::delivery::client::{Client, Error, PATIENCE};
use crate::ipc::channel::Fault;
use crate::ipc::delivery::{Body, Commit, INLINE_BODY, Outcome};
use crate::ipc::frame;
use crate::ipc::link::Role;

use super::link::Link;

/// How often one message is offered, each time through another door, or a file asked for. Only what surely was not taken is
/// offered again. As many replacements of delivery as may follow each other while somebody reloads again and again.
const OFFERS: u32 = 40;
/// By how much longer we wait each time, up to [`LONGEST_PAUSE`]; the sum is about ten seconds, of the ten minutes
/// that a client waits (RFC 5321 §4.5.3.2.6).
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The doors: one that the master has lent, if so, for messages that travel whole; and one of our own, opened for the
/// first message that the other does not take, and again when delivery was restarted or replaced in between.
pub struct Delivery {
    /// How long an answer is waited for.
    patience: Duration,
    /// Nothing is left behind in it, as another worker may have it after us: no file, and no answer.
    lent: Option<Client>,
    has_given_up: bool,
    door: Option<Client>,
    /// The file of the body under way, to be copied if its door closes before the message was taken.
    staged: Option<File>,
    link: Rc<Link>,
}

impl Delivery {
    /// Asks for doors over `link` once `lent` does not do.
    pub fn new(link: Rc<Link>, lent: Option<OwnedFd>) -> Delivery {
        Delivery::patient(link, lent, PATIENCE)
    }

    fn patient(link: Rc<Link>, lent: Option<OwnedFd>, patience: Duration) -> Delivery {
        Delivery {
            patience,
            lent: lent.map(|door| Client::new(door, patience)),
            has_given_up: false,
            door: None,
            staged: None,
            link,
        }
    }

    /// Whether the lent door, if there is one, is as it was.
    pub fn has_kept_its_door(&self) -> bool {
        !self.has_given_up
    }

    /// The door, if it is still open; else a new one.
    fn door(&mut self) -> io::Result<Client> {
        match self.door.take() {
            Some(door) if !door.is_closed() => Ok(door),
            _ => Ok(Client::new(self.link.open(Role::Delivery)?, self.patience)),
        }
    }

    /// A file for a body; 452 territory when there is no space.
    fn begin(&mut self, offers: &mut Offers) -> io::Result<File> {
        loop {
            let door = self.door()?;
            match door.begin(0) {
                Ok(file) => {
                    self.door = Some(door);
                    return Ok(file);
                }
                // A delivery process that was replaced or died just now: nothing is lost yet.
                Err(Error::Channel(Fault::Closed)) if offers.again() => {}
                Err(Error::Full) => return Err(io::ErrorKind::StorageFull.into()),
                Err(other) => return Err(io::Error::other(other)),
            }
        }
    }

    /// A body that does not fit into a frame beside its envelope goes to a file, as a longer one does.
    fn room_for(&mut self, mut commit: Commit, offers: &mut Offers) -> io::Result<Commit> {
        if let Body::Inline(bytes) = &commit.body
            && bytes.len() + commit.envelope_octets() > frame::MAXIMUM
        {
            let mut file = self.begin(offers)?;
            file.write_all(bytes)?;
            commit.body = Body::Staged {
                length: bytes.len() as u64,
            };
            self.staged = Some(file);
        }
        Ok(commit)
    }

    /// After a failure the door is given up: its answers would belong to the wrong message.
    fn commit(&mut self, commit: Commit) -> Result<Outcome, DeliveryError> {
        let failed = |error: io::Error| DeliveryError::new(error.to_string());
        let mut offers = Offers::default();
        let mut commit = self.room_for(commit, &mut offers).map_err(failed)?;
        if let (Body::Inline(_), Some(door)) = (&commit.body, self.lent.take()) {
            match self.commit_over_lent(door, commit) {
                Err(Error::Untaken(untaken)) => commit = *untaken,
                concluded => return concluded.map_err(|error| DeliveryError::new(error.to_string())),
            }
        }
        let mut door = match (&commit.body, self.door.take()) {
            // The staged file belongs to this very door.
            (Body::Staged { .. }, Some(door)) => door,
            (Body::Staged { .. }, None) => return Err(DeliveryError::new("the door closed behind the body")),
            (Body::Inline(_), door) => {
                self.door = door;
                self.door().map_err(failed)?
            }
        };
        let (id, recipients) = (commit.id.clone(), commit.recipients.len());
        loop {
            match door.commit(commit) {
                // One replacement may follow the other while we wait for our turn on a busy machine.
                Err(Error::Untaken(untaken)) if offers.again() => commit = *untaken,
                // What came while we gave up counts. The door closes when we return: what is answered between the two is
                // delivered although the client reads 451, as where a kill falls there (RFC 1047).
                Err(error) => {
                    return door
                        .late(&id, recipients)
                        .map_err(|_| DeliveryError::new(error.to_string()));
                }
                Ok(outcome) => {
                    self.door = Some(door);
                    return Ok(outcome);
                }
            }
            door = self.another(&commit.body, &mut offers).map_err(failed)?;
        }
    }

    /// Offers a message over the lent door. Where no answer comes, delivery must not go on to find somebody to tell: it
    /// would keep what the client is told to bring again. The master has our end, too, so that it is asked to end the
    /// door before we look there for the last time.
    fn commit_over_lent(&mut self, door: Client, commit: Commit) -> Result<Outcome, Error> {
        let (id, recipients) = (commit.id.clone(), commit.recipients.len());
        let error = match door.commit(commit) {
            Ok(outcome) => {
                self.lent = Some(door);
                return Ok(outcome);
            }
            Err(error) => error,
        };
        self.has_given_up = true;
        if matches!(error, Error::Untaken(_) | Error::Refused(_)) {
            return Err(error);
        }
        self.link.close(Role::Delivery);
        door.late(&id, recipients).map_err(|_| error)
    }

    /// A door for a message that the one before surely has not taken, with the body behind it.
    fn another(&mut self, body: &Body, offers: &mut Offers) -> io::Result<Client> {
        let Body::Staged { length } = *body else {
            return self.door();
        };
        let before = self.staged.take().ok_or(io::ErrorKind::NotConnected)?;
        let copied = self
            .begin(offers)
            .and_then(|mut after| copy(&before, &mut after, length));
        self.staged = Some(before);
        copied?;
        Ok(self.door.take().ok_or(io::ErrorKind::NotConnected)?)
    }
}

/// How often one message was offered, in vain.
#[derive(Debug, Default)]
struct Offers(u32);

impl Offers {
    /// Whether it may be offered once more. Lets time pass before that; none the first time, when another process is there
    /// already.
    fn again(&mut self) -> bool {
        let more = self.0 + 1 < OFFERS;
        if more {
            std::thread::sleep((PAUSE * self.0).min(LONGEST_PAUSE));
            self.0 += 1;
        }
        more
    }
}

/// Copies `length` octets by plain reads and writes, which the sandbox has.
fn copy(from: &File, to: &mut File, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    while at < length {
        let read = from.read_at(&mut buffer, at)?;
        let octets = buffer.get(..read).filter(|octets| !octets.is_empty());
        to.write_all(octets.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        at += read as u64;
    }
    Ok(())
}

impl DeliveryPort for Rc<RefCell<Delivery>> {
    fn commit(&mut self, commit: Commit) -> Result<Outcome, DeliveryError> {
        self.borrow_mut().commit(commit)
    }
}

enum Store {
    Memory(Vec<u8>),
    /// What is held is written behind what the file has; the length is that of both.
    File {
        file: File,
        length: u64,
        held: Vec<u8>,
    },
}

/// Octets held back at most: a client decides how small the pieces are in which a body comes, not how often we write.
const HELD: usize = 64 * 1024;

/// Collects one body after the other.
pub struct Staging {
    delivery: Rc<RefCell<Delivery>>,
    store: Store,
}

impl Staging {
    /// An empty body; `delivery` gives the file when it grows.
    pub fn new(delivery: Rc<RefCell<Delivery>>) -> Staging {
        Staging {
            delivery,
            store: Store::Memory(Vec::new()),
        }
    }

    fn spill(&mut self) -> io::Result<&mut Store> {
        if let Store::Memory(bytes) = &mut self.store {
            let held = std::mem::take(bytes);
            self.store = Store::File {
                file: self.delivery.borrow_mut().begin(&mut Offers::default())?,
                length: held.len() as u64,
                held,
            };
        }
        Ok(&mut self.store)
    }
}

/// Small pieces are gathered; one that is as long as what would be gathered is not copied.
fn hold_or_write(file: &mut impl Write, held: &mut Vec<u8>, octets: &[u8]) -> io::Result<()> {
    if held.len() + octets.len() > HELD {
        file.write_all(held)?;
        held.clear();
    }
    if octets.len() > HELD / 2 {
        file.write_all(held)?;
        held.clear();
        return file.write_all(octets);
    }
    held.extend_from_slice(octets);
    Ok(())
}

impl Drop for Staging {
    /// A file that no message took is given up with its door: delivery would keep it until the next one.
    fn drop(&mut self) {
        if let (Store::File { .. }, Ok(mut delivery)) = (&self.store, self.delivery.try_borrow_mut()) {
            delivery.door = None;
        }
    }
}

impl BodySink for Staging {
    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if let Store::Memory(bytes) = &mut self.store
            && bytes.len() + octets.len() <= INLINE_BODY
        {
            bytes.extend_from_slice(octets);
            return Ok(());
        }
        if let Store::File { file, length, held } = self.spill()? {
            *length += octets.len() as u64;
            hold_or_write(file, held, octets)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<Body> {
        match std::mem::replace(&mut self.store, Store::Memory(Vec::new())) {
            Store::Memory(bytes) => Ok(Body::Inline(bytes)),
            Store::File { mut file, length, held } => {
                file.write_all(&held)?;
                self.delivery.borrow_mut().staged = Some(file);
                Ok(Body::Staged { length })
            }
        }
    }

    fn reset(&mut self) {
        self.delivery.borrow_mut().staged = None;
        self.store = Store::Memory(Vec::new());
    }
}

#[cfg(test)]
mod tests;
