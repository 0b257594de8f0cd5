//! A worker's end: the only way by which it gets a connection, or knows a name.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::ipc::broker::{Answer, Endpoint, FromBroker, MOST_QUESTIONS, Question, ToBroker};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::numbered::Numbered;
use crate::sys::random;

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
    channel: Channel<Numbered<ToBroker>, Numbered<FromBroker>>,
    /// Numbers of what was asked and not answered yet.
    open: RefCell<Vec<u64>>,
}

impl Client {
    /// Over `door`.
    pub fn new(door: OwnedFd) -> Client {
        Client {
            channel: Channel::new(door),
            open: RefCell::default(),
        }
    }

    /// Whether all that was asked was answered.
    pub fn is_whole(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// A connection to `endpoint`, waiting for it until `end` at most. It does not block.
    ///
    /// # Errors
    /// There is none.
    pub fn connect(&self, endpoint: &Endpoint, end: Instant) -> Result<OwnedFd, Error> {
        let asked = self.ask(ToBroker::Connect(endpoint.clone()))?;
        loop {
            let (answer, fd) = self.hear(end)?;
            match (answer.words, fd) {
                // To a question that nobody waits for any more.
                _ if answer.number != asked => {}
                (FromBroker::Connected { .. }, Some(fd)) => return Ok(fd),
                (FromBroker::Unreachable(reason), None) => return Err(Error::Unreachable(reason)),
                _ => return Err(Error::Confused),
            }
        }
    }

    /// The answers to `questions`, in their order; what did not come until `end` is [`Answer::TimedOut`].
    ///
    /// # Errors
    /// The broker is gone, or does not speak as agreed.
    pub fn resolve(&self, questions: &[Question], end: Instant) -> Result<Vec<Answer>, Error> {
        let mut asked = Vec::with_capacity(questions.len());
        let mut answers = vec![None; questions.len()];
        while answers.iter().any(Option::is_none) {
            // Those that nobody waits for any more count until they are answered, which they are.
            while self.open.borrow().len() < MOST_QUESTIONS
                && let Some(question) = questions.get(asked.len())
            {
                asked.push(self.ask(ToBroker::Resolve(question.clone()))?);
            }
            let (number, words) = match self.hear(end) {
                Ok((answer, _)) => (answer.number, answer.words),
                Err(Fault::TimedOut) => break,
                Err(fault) => return Err(fault.into()),
            };
            let place = asked.iter().position(|asked| *asked == number);
            match (place.and_then(|place| answers.get_mut(place)), words) {
                (Some(place), FromBroker::Answer(answer)) => *place = Some(answer),
                (Some(_), _) => return Err(Error::Confused),
                (None, _) => {}
            }
        }
        let late = |answer: Option<Answer>| answer.unwrap_or(Answer::TimedOut);
        Ok(answers.into_iter().map(late).collect())
    }

    /// The number by which the answer is known.
    fn ask(&self, words: ToBroker) -> Result<u64, Fault> {
        let number = random::number()?;
        self.channel.send(&Numbered { number, words })?;
        self.open.borrow_mut().push(number);
        Ok(number)
    }

    /// The next thing that the broker says to us until `end`: it may still answer to whoever had the door before.
    fn hear(&self, end: Instant) -> Result<(Numbered<FromBroker>, Option<OwnedFd>), Fault> {
        loop {
            let patience = end.saturating_duration_since(Instant::now());
            let heard = self.channel.receive_within(patience)?;
            let mut open = self.open.borrow_mut();
            if let Some(place) = open.iter().position(|number| *number == heard.0.number) {
                open.swap_remove(place);
                return Ok(heard);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    type Broker = Channel<Numbered<FromBroker>, Numbered<ToBroker>>;

    fn door() -> (Client, Broker) {
        let (ours, theirs) = socket::seqpacket_pair().unwrap();
        (Client::new(ours), Channel::new(theirs))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            host: "mail.example".into(),
            port: 25,
        }
    }

    fn names(name: &str) -> FromBroker {
        FromBroker::Answer(Answer::Names(vec![name.to_owned()]))
    }

    #[test]
    fn what_another_one_asked_for_is_not_taken() {
        let (client, broker) = door();
        let (pipe, _other) = std::io::pipe().unwrap();
        let connected = || FromBroker::Connected {
            to: ([192, 0, 2, 1], 25).into(),
        };
        let say = |number, words, fd: Option<&std::io::PipeReader>| {
            let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
            broker.send_nowait(&Numbered { number, words }, &fds).unwrap();
        };
        say(1, connected(), Some(&pipe));
        say(2, names("before.example"), None);
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2 {
                    let (asked, _) = broker.receive().unwrap();
                    let words = match asked.words {
                        ToBroker::Connect(_) => FromBroker::Unreachable("ours".into()),
                        ToBroker::Resolve(_) => names("ours.example"),
                    };
                    say(asked.number.wrapping_add(1), connected(), Some(&pipe));
                    say(asked.number, words, None);
                }
            });
            let reached = client.connect(&endpoint(), soon()).map_err(|error| error.to_string());
            let question = Question::A("ours.example".into());
            (reached, client.resolve(&[question], soon()).unwrap())
        });
        assert_eq!(answered.0.unwrap_err(), "ours");
        assert_eq!(answered.1, [Answer::Names(vec!["ours.example".into()])]);
        assert!(client.is_whole());
    }

    #[test]
    fn what_was_not_waited_for_is_still_open() {
        let (client, broker) = door();
        let question = [Question::A("late.example".into())];
        assert_eq!(client.resolve(&question, Instant::now()).unwrap(), [Answer::TimedOut]);
        assert!(!client.is_whole());
        let (asked, _) = broker.receive().unwrap();
        let late = Numbered {
            number: asked.number,
            words: names("late.example"),
        };
        broker.send(&late).unwrap();
        let error = client.connect(&endpoint(), Instant::now() + Duration::from_millis(50));
        assert!(matches!(error, Err(Error::Channel(Fault::TimedOut))));
        assert_eq!(client.open.borrow().len(), 1, "the connection alone");
    }
}
