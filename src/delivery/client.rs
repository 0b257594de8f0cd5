//! A worker's end: the only way by which it hands a message on.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::delivery::{Commit, FromDelivery, Outcome, ToDelivery};

/// How long a worker waits for an answer; below the ten minutes that a client waits for the reply after the data
/// (RFC 5321 §4.5.3.2.6). Delivery has answered by then, or has given the message up.
pub const PATIENCE: Duration = Duration::from_secs(570);

/// Why delivery did not answer as hoped. After anything but [`Error::Full`] and [`Error::Refused`] the door is of no more
/// use, but for a look at [`Client::late`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No space for the body: 452 4.3.1.
    #[error("no space for the body")]
    Full,
    /// The envelope broke a rule: 451 4.3.0, and our own mistake.
    #[error("delivery refused the message: {0}")]
    Refused(String),
    /// Delivery is gone, silent, or does not speak as agreed: 451 4.3.0. It may have taken the message.
    #[error(transparent)]
    Channel(#[from] Fault),
    /// Delivery had stopped to listen before the message was sent, or has closed the door without reading it, as it does
    /// when it ends, and where somebody before us left something there: it surely has not taken it, so that it may be
    /// offered through another door.
    #[error("delivery has closed the door")]
    Untaken(Box<Commit>),
    /// An answer that fits no question: 451 4.3.0, and our own mistake.
    #[error("delivery gave an answer that fits no question")]
    Confused,
}

/// Speaks with delivery over one door.
#[derive(Debug)]
pub struct Client {
    channel: Channel<ToDelivery, FromDelivery>,
    patience: Duration,
}

impl Client {
    /// Over `door`, waiting for each answer at most `patience`.
    pub fn new(door: OwnedFd, patience: Duration) -> Client {
        Client {
            channel: Channel::new(door),
            patience,
        }
    }

    /// Whether delivery has closed its end, as it does when it ends.
    pub fn is_closed(&self) -> bool {
        !matches!(
            self.channel.receive_within(Duration::ZERO),
            Err(Fault::TimedOut | Fault::WouldBlock)
        )
    }

    /// Asks for an empty nameless file for a body longer than [`crate::ipc::delivery::INLINE_BODY`], over a door that is
    /// not lent.
    ///
    /// # Errors
    /// [`Error::Full`] when the disk has no room for `size_hint` octets; [`Error::Channel`] when there is no answer;
    /// [`Error::Confused`] when it is another one.
    pub fn begin(&self, size_hint: u64) -> Result<File, Error> {
        self.channel.send(&ToDelivery::Begin { size_hint })?;
        match self.channel.receive_within(self.patience)? {
            (FromDelivery::Staged, Some(fd)) => Ok(File::from(fd)),
            (FromDelivery::Full, None) => Err(Error::Full),
            _ => Err(Error::Confused),
        }
    }

    /// Hands the message over and waits for what became of it.
    ///
    /// # Errors
    /// [`Error::Untaken`] and [`Error::Refused`]: delivery has not taken it. After any other it may have, until the door
    /// is closed so that no answer can be sent: only then it undoes what nobody was told of.
    pub fn commit(&self, commit: Commit) -> Result<Outcome, Error> {
        let (id, recipients) = (commit.id.clone(), commit.recipients.len());
        let request = ToDelivery::Commit(commit);
        let sent = match self.channel.send(&request) {
            Err(Fault::Closed) => Err(Fault::Unheard),
            sent => sent,
        };
        let answer = sent.and_then(|()| self.answer_to(&id, self.patience));
        match (answer, request) {
            // Not sent, as nobody listened any more; or sent, and never read.
            (Err(Fault::Unheard), ToDelivery::Commit(commit)) => Err(Error::Untaken(Box::new(commit))),
            (answer, _) => judged(answer, recipients),
        }
    }

    /// What became of the message `id`, which was handed over and given up, if that has come meanwhile.
    ///
    /// # Errors
    /// It has not.
    pub fn late(&self, id: &str, recipients: usize) -> Result<Outcome, Error> {
        judged(self.answer_to(id, Duration::ZERO), recipients)
    }

    /// The answer about this very message. Whoever had the door before cannot know its identifier, so that nothing he may
    /// have asked is answered to us.
    fn answer_to(&self, message: &str, patience: Duration) -> Result<FromDelivery, Fault> {
        self.channel.answer_within(patience, |answer| match answer {
            FromDelivery::Outcome { id, .. } | FromDelivery::Refused { id, .. } => id == message,
            FromDelivery::Staged | FromDelivery::Full => false,
        })
    }
}

fn judged(answer: Result<FromDelivery, Fault>, recipients: usize) -> Result<Outcome, Error> {
    match answer? {
        FromDelivery::Outcome { outcome, .. } if outcome.results.len() == recipients => Ok(outcome),
        FromDelivery::Refused { reason, .. } => Err(Error::Refused(reason)),
        _ => Err(Error::Confused),
    }
}
