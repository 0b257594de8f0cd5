//! How long a client may take (RFC 5321 §4.5.3.2): a pure function of time and octets.

use std::time::{Duration, Instant};

/// The configured patience.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the next command, from our last reply to its last octet.
    pub command: Duration,
    /// For the next block of a message.
    pub data: Duration,
    /// For the whole connection.
    pub session: Duration,
    /// Octets a second that a message must reach on average, after the first grace; 0 for none.
    pub data_rate: u64,
}

/// Why a client is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// No command, or no block, in time.
    Silent,
    /// The whole connection took too long.
    Session,
    /// The message comes too slowly.
    TooSlow,
}

/// Time before the data rate is looked at.
pub const GRACE: Duration = Duration::from_secs(30);

/// When the present step of a connection must be over.
#[derive(Debug)]
pub struct Deadlines {
    patience: Patience,
    opened: Instant,
    heard: Instant,
    body: Option<(Instant, u64)>,
}

impl Deadlines {
    /// For a connection accepted at `now`.
    pub fn new(patience: Patience, now: Instant) -> Deadlines {
        Deadlines {
            patience,
            opened: now,
            heard: now,
            body: None,
        }
    }

    /// `octets` came from the client.
    pub fn heard(&mut self, octets: usize, now: Instant) {
        // A command has to be complete in time: one that drips octet by octet would hold a worker for ever.
        if let Some((_, sum)) = &mut self.body {
            *sum = sum.saturating_add(octets as u64);
            self.heard = now;
        }
    }

    /// The client was answered; its time for the next command begins.
    pub fn answered(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A message begins or ends.
    pub fn in_body(&mut self, body: bool, now: Instant) {
        match (body, self.body) {
            (true, None) => self.body = Some((now, 0)),
            (false, Some(_)) => self.body = None,
            (true, Some(_)) | (false, None) => return,
        }
        self.heard = now;
    }

    /// When the client will be late, if nothing more comes.
    pub fn next(&self) -> Instant {
        let step = self.heard
            + if self.body.is_some() {
                self.patience.data
            } else {
                self.patience.command
            };
        step.min(self.opened + self.patience.session)
    }

    /// Whether the client is late.
    pub fn late(&self, now: Instant) -> Option<Late> {
        if now >= self.opened + self.patience.session {
            return Some(Late::Session);
        }
        if now >= self.next() {
            return Some(Late::Silent);
        }
        let (began, octets) = self.body?;
        let taken = now.duration_since(began);
        let owed = taken
            .saturating_sub(GRACE)
            .as_secs()
            .saturating_mul(self.patience.data_rate);
        (taken > GRACE && octets < owed).then_some(Late::TooSlow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        command: Duration::from_secs(300),
        data: Duration::from_secs(180),
        session: Duration::from_secs(3600),
        data_rate: 100,
    };

    #[test]
    fn a_silent_client_is_late_after_its_step() {
        let now = Instant::now();
        let mut deadlines = Deadlines::new(PATIENCE, now);
        assert_eq!(deadlines.late(now + Duration::from_secs(299)), None);
        assert_eq!(deadlines.late(now + Duration::from_secs(300)), Some(Late::Silent));
        deadlines.in_body(true, now);
        assert_eq!(deadlines.late(now + Duration::from_secs(180)), Some(Late::Silent));
    }

    #[test]
    fn a_dripping_message_is_given_up() {
        let now = Instant::now();
        let mut deadlines = Deadlines::new(PATIENCE, now);
        deadlines.in_body(true, now);
        for second in 0..60 {
            deadlines.heard(1, now + Duration::from_secs(second));
        }
        assert_eq!(deadlines.late(now + Duration::from_secs(60)), Some(Late::TooSlow));
        deadlines.heard(100_000, now + Duration::from_secs(60));
        assert_eq!(deadlines.late(now + Duration::from_secs(61)), None);
    }

    #[test]
    fn a_dripping_command_is_late_after_its_step() {
        let now = Instant::now();
        let mut deadlines = Deadlines::new(PATIENCE, now);
        for second in 0..300 {
            assert_eq!(deadlines.late(now + Duration::from_secs(second)), None);
            deadlines.heard(1, now + Duration::from_secs(second));
        }
        assert_eq!(deadlines.late(now + Duration::from_secs(300)), Some(Late::Silent));
        deadlines.answered(now + Duration::from_secs(300));
        assert_eq!(deadlines.late(now + Duration::from_secs(599)), None);
    }

    #[test]
    fn the_whole_connection_has_an_end() {
        let now = Instant::now();
        let mut deadlines = Deadlines::new(PATIENCE, now);
        deadlines.heard(1, now + Duration::from_secs(3599));
        assert_eq!(deadlines.late(now + Duration::from_secs(3600)), Some(Late::Session));
    }
}
