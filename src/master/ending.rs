//! How the daemon ends: workers first, then delivery, the logger last, so that the last line is written.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::ipc::link::Role;
use crate::log::{Event, Level};

use super::Master;

/// The exit status when a helper was lost (EX_SOFTWARE of sysexits.h).
const EX_SOFTWARE: u8 = 70;
/// How long workers have once they are killed, and helpers once they may end.
const LAST: Duration = Duration::from_secs(5);

/// Whose end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Workers,
    Killed,
    Delivery,
    Logger,
    Over,
}

/// An end under way.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    phase: Phase,
    /// When patience ends.
    pub until: Instant,
}

impl Master {
    /// The exit status when there is nothing left to wait for.
    pub(super) fn ended(&mut self, now: Instant) -> Option<u8> {
        loop {
            let Ending { phase, until } = self.ending?;
            let late = now >= until;
            let next = match phase {
                Phase::Workers if self.workers.is_empty() => Phase::Delivery,
                Phase::Workers if late => Phase::Killed,
                Phase::Killed if late || self.workers.is_empty() => Phase::Delivery,
                Phase::Delivery if late || self.gone.contains(&Role::Delivery) => Phase::Logger,
                Phase::Logger if late || self.gone.contains(&Role::Logger) => Phase::Over,
                Phase::Over => return Some(self.status),
                Phase::Workers | Phase::Killed | Phase::Delivery | Phase::Logger => return None,
            };
            self.enter(next, now);
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        let mut patience = LAST;
        match phase {
            Phase::Killed => {
                let event = Event::new("workers-killed").field("count", self.workers.len());
                self.say(Level::Warning, event);
                self.workers.kill();
            }
            Phase::Delivery => {
                self.ready.helpers.broker.release();
                self.ready.helpers.keeper.release();
                self.ready.helpers.delivery.release();
                if self.status == 0 {
                    patience += self.ready.served.daemon.grace_time;
                }
            }
            Phase::Logger => {
                let event = Event::new("stopped").field("connections", self.served_sum);
                self.say(Level::Notice, event);
                self.ready.helpers.logger.release();
            }
            Phase::Workers | Phase::Over => {}
        }
        self.ending = Some(Ending {
            phase,
            until: now + patience,
        });
    }

    /// First time: drain with a grace time. Second time: end at once; helpers see that we are gone.
    pub(super) fn stop(&mut self) {
        if self.ending.is_some() {
            self.workers.kill();
            self.say(Level::Notice, Event::new("stopped-at-once"));
            self.ending = Some(Ending {
                phase: Phase::Over,
                until: Instant::now(),
            });
        } else {
            self.ready.notify.stopping();
            self.stop_within(self.ready.served.daemon.grace_time);
        }
    }

    /// The parent half of a helper is dead: the daemon ends, so that the service manager starts afresh.
    pub(super) fn helper_gone(&mut self, role: Role) {
        self.gone.insert(role);
        if self.ending.is_none() {
            self.say(Level::Critical, Event::new("helper-gone").field("role", role.name()));
            if role == Role::Logger {
                let _ = writeln!(io::stderr(), "rsmtpd: the logger is gone");
            }
            self.status = EX_SOFTWARE;
            self.ready.notify.stopping();
            self.stop_within(LAST);
        }
    }

    pub(super) fn stop_within(&mut self, grace: Duration) {
        let event = Event::new("stopping").field("workers", self.workers.len());
        self.say(Level::Notice, event);
        self.ending = Some(Ending {
            phase: Phase::Workers,
            until: Instant::now() + grace,
        });
        self.watch_listeners(false);
        self.workers.drain();
        for listener in self.ready.listeners.drain(..) {
            self.workers.close(listener);
        }
        for closer in self.ready.closers.drain(..) {
            super::reload::close(&closer);
        }
    }
}
