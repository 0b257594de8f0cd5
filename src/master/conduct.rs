//! What a worker may say when: a pure function of what it has said before.
//!
//! A worker speaks the truth until its client has taken it over, and its client has said nothing before it is
//! reported. From then on little is left to say, so that a captured worker can neither pass for a spare, nor count
//! clients that are not there, nor keep the master busy.

use std::net::SocketAddr;

use crate::ipc::link::{FromWorker, INTRODUCTIONS, Role};

/// The longest session identifier.
const SESSION: usize = 32;

/// Doors for records that a worker may ask for while it has one client: one, and another each time the logger has
/// started again. A captured worker gains with it no more than as many quotas of the log.
const RECORDS: u8 = 4;

/// What a worker does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Forked, not heard of yet.
    Starting,
    /// Waits for a client.
    Spare,
    /// Serves one.
    Busy {
        /// The client.
        peer: SocketAddr,
        /// The session's identifier.
        session: String,
    },
    /// Was told to leave, or has said that it is done.
    Leaving,
}

/// What one worker may still say.
#[derive(Debug)]
pub(super) struct Conduct {
    /// Clients that it may still take.
    clients: u32,
    /// Whether it may say that the configuration has changed: once a client.
    may_notice: bool,
    /// Doors for records that it may still ask for.
    records: u8,
    /// Clients that it may still name on its connection.
    introductions: u8,
    /// It has given up the door to delivery that it was lent: it has no second one.
    has_closed: bool,
}

impl Conduct {
    /// Of a worker that was forked to take so many clients.
    pub(super) fn new(clients: u32) -> Conduct {
        Conduct {
            clients,
            may_notice: false,
            records: 0,
            introductions: 0,
            has_closed: false,
        }
    }

    /// Takes note of what a worker in this state says; what is wrong with it.
    pub(super) fn judge(&mut self, state: &State, message: &FromWorker) -> Result<(), &'static str> {
        let busy = matches!(state, State::Busy { .. });
        match message {
            FromWorker::Ready if busy || *state == State::Spare => Err("ready out of turn"),
            FromWorker::Ready | FromWorker::Refused { .. } | FromWorker::NoProxy { .. } if self.clients == 0 => {
                Err("more clients than it may have")
            }
            FromWorker::Refused { .. } | FromWorker::NoProxy { .. } if busy => Err("refused while busy"),
            FromWorker::Ready | FromWorker::Refused { .. } | FromWorker::NoProxy { .. } => Ok(()),
            FromWorker::Busy { .. } if busy => Err("busy twice"),
            FromWorker::Busy { .. } if self.clients == 0 => Err("more clients than it may have"),
            FromWorker::Busy { session, .. } if !is_session(session) => Err("no session identifier"),
            FromWorker::Busy { .. } => {
                self.clients -= 1;
                self.may_notice = true;
                self.records = RECORDS;
                self.introductions = INTRODUCTIONS;
                Ok(())
            }
            FromWorker::Client { .. } if !busy || self.introductions == 0 => Err("client out of turn"),
            FromWorker::Client { .. } => {
                self.introductions -= 1;
                Ok(())
            }
            FromWorker::Changed { .. } if !busy || !std::mem::take(&mut self.may_notice) => Err("changed out of turn"),
            FromWorker::Open { helper: Role::Logger } if busy && self.records > 0 => {
                self.records -= 1;
                Ok(())
            }
            FromWorker::Open { helper } if !busy || !matches!(helper, Role::Delivery | Role::Keeper | Role::Broker) => {
                Err("no such door")
            }
            FromWorker::Close { helper: Role::Delivery } if busy && !self.has_closed => {
                self.has_closed = true;
                Ok(())
            }
            FromWorker::Close { .. } => Err("closed out of turn"),
            FromWorker::Done if !busy => Err("done out of turn"),
            FromWorker::Changed { .. } | FromWorker::Open { .. } | FromWorker::Done => Ok(()),
        }
    }
}

/// Whether it is one of ours: it stands in logs and in what `rsmtpd status` prints.
fn is_session(session: &str) -> bool {
    (1..=SESSION).contains(&session.len()) && session.bytes().all(|octet| octet.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(session: &str) -> FromWorker {
        FromWorker::Busy {
            peer: ([192, 0, 2, 1], 25).into(),
            session: session.to_owned(),
            is_proxy: false,
        }
    }

    fn serving() -> State {
        State::Busy {
            peer: ([192, 0, 2, 1], 25).into(),
            session: "a1".to_owned(),
        }
    }

    fn refused() -> FromWorker {
        FromWorker::Refused {
            peer: ([192, 0, 2, 1], 25).into(),
            limit: crate::ipc::sources::Limit::Rate,
        }
    }

    const DOOR: FromWorker = FromWorker::Open { helper: Role::Delivery };
    const CLOSE: FromWorker = FromWorker::Close { helper: Role::Delivery };
    const RECORDING: FromWorker = FromWorker::Open { helper: Role::Logger };
    fn client() -> FromWorker {
        let peer = ([198, 51, 100, 1], 25).into();
        FromWorker::Client { peer }
    }

    const CHANGED: FromWorker = FromWorker::Changed { fingerprint: 1 };

    #[test]
    fn the_life_of_a_worker_passes() {
        let mut conduct = Conduct::new(2);
        let steps = [
            (State::Starting, FromWorker::Ready),
            (State::Spare, refused()),
            (State::Spare, busy("a1")),
            (serving(), CHANGED),
            (serving(), client()),
            (serving(), DOOR),
            (serving(), DOOR),
            (serving(), CLOSE),
            (serving(), FromWorker::Done),
            (State::Leaving, FromWorker::Ready),
            // It was told to leave when a client had just come.
            (State::Leaving, busy("a2")),
            (serving(), CHANGED),
        ];
        for (state, message) in steps {
            assert_eq!(conduct.judge(&state, &message), Ok(()), "{message:?}");
        }
    }

    #[test]
    fn a_captured_worker_can_say_next_to_nothing() {
        let of_one = || {
            let mut conduct = Conduct::new(1);
            conduct.judge(&State::Spare, &busy("a1")).unwrap();
            conduct
        };
        let wrong = [
            (serving(), FromWorker::Ready),
            (serving(), busy("a2")),
            (serving(), refused()),
            (State::Leaving, RECORDING),
            (serving(), FromWorker::Open { helper: Role::Master }),
            // After it has said that its only client is gone.
            (State::Leaving, FromWorker::Ready),
            (State::Leaving, busy("a2")),
            (State::Leaving, refused()),
            (State::Leaving, FromWorker::Done),
            (State::Leaving, DOOR),
            (State::Leaving, CLOSE),
            (serving(), FromWorker::Close { helper: Role::Keeper }),
            (State::Leaving, CHANGED),
            (State::Leaving, client()),
        ];
        for (state, message) in wrong {
            assert!(of_one().judge(&state, &message).is_err(), "{state:?} {message:?}");
        }
        let mut conduct = of_one();
        assert_eq!(conduct.judge(&serving(), &CHANGED), Ok(()));
        assert!(conduct.judge(&serving(), &CHANGED).is_err(), "once a client");
        let mut conduct = of_one();
        assert_eq!(conduct.judge(&serving(), &CLOSE), Ok(()));
        assert!(conduct.judge(&serving(), &CLOSE).is_err(), "once a life");
        let mut conduct = of_one();
        for _ in 0..RECORDS {
            assert_eq!(conduct.judge(&serving(), &RECORDING), Ok(()));
        }
        assert!(conduct.judge(&serving(), &RECORDING).is_err(), "a few times a client");
        let mut conduct = of_one();
        for _ in 0..INTRODUCTIONS {
            assert_eq!(conduct.judge(&serving(), &client()), Ok(()));
        }
        assert!(
            conduct.judge(&serving(), &client()).is_err(),
            "a few dozen times a connection"
        );
        for session in ["", "a b", "a\nworker=1", "\u{1b}[2J", &"a".repeat(60_000)] {
            assert!(
                Conduct::new(1).judge(&State::Spare, &busy(session)).is_err(),
                "{session:.20}"
            );
        }
    }
}
