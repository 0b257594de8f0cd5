//! A worker's end: the only way by which it gets a connection, or knows a name.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::ipc::broker::{Answer, Endpoint, FromBroker, MOST_QUESTIONS, Question, ToBroker};
use crate::ipc::channel::{Channel, Fault};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker could not make a connection.
    #[error("{0}")]
    Unreachable(String),
    /// The broker is gone, silent, or does not speak as agreed. When it is gone another door leads to its successor.
    #[error("broker: {0}")]
    Channel(#[from] Fault),
    /// An answer to another question.
    #[error("the broker gave an answer that fits no question")]
    Confused,
}

/// Speaks with the broker over one door. After any error but [`Error::Unreachable`] it is of no more use.
#[derive(Debug)]
pub struct Client {
    channel: Channel<ToBroker, FromBroker>,
    next: Cell<u32>,
    /// Questions that were not answered yet.
    open: Cell<usize>,
}

impl Client {
    /// Over `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            channel: Channel::new(door),
            next: Cell::new(0),
            open: Cell::new(0),
        }
    }

    /// A connection to `endpoint`, waiting for it until `end` at most. It does not block.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(&self, endpoint: &Endpoint, end: Instant) -> Result<OwnedFd, Error> {
        self.channel.send(&ToBroker::Connect(endpoint.clone()))?;
        loop {
            match self.hear(end)? {
                (FromBroker::Connected { .. }, Some(fd)) => return Ok(fd),
                (FromBroker::Unreachable(reason), None) => return Err(Error::Unreachable(reason)),
                // To a question that nobody waits for any more.
                (FromBroker::Answer { .. }, None) => {}
                _ => return Err(Error::Confused),
            }
        }
    }

    /// The answers to `questions`, in their order; what did not come until `end` is [`Answer::TimedOut`].
    ///
    /// # Errors
    /// The broker is gone, or does not speak as agreed.
    pub fn resolve(&self, questions: &[Question], end: Instant) -> Result<Vec<Answer>, Error> {
        let first = self.next.get();
        let mut unasked = questions.iter();
        let mut answers = vec![None; questions.len()];
        while answers.iter().any(Option::is_none) {
            // Those that nobody waits for any more count until they are answered, which they are.
            while self.open.get() < MOST_QUESTIONS
                && let Some(question) = unasked.next()
            {
                let (id, question) = (self.next.get(), question.clone());
                self.channel.send(&ToBroker::Resolve { id, question })?;
                self.next.set(id.wrapping_add(1));
                self.open.set(self.open.get() + 1);
            }
            match self.hear(end) {
                Ok((FromBroker::Answer { id, answer }, None)) => {
                    let place = usize::try_from(id.wrapping_sub(first)).unwrap_or(usize::MAX);
                    if let Some(place) = answers.get_mut(place) {
                        *place = Some(answer);
                    }
                }
                Err(Fault::TimedOut) => break,
                Err(fault) => return Err(fault.into()),
                Ok(_) => return Err(Error::Confused),
            }
        }
        let late = |answer: Option<Answer>| answer.unwrap_or(Answer::TimedOut);
        Ok(answers.into_iter().map(late).collect())
    }

    /// The next thing that the broker says until `end`.
    fn hear(&self, end: Instant) -> Result<(FromBroker, Option<OwnedFd>), Fault> {
        let patience = end.saturating_duration_since(Instant::now());
        let heard = self.channel.receive_within(patience)?;
        if let FromBroker::Answer { .. } = heard.0 {
            self.open.set(self.open.get().saturating_sub(1));
        }
        Ok(heard)
    }
}
