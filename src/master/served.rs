//! One generation of the configuration, with the chains built from it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::chain::{Chain, Limits};
use crate::config::{self, Configuration, Daemon, Faults};
use crate::delivery::Settings;
use crate::ipc::link::FromWorker;
use crate::log::Level;
use crate::logger::client::Client as Log;
use crate::smtp;
use crate::sys::sandbox::{Mode, WorkerLimits};
use crate::worker::Patience;

use super::pool::Sizes;
use super::source_limits;

/// What is served: made before the fork, read-only in every worker.
pub struct Served {
    configuration: Configuration,
    chains: Vec<Chain>,
    /// Of rsmtpd.yaml, with the command line's say.
    pub daemon: Daemon,
    /// Of delivery.yaml.
    pub delivery: config::Delivery,
    /// How much sandbox there must be.
    pub sandbox: Mode,
    /// Counts the sets read.
    pub generation: u64,
    /// Of the files this was read from.
    pub fingerprint: u64,
}

/// The set a connection is served with: the one of the fork, or one read for this connection.
pub enum Current<'a> {
    /// Nothing changed.
    Same(&'a Served),
    /// The files changed since the fork.
    Fresh(Box<Served>),
}

impl Deref for Current<'_> {
    type Target = Served;

    fn deref(&self) -> &Served {
        match self {
            Current::Same(served) => served,
            Current::Fresh(served) => served,
        }
    }
}

/// The chain `name`, or the one that worker.yaml names.
///
/// # Errors
/// What is wrong with it.
pub fn build(configuration: &Configuration, name: Option<&str>) -> Result<Chain, Faults> {
    let name = name.unwrap_or(&configuration.worker.command_handler);
    Chain::build(configuration, name)
}

impl Served {
    /// Builds the chains that `configuration` names, one a listener.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(configuration: Configuration, directory: &Path) -> Result<Served, Faults> {
        let _ = directory;
        let daemon = configuration.daemon.clone();
        let chains = chains(&configuration, &daemon)?;
        Ok(Served {
            chains,
            delivery: configuration.delivery.clone(),
            sandbox: match daemon.sandbox {
                config::SandboxMode::Require => Mode::Require,
                config::SandboxMode::BestEffort => Mode::BestEffort,
                config::SandboxMode::Off => Mode::Off,
            },
            generation: 1,
            fingerprint: configuration.fingerprint,
            daemon,
            configuration,
        })
    }

    /// The set for a connection that begins now: files that changed are read again; if they are broken, the
    /// last good set stays, and the master is told in either case.
    pub fn current(&self, directory: &OwnedFd, link: &impl Fn(FromWorker), log: &Log) -> Current<'_> {
        let fingerprint = self.configuration.fingerprint_now(directory.as_fd());
        if fingerprint == self.fingerprint {
            return Current::Same(self);
        }
        link(FromWorker::Changed { fingerprint });
        match self.reread(directory) {
            Ok(served) => Current::Fresh(Box::new(served)),
            Err(_) => {
                log.say(Level::Debug, crate::log::Event::new("last-good-configuration"));
                Current::Same(self)
            }
        }
    }

    /// Reads again what a connection may read again: worker.yaml, the chains, the handlers' files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn reread(&self, directory: &OwnedFd) -> Result<Served, Faults> {
        let configuration = self.configuration.reread(directory.as_fd())?;
        let chains = chains(&configuration, &self.daemon)?;
        Ok(Served {
            chains,
            daemon: self.daemon.clone(),
            delivery: self.delivery.clone(),
            sandbox: self.sandbox,
            generation: self.generation + 1,
            fingerprint: configuration.fingerprint,
            configuration,
        })
    }

    /// Where the listeners are to be.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.daemon.listening().iter().flat_map(config::Listener::addresses).collect()
    }

    /// The chain of a listener, by its number in [`Served::addresses`].
    pub fn chain(&self, listener: usize) -> &Chain {
        self.chains.get(listener).unwrap_or(&self.chains[0])
    }
}
