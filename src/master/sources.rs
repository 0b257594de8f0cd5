//! The sources of connections: counted by [`SourceLimits`], told to the workers through [`Refused`].

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use crate::ipc::sources::{Limit, Refused, Source, View};
use crate::worker::served::Served;

use super::source_limits::{Limits, SourceLimits};

/// What the master knows of sources.
#[derive(Debug)]
pub(super) struct Sources {
    limits: SourceLimits,
    refused: Refused,
    trusted: Vec<IpNet>,
}

fn limits(served: &Served) -> Limits {
    let workers = &served.daemon.workers;
    Limits {
        concurrent: workers.per_source,
        per_minute: workers.per_source_rate,
    }
}

impl Sources {
    /// Nobody known yet.
    ///
    /// # Errors
    /// No memory that can be shared.
    pub(super) fn new(served: &Served, now: Instant) -> io::Result<Sources> {
        Ok(Sources {
            limits: SourceLimits::new(limits(served), now),
            refused: Refused::new(now)?,
            trusted: served.daemon.workers.trusted.clone(),
        })
    }

    /// Takes what a reload brought. What workers refuse is made anew, as connections come and go.
    pub(super) fn configure(&mut self, served: &Served) {
        self.limits.configure(limits(served));
        self.trusted.clone_from(&served.daemon.workers.trusted);
        self.refused.clear();
    }

    /// What workers see.
    pub(super) fn view(&self) -> &View {
        self.refused.view()
    }

    /// What workers are told by.
    pub(super) fn table(&self) -> &Refused {
        &self.refused
    }

    /// Counts a connection: the limit it is beyond, and the source to name when it ends (none: not counted).
    pub(super) fn opened(&mut self, address: IpAddr, now: Instant) -> (Option<Limit>, Option<Source>) {
        let address = address.to_canonical();
        if self.trusted.iter().any(|network| network.contains(&address)) {
            return (None, None);
        }
        let source = self.refused.secret().source(address);
        let opened = self.limits.opened(source, now);
        self.tell(source, now);
        (opened.beyond, opened.counted.then_some(source))
    }

    /// A counted connection ended.
    pub(super) fn closed(&mut self, source: Source, now: Instant) {
        self.limits.closed(source);
        self.tell(source, now);
    }

    /// A connection was refused; how many in this window, where a line in the log is due.
    pub(super) fn refused(&mut self, source: Source, now: Instant) -> Option<u32> {
        self.limits.refused(source, now)
    }

    /// A worker crashed while it served this source.
    pub(super) fn penalise(&mut self, source: Source, now: Instant) {
        self.limits.penalise(source, now);
        self.tell(source, now);
    }

    fn tell(&self, source: Source, now: Instant) {
        self.refused.set(source, self.limits.next(source, now), now);
    }
}
