//! The end of a door to the keeper that a worker holds.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::keeper::{FromKeeper, KeyName, ToKeeper};
use crate::ipc::numbered::Numbered;
use crate::sys::random;

/// How long an answer may take: a signature is made in a millisecond, but the keeper may have to be started again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers to others that may lie in a door: more than there ever are.
const LATE: usize = 4;

/// The keeper did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is gone, silent, or does not speak as agreed.
    #[error("keeper: {0}")]
    Channel(#[from] Fault),
    /// It said no.
    #[error("keeper: {0}")]
    Refused(&'static str),
}

/// A door.
#[derive(Debug)]
pub struct Client {
    door: Channel<Numbered<ToKeeper>, Numbered<FromKeeper>>,
    is_whole: AtomicBool,
}

impl Client {
    /// Asks through `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            door: Channel::new(door),
            is_whole: AtomicBool::new(true),
        }
    }

    /// Whether all that was asked was answered.
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Relaxed)
    }

    /// Whether all that was asked was answered, and the keeper still listens as far as can be seen without asking.
    pub fn is_open(&self) -> bool {
        // Answers to whoever had the door before are taken out.
        let silent = (0..LATE).find_map(|_| self.door.receive_nowait().err());
        self.is_whole() && matches!(silent, Some(Fault::WouldBlock))
    }

    /// Whether the keeper is there and has this key.
    ///
    /// # Errors
    /// It is not, or has not.
    pub fn holds(&self, key: KeyName) -> Result<(), Error> {
        match self.ask(ToKeeper::Holds { key })? {
            FromKeeper::Held => Ok(()),
            _ => Err(Error::Refused("it has no such key")),
        }
    }

    /// The signature of `message`, which must be of a handshake.
    ///
    /// # Errors
    /// The keeper refuses, or is not there.
    pub fn sign(&self, key: KeyName, scheme: u16, message: Vec<u8>) -> Result<Vec<u8>, Error> {
        match self.ask(ToKeeper::Sign { key, scheme, message })? {
            FromKeeper::Signature(signature) => Ok(signature),
            _ => Err(Error::Refused("it refuses to sign")),
        }
    }

    fn ask(&self, words: ToKeeper) -> Result<FromKeeper, Error> {
        let answer = self.answer(words);
        self.is_whole.fetch_and(answer.is_ok(), Relaxed);
        Ok(answer?)
    }

    /// The answer to this very question: one to whoever had the door before may still come.
    fn answer(&self, words: ToKeeper) -> Result<FromKeeper, Fault> {
        let end = Instant::now() + PATIENCE;
        let number = random::number()?;
        self.door.send(&Numbered { number, words })?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (answer, _) = self.door.receive_within(left)?;
            if answer.number == number {
                return Ok(answer.words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;

    #[test]
    fn only_the_answer_to_its_own_question_counts() {
        let (ours, theirs) = socket::seqpacket_pair().unwrap();
        let keeper: Channel<Numbered<FromKeeper>, Numbered<ToKeeper>> = Channel::new(theirs);
        let late = FromKeeper::Signature(b"of another handshake".to_vec());
        let answering = std::thread::spawn(move || {
            for right in [b"first".to_vec(), b"second".to_vec()] {
                let (asked, _) = keeper.receive().unwrap();
                for (number, words) in [
                    (asked.number.wrapping_add(1), late.clone()),
                    (asked.number, FromKeeper::Signature(right)),
                ] {
                    keeper.send(&Numbered { number, words }).unwrap();
                }
            }
        });
        let client = Client::new(ours);
        assert!(client.is_open());
        for right in ["first", "second"] {
            let signature = client.sign([0; 32], 0x0403, Vec::new()).unwrap();
            assert_eq!(signature, right.as_bytes());
            assert!(client.is_whole());
        }
        answering.join().unwrap();
        assert!(client.is_whole() && !client.is_open());
        assert!(client.holds([0; 32]).is_err(), "it is gone");
        assert!(!client.is_whole());
    }
}
