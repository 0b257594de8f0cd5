//! The worker's way to files of records: a door to the logger, asked for with the first record.
//!
//! A logger that has no room holds the session up, for a while; what it then still does not take is lost, for this session
//! and said once. Nothing here may wait without an end.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::chain::{RecordError, Records};
use crate::ipc::channel::{Channel, Fault};
use crate::ipc::link::Role;
use crate::ipc::log::ToLogger;
use crate::ipc::record::{FromLogger, Record};
use crate::log::{Event, Level};
use crate::logger::client::Client as Log;

use super::link::Link;

/// How long the logger may take for one record.
const PATIENCE: Duration = Duration::from_secs(5);

type Door = Channel<ToLogger, FromLogger>;

/// The records of one session.
pub struct Recorder<'a> {
    link: Rc<Link>,
    log: &'a Log,
    session: String,
    door: Option<Door>,
    lost: Option<RecordError>,
    /// Whether the next record goes on with one that was sent.
    within: bool,
}

impl<'a> Recorder<'a> {
    /// Those of `session`, without a door yet.
    pub fn new(link: Rc<Link>, log: &'a Log, session: &str) -> Recorder<'a> {
        Recorder {
            link,
            log,
            session: session.to_owned(),
            door: None,
            lost: None,
            within: false,
        }
    }

    fn door(&mut self) -> Result<&Door, Fault> {
        if self.door.is_none() {
            let fd = self.link.open(Role::Logger).map_err(Fault::Io)?;
            self.door = Some(Channel::new(fd));
        }
        self.door.as_ref().ok_or(Fault::Closed)
    }

    /// Sends, once more through a new door if the logger behind the old one is gone.
    fn send(&mut self, message: &ToLogger) -> Result<(), Fault> {
        let sent = self.door().and_then(|door| door.send_within(message, PATIENCE));
        if matches!(sent, Err(Fault::Closed)) && !self.within {
            self.door = None;
            return self.door()?.send_within(message, PATIENCE);
        }
        sent
    }

    fn lose(&mut self, reason: &str) -> RecordError {
        let event = Event::new("records-lost").field("session", &self.session);
        self.log.say(Level::Error, event.quoted("reason", reason.as_bytes()));
        let error = RecordError(reason.to_owned());
        self.lost = Some(error.clone());
        self.door = None;
        error
    }
}

impl Records for Recorder<'_> {
    fn write(&mut self, record: Record) -> Result<(), RecordError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let more = record.more;
        match self.send(&ToLogger::Record(record)) {
            Ok(()) => {
                self.within = more;
                Ok(())
            }
            Err(fault) => Err(self.lose(&fault.to_string())),
        }
    }

    fn sync(&mut self) -> Result<(), RecordError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let answer = self
            .send(&ToLogger::Sync)
            .and_then(|()| self.door()?.receive_within(PATIENCE));
        match answer {
            Ok((FromLogger::Written, _)) => Ok(()),
            Ok((FromLogger::Lost(reason), _)) => Err(self.lose(&reason)),
            Err(fault) => Err(self.lose(&fault.to_string())),
        }
    }

    fn now(&self) -> i64 {
        now_micros()
    }
}

/// Microseconds since the epoch.
pub(super) fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
