//! `delivery.yaml`: where accepted mail goes. Read by the master at start and at SIGHUP.

use std::path::PathBuf;
use std::time::Duration;

use super::daemon::account;
use super::place::Place;
use super::section::{Field, Section};

/// Settings of the delivery process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `agent`: who stores the mail. Default maildir.
    pub agent: Agent,
    /// `user`: whom the delivery process runs as when started as root; owner of the mail. Default `rsmtpd-mail`.
    pub user: String,
    /// Where `user` stands, unless the default says it.
    pub user_place: Option<Place>,
    /// `group`: its group. Default: the user's own.
    pub group: Option<String>,
    /// Where `group` stands.
    pub group_place: Option<Place>,
    /// `acknowledge`: what the 250 after the data waits for. Default delivered.
    pub acknowledge: Acknowledge,
    /// `writers`: threads that store messages at once, 1 to 64. Default 8.
    pub writers: usize,
    /// `lda_jobs`: delivery agents running at once, 1 to 256. Default 4.
    pub lda_jobs: usize,
    /// `queue`: messages that may wait for a writer, 1 to 100000; beyond it clients read 451 4.3.2. Default 256.
    pub queue: usize,
    /// `timeout`: time for one run of the agent, 1s to 9m (clients wait ten minutes, RFC 5321 4.5.3.2.6). Default 2m.
    pub timeout: Duration,
    /// `give_up`: age at which a spooled message goes to `failed/`, 1s to 30d. Default 5d (RFC 5321 4.5.4.1).
    pub give_up: Duration,
    /// `retry`: when a spooled message is tried again.
    pub retry: Retry,
    /// `dovecot_lda`: for agent dovecot_lda.
    pub dovecot_lda: DovecotLda,
    /// `lmtp`: for agent lmtp.
    pub lmtp: Lmtp,
}

/// When a spooled message is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// `first`: the wait after the first attempt, 1s to 1d; it doubles with each. Default 1m.
    pub first: Duration,
    /// `longest`: the longest wait, 1s to 1d. Default 1h.
    pub longest: Duration,
}

/// Who stores the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// We do, in Maildirs below the state directory.
    Maildir,
    /// Dovecot's dovecot-lda, one run a recipient.
    DovecotLda,
    /// An LMTP server (RFC 2033) on a Unix socket.
    Lmtp,
}

/// What a positive reply waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    /// The agent has the message.
    Delivered,
    /// The message is in the spool and synced.
    Spooled,
}

/// How dovecot-lda is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DovecotLda {
    /// `path`: the program. Default /usr/lib/dovecot/dovecot-lda.
    pub path: PathBuf,
    /// `userdb`: let Dovecot look the recipient up (`-d`). Default no: HOME and USER say it.
    pub userdb: bool,
    /// `home`: HOME of a run without `userdb`; `%d` is the domain, `%n` the mailbox. Default: the mailbox's directory `mail/%d/%n`
    /// below the state directory.
    pub home: Option<String>,
}

/// The LMTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lmtp {
    /// `socket`: its Unix socket. Default /run/dovecot/lmtp.
    pub socket: PathBuf,
}

impl Default for Delivery {
    fn default() -> Delivery {
        Delivery {
            agent: Agent::Maildir,
            user: "rsmtpd-mail".to_owned(),
            user_place: None,
            group: None,
            group_place: None,
            acknowledge: Acknowledge::Delivered,
            writers: 8,
            lda_jobs: 4,
            queue: 256,
            timeout: Duration::from_secs(120),
            give_up: Duration::from_secs(5 * 86400),
            retry: Retry {
                first: Duration::from_secs(60),
                longest: Duration::from_secs(3600),
            },
            dovecot_lda: DovecotLda {
                path: "/usr/lib/dovecot/dovecot-lda".into(),
                userdb: false,
                home: None,
            },
            lmtp: Lmtp {
                socket: "/run/dovecot/lmtp".into(),
            },
        }
    }
}

impl Delivery {
    /// Reads the document of `delivery.yaml`.
    pub(super) fn read(root: &Field<'_>) -> Delivery {
        let mut delivery = Delivery::default();
        let Some(section) = root.section() else {
            return delivery;
        };
        section.read("agent", &mut delivery.agent, |f| {
            f.choice(&[
                ("maildir", Agent::Maildir),
                ("dovecot_lda", Agent::DovecotLda),
                ("lmtp", Agent::Lmtp),
            ])
        });
        section.read("user", &mut delivery.user, account);
        section.read_option("group", &mut delivery.group, account);
        delivery.user_place = section.get("user").map(|field| field.place());
        delivery.group_place = section.get("group").map(|field| field.place());
        section.read("acknowledge", &mut delivery.acknowledge, |f| {
            f.choice(&[("delivered", Acknowledge::Delivered), ("spooled", Acknowledge::Spooled)])
        });
        section.read("writers", &mut delivery.writers, |f| f.integer(1..=64));
        section.read("lda_jobs", &mut delivery.lda_jobs, |f| f.integer(1..=256));
        section.read("queue", &mut delivery.queue, |f| f.integer(1..=100_000));
        section.read("timeout", &mut delivery.timeout, |f| {
            f.duration(Duration::from_secs(1)..=Duration::from_secs(540))
        });
        section.read("give_up", &mut delivery.give_up, |f| {
            f.duration(Duration::from_secs(1)..=Duration::from_secs(30 * 86400))
        });
        if let Some(retry) = section.get("retry").and_then(|f| f.section()) {
            let wait = |f: &Field<'_>| f.duration(Duration::from_secs(1)..=Duration::from_secs(86400));
            retry.read("first", &mut delivery.retry.first, wait);
            retry.read("longest", &mut delivery.retry.longest, wait);
            retry.finish();
        }
        if let Some(lda) = section.get("dovecot_lda").and_then(|f| f.section()) {
            delivery.dovecot_lda.read(lda);
        }
        if let Some(lmtp) = section.get("lmtp").and_then(|f| f.section()) {
            lmtp.read("socket", &mut delivery.lmtp.socket, Field::path);
            lmtp.finish();
        }
        section.finish();
        delivery
    }

    /// Reads the original's `dovecot_delivery.yaml`: dovecot-lda with `-d`.
    pub(super) fn read_dovecot_delivery(root: &Field<'_>) -> Delivery {
        let mut delivery = Delivery {
            agent: Agent::DovecotLda,
            ..Delivery::default()
        };
        delivery.dovecot_lda.userdb = true;
        let Some(section) = root.section() else {
            return delivery;
        };
        section.read("dovecot_lda_path", &mut delivery.dovecot_lda.path, Field::path);
        section.finish();
        delivery
    }
}

impl DovecotLda {
    fn read(&mut self, section: Section<'_>) {
        section.read("path", &mut self.path, Field::path);
        section.read("userdb", &mut self.userdb, Field::boolean);
        section.read_option("home", &mut self.home, home_template);
        section.finish();
    }
}

fn home_template(field: &Field<'_>) -> Option<String> {
    let found = field.scalar().filter(|text| {
        let mut pieces = text.split('%');
        pieces.next().is_some_and(|first| first.starts_with('/'))
            && pieces.all(|piece| piece.starts_with('d') || piece.starts_with('n'))
    });
    if found.is_none() {
        field.expected("an absolute path, with %d for the domain and %n for the mailbox");
    }
    found
}
