//! The body of the message under way, and the door to delivery that takes it.
//!
//! A small body stays in memory and travels inside the commit; a larger one goes to a file that delivery
//! opened, passed through the door. Either way it is only *staged*: delivery makes its own copy.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

use crate::chain::{BodySink, DeliveryError, DeliveryPort};
use crate::delivery::client::{Client, Error, PATIENCE};
use crate::ipc::delivery::{Body, Commit, INLINE_BODY, Outcome};
use crate::ipc::frame;
use crate::ipc::link::Role;

use super::link::Link;

/// The door, opened again when delivery was restarted or replaced in between.
pub struct Delivery {
    door: Option<Client>,
    /// The file of the body under way, to be copied if its door closes before the message was taken.
    staged: Option<File>,
    link: Rc<Link>,
}

impl Delivery {
    /// Uses `door`, and `link` to ask for another one.
    pub fn new(door: Client, link: Rc<Link>) -> Delivery {
        Delivery {
            door: Some(door),
            staged: None,
            link,
        }
    }

    /// The door, if it is still open; else a new one.
    fn door(&mut self) -> io::Result<Client> {
        match self.door.take() {
            Some(door) if !door.is_closed() => Ok(door),
            _ => Ok(Client::new(self.link.open(Role::Delivery)?, PATIENCE)),
        }
    }

    /// A file for a body; 452 territory when there is no space.
    fn begin(&mut self) -> io::Result<File> {
        let mut door = self.door()?;
        let mut begun = door.begin(0);
        if matches!(begun, Err(Error::Channel(_))) {
            // A delivery process that was replaced or died just now: nothing is lost yet.
            door = self.door()?;
            begun = door.begin(0);
        }
        let file = begun.map_err(|error| match error {
            Error::Full => io::ErrorKind::StorageFull.into(),
            other => io::Error::other(other),
        })?;
        self.door = Some(door);
        Ok(file)
    }

    /// A body that does not fit into a frame beside its envelope goes to a file, as a longer one does.
    fn room_for(&mut self, mut commit: Commit) -> io::Result<Commit> {
        if let Body::Inline(bytes) = &commit.body
            && bytes.len() + commit.envelope_octets() > frame::MAXIMUM
        {
            let mut file = self.begin()?;
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
        let commit = self
            .room_for(commit)
            .map_err(|error| DeliveryError::new(error.to_string()))?;
        let door = match (&commit.body, self.door.take()) {
            // The staged file belongs to this very door.
            (Body::Staged { .. }, Some(door)) => door,
            (Body::Staged { .. }, None) => return Err(DeliveryError::new("the door closed behind the body")),
            (Body::Inline(_), door) => {
                self.door = door;
                self.door().map_err(|error| DeliveryError::new(error.to_string()))?
            }
        };
        let (door, outcome) = match door.commit(commit) {
            Err(Error::Untaken(commit)) => self
                .offer_again(*commit)
                .map_err(|error| DeliveryError::new(error.to_string()))?,
            other => (door, other),
        };
        let outcome = outcome.map_err(|error| DeliveryError::new(error.to_string()))?;
        self.door = Some(door);
        Ok(outcome)
    }

    /// Offers a message that surely was not taken to the delivery process that has come since.
    fn offer_again(&mut self, commit: Commit) -> io::Result<(Client, Result<Outcome, Error>)> {
        let Body::Staged { length } = commit.body else {
            let door = self.door()?;
            let outcome = door.commit(commit);
            return Ok((door, outcome));
        };
        let before = self.staged.take().ok_or(io::ErrorKind::NotConnected)?;
        let mut after = self.begin()?;
        copy(&before, &mut after, length)?;
        let door = self.door.take().ok_or(io::ErrorKind::NotConnected)?;
        let outcome = door.commit(commit);
        Ok((door, outcome))
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
                file: self.delivery.borrow_mut().begin()?,
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
mod tests {
    use super::*;

    /// Counts calls.
    #[derive(Default)]
    struct Counted(Vec<u8>, usize);

    impl Write for Counted {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.1 += usize::from(!octets.is_empty());
            self.0.extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn pieces_of_any_size_are_written_in_order_and_in_few_calls() {
        for size in [1, 3, 1000, HELD / 2, HELD / 2 + 1, HELD, 3 * HELD] {
            let body: Vec<u8> = (0..10 * HELD).map(|at| (at / 7) as u8).collect();
            let (mut file, mut held) = (Counted::default(), Vec::new());
            for piece in body.chunks(size) {
                hold_or_write(&mut file, &mut held, piece).unwrap();
                assert!(held.len() <= HELD);
            }
            file.write_all(&held).unwrap();
            assert!(file.0 == body, "{size}");
            assert!(file.1 <= 21, "{size}: {} calls", file.1);
        }
    }
}
