//! A worker's end: the only way by which it gets a connection, or knows a name.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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
}

impl Client {
    /// Over `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            channel: Channel::new(door),
            next: Cell::new(0),
        }
    }

    /// A connection to `endpoint`, waiting for it at most `patience`. It does not block.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(&self, endpoint: &Endpoint, patience: Duration) -> Result<OwnedFd, Error> {
        let end = Instant::now() + patience;
        self.channel.send(&ToBroker::Connect(endpoint.clone()))?;
        loop {
            match self
                .channel
                .receive_within(end.saturating_duration_since(Instant::now()))?
            {
                (FromBroker::Connected { .. }, Some(fd)) => return Ok(fd),
                (FromBroker::Unreachable(reason), None) => return Err(Error::Unreachable(reason)),
                // To a question that nobody waits for any more.
                (FromBroker::Answer { .. }, None) => {}
                _ => return Err(Error::Confused),
            }
        }
    }

    /// The answers to `questions`, in their order; what did not come within `patience` is [`Answer::TimedOut`].
    ///
    /// # Errors
    /// The broker is gone, or does not speak as agreed.
    pub fn resolve(&self, questions: &[Question], patience: Duration) -> Result<Vec<Answer>, Error> {
        let end = Instant::now() + patience;
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(MOST_QUESTIONS) {
            let first = self.next.get();
            let mut open = vec![None; some.len()];
            for (question, id) in some.iter().zip(first..) {
                let question = question.clone();
                self.channel.send(&ToBroker::Resolve { id, question })?;
                self.next.set(id.wrapping_add(1));
            }
            while open.iter().any(Option::is_none) {
                match self
                    .channel
                    .receive_within(end.saturating_duration_since(Instant::now()))
                {
                    Ok((FromBroker::Answer { id, answer }, None)) => {
                        let place = usize::try_from(id.wrapping_sub(first)).unwrap_or(usize::MAX);
                        if let Some(place) = open.get_mut(place) {
                            *place = Some(answer);
                        }
                    }
                    Err(Fault::TimedOut) => break,
                    Err(fault) => return Err(fault.into()),
                    Ok(_) => return Err(Error::Confused),
                }
            }
            answers.extend(open.into_iter().map(|answer| answer.unwrap_or(Answer::TimedOut)));
        }
        Ok(answers)
    }
}
