//! Time that passes in a session because its chain wants so: the master is heard all the while, the session ends in time,
//! and a connection that breaks is noticed.

use std::io;
use std::time::{Duration, Instant};

use crate::chain::{ClientGone, PausePort};
use crate::worker::deadlines::Deadlines;
use crate::worker::link::{Link, Order};
use crate::worker::transport::{Heard, Transport};

/// What of a dialogue is needed to wait.
pub(super) struct Waiting<'t> {
    pub(super) transport: &'t mut Transport,
    pub(super) deadlines: &'t mut Deadlines,
    /// Replies that were not written yet.
    pub(super) out: &'t mut Vec<u8>,
    pub(super) link: &'t Link,
    /// Why there is nobody to wait for, for the owner of the dialogue.
    pub(super) lost: &'t mut Option<io::Error>,
}

impl Waiting<'_> {
    /// Writes the replies that are there.
    ///
    /// # Errors
    /// The connection broke, or the client did not take them in time.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.transport.write(self.out, self.deadlines.next())?;
            self.out.clear();
            self.deadlines.answered(Instant::now());
        }
        Ok(())
    }

    /// Lets time pass, unless the session's is over or the master wants to end.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn pass(&mut self, time: Duration) -> io::Result<()> {
        let until = (Instant::now() + time).min(self.deadlines.end());
        while Instant::now() < until && self.link.order() != Order::Leave {
            if self.transport.pause(until)? == Heard::Master {
                self.link.listen();
            }
        }
        self.deadlines.answered(Instant::now());
        Ok(())
    }
}

impl PausePort for Waiting<'_> {
    fn pause(&mut self, time: Duration) -> Result<(), ClientGone> {
        let passed = self.flush().and_then(|()| self.pass(time));
        passed.map_err(|error| {
            *self.lost = Some(error);
            ClientGone
        })
    }
}
