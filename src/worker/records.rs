//! The worker's way to files of records: a door to the logger, asked for with the first record.
//!
//! A logger that has no room holds the session up, for a while; what it then still does not take is lost, for this session.
//! One that dies is followed by another, which takes what comes next; what the dead one had not confirmed may be lost.
//! Losses are said when the first is seen, and counted at the end. Nothing here may wait without an end.

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
    /// Why the first record was lost.
    lost: Option<RecordError>,
    /// No more is tried.
    given_up: bool,
    /// Whether the next record goes on with one that was sent.
    within: bool,
    /// Records behind this door that the logger has not confirmed.
    unconfirmed: u64,
    /// Records that never reached a logger.
    count: u64,
    /// Records that one had when it died.
    unsure: u64,
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
            given_up: false,
            within: false,
            unconfirmed: 0,
            count: 0,
            unsure: 0,
        }
    }

    /// Says what was lost in all, if anything was.
    pub fn finish(&self) {
        if self.count > 0 || self.unsure > 0 {
            let event = Event::new("records-lost").field("session", &self.session);
            let event = event.field("count", self.count).field("unconfirmed", self.unsure);
            self.log.say(Level::Error, event);
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
        if !matches!(sent, Err(Fault::Closed)) {
            return sent;
        }
        self.left_alone();
        if std::mem::take(&mut self.within) {
            return sent; // its beginning is gone
        }
        self.door()?.send_within(message, PATIENCE)
    }

    /// The logger behind the door is dead.
    fn left_alone(&mut self) {
        self.door = None;
        let unsure = std::mem::take(&mut self.unconfirmed);
        if unsure > 0 {
            self.unsure = self.unsure.saturating_add(unsure);
            self.lose("the logger died");
        }
    }

    fn lose(&mut self, reason: &str) -> RecordError {
        if let Some(lost) = &self.lost {
            return lost.clone();
        }
        let event = Event::new("record-lost").field("session", &self.session);
        self.log.say(Level::Error, event.quoted("reason", reason.as_bytes()));
        self.lost.insert(RecordError(reason.to_owned())).clone()
    }

    /// What a fault means: a dead logger is followed by another, a silent one by nobody.
    fn failed(&mut self, fault: &Fault) -> RecordError {
        if !matches!(fault, Fault::Closed) {
            self.given_up = true;
            self.door = None;
        }
        self.lose(&fault.to_string())
    }
}

impl Records for Recorder<'_> {
    fn write(&mut self, record: Record) -> Result<(), RecordError> {
        let more = record.more;
        let sent = match self.given_up {
            true => Err(self.lose("given up")),
            false => self
                .send(&ToLogger::Record(record))
                .map_err(|fault| self.failed(&fault)),
        };
        // One that fails in its midst is not gone on with.
        self.within = more && sent.is_ok();
        match sent {
            Ok(()) if !more => self.unconfirmed = self.unconfirmed.saturating_add(1),
            Ok(()) => {}
            Err(_) => self.count = self.count.saturating_add(1),
        }
        sent
    }

    fn sync(&mut self) -> Result<(), RecordError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        let answer = self
            .send(&ToLogger::Sync)
            .and_then(|()| self.door()?.receive_within(PATIENCE));
        match answer {
            // Another logger than the one that was given the records knows nothing of them.
            Ok((FromLogger::Written, _)) => {
                self.unconfirmed = 0;
                self.lost.clone().map_or(Ok(()), Err)
            }
            // It goes on with what comes, and counts what it loses.
            Ok((FromLogger::Lost(reason), _)) => Err(self.lose(&reason)),
            Err(fault) => {
                if matches!(fault, Fault::Closed) {
                    self.left_alone();
                }
                Err(self.failed(&fault))
            }
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
