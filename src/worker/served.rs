//! One generation of the configuration, with the chains built from it.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;

use crate::chain::{Chain, Limits, configured};
use crate::config::{self, Configuration, Daemon, Faults, Fingerprint};
use crate::log::Level;
use crate::smtp::{self, receiver::LineEndings};
use crate::sys::memory;
use crate::sys::sandbox::{self, MissingLayer, Mode};

use super::deadlines::Patience;

/// Address space of a worker, in octets.
const ADDRESS_SPACE: u64 = 512 << 20;
/// Processor time of a worker, in seconds: far more than a session of an hour needs.
pub(super) const CPU_SECONDS: u64 = 600;

/// What is served: made before the fork, read-only in every worker.
pub struct Served {
    configuration: Configuration,
    chains: Vec<Rc<Chain>>,
    /// Of rsmtpd.yaml, with the command line's say.
    pub daemon: Daemon,
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
    configured::build(configuration, name.unwrap_or(&configuration.worker.command_handler))
}

/// One chain for each socket address, in the order of [`Served::addresses`].
fn chains(configuration: &Configuration, daemon: &Daemon) -> Result<Vec<Rc<Chain>>, Faults> {
    let mut chains = Vec::new();
    for listener in daemon.listening() {
        let chain = Rc::new(build(configuration, listener.chain.as_deref())?);
        chains.extend(listener.addresses().iter().map(|_| Rc::clone(&chain)));
    }
    Ok(chains)
}

impl Served {
    /// Builds the chains that `configuration` names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(configuration: Configuration, directory: BorrowedFd<'_>) -> Result<Served, Faults> {
        let fingerprint = Fingerprint::of(directory, &configuration.files).number();
        Served::of(configuration, fingerprint, 1)
    }

    fn of(configuration: Configuration, fingerprint: u64, generation: u64) -> Result<Served, Faults> {
        let daemon = configuration.daemon.clone();
        let chains = chains(&configuration, &daemon)?;
        let sandbox = match daemon.sandbox {
            config::SandboxMode::Require => Mode::Require,
            config::SandboxMode::BestEffort => Mode::BestEffort,
            config::SandboxMode::Off => Mode::Off,
        };
        memory::trim();
        Ok(Served {
            chains,
            sandbox,
            generation,
            fingerprint,
            daemon,
            configuration,
        })
    }

    /// The set for a connection that begins now: files that changed are read again; if they are broken, the
    /// last good set stays, and `tell` is told the fingerprint in either case.
    pub fn current(&self, directory: BorrowedFd<'_>, tell: impl FnOnce(u64)) -> Current<'_> {
        let fingerprint = Fingerprint::of(directory, &self.configuration.files).number();
        if fingerprint == self.fingerprint {
            return Current::Same(self);
        }
        tell(fingerprint);
        self.reread(directory)
            .map_or(Current::Same(self), |served| Current::Fresh(Box::new(served)))
    }

    /// Reads again what a connection may read again: worker.yaml, the chains, the handlers' files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn reread(&self, directory: BorrowedFd<'_>) -> Result<Served, Faults> {
        let mut configuration = self.configuration.clone();
        // Taken before the files are read: an edit in between is then seen at the next connection.
        let before = Fingerprint::of(directory, &configuration.files).number();
        let set = Configuration::load_worker_set(directory, &configuration.listener_chains())?;
        let same_files = set.files == configuration.files;
        configuration.replace_worker_set(set);
        let fingerprint = if same_files {
            before
        } else {
            Fingerprint::of(directory, &configuration.files).number()
        };
        Served::of(configuration, fingerprint, self.generation + 1)
    }

    /// Reads everything again, for a reload; listeners stay as they are.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn reload(&self, path: &Path, directory: BorrowedFd<'_>) -> Result<Served, Faults> {
        let mut configuration = Configuration::load(path)?;
        configuration.daemon.address.clone_from(&self.daemon.address);
        configuration.daemon.port = self.daemon.port;
        configuration.daemon.listeners.clone_from(&self.daemon.listeners);
        let fingerprint = Fingerprint::of(directory, &configuration.files).number();
        Served::of(configuration, fingerprint, self.generation + 1)
    }

    /// Keys that differ in `next` and that only a start can put into force.
    pub fn needs_restart(&self, next: &Served) -> Vec<&'static str> {
        let (a, b) = (&self.daemon, &next.daemon);
        let mut keys = Vec::new();
        let pairs = [
            ("user", a.user != b.user || a.group != b.group),
            ("log_path", a.log_path != b.log_path),
            ("state", a.state != b.state),
            ("sandbox", a.sandbox != b.sandbox),
        ];
        keys.extend(pairs.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key));
        keys
    }

    /// Where the listeners are to be.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.daemon
            .listening()
            .iter()
            .flat_map(config::Listener::addresses)
            .collect()
    }

    /// The chain of a listener, by its number in [`Served::addresses`].
    pub fn chain(&self, listener: usize) -> Option<&Chain> {
        self.chains.get(listener).map(Rc::as_ref)
    }

    /// Of delivery.yaml.
    pub fn delivery(&self) -> &config::Delivery {
        &self.configuration.delivery
    }

    /// Of simple_recipient_validator.yaml.
    pub fn recipients(&self) -> &config::Recipients {
        &self.configuration.recipients
    }

    /// The least grave events that are logged.
    pub fn log_level(&self) -> Level {
        match self.daemon.log_level {
            config::LogLevel::Critical => Level::Critical,
            config::LogLevel::Error => Level::Error,
            config::LogLevel::Warning => Level::Warning,
            config::LogLevel::Notice => Level::Notice,
            config::LogLevel::Info => Level::Info,
            config::LogLevel::Debug => Level::Debug,
        }
    }

    /// The name this server gives itself: the configured one, or the host's.
    pub fn server_name(&self) -> String {
        self.daemon.server_name.clone().unwrap_or_else(|| {
            let name = nix::sys::utsname::uname()
                .ok()
                .map(|name| name.nodename().to_string_lossy().into_owned());
            name.filter(|name| !name.is_empty())
                .unwrap_or_else(|| "localhost".to_owned())
        })
    }

    fn line_endings(&self) -> LineEndings {
        match self.configuration.worker.line_endings {
            config::LineEndings::Strict => LineEndings::Strict,
            config::LineEndings::Normalize => LineEndings::Normalize,
            config::LineEndings::Note => LineEndings::Note,
        }
    }

    /// What the receiver of octets must know.
    pub fn receiver_limits(&self) -> smtp::receiver::Limits {
        let worker = &self.configuration.worker;
        smtp::receiver::Limits {
            command_line: worker.command_line_limit,
            text_line: worker.text_line_limit,
            message_size: worker.maximum_message_size(),
            line_endings: self.line_endings(),
        }
    }

    /// What the conversation keeps to.
    pub fn limits(&self) -> Limits {
        let worker = &self.configuration.worker;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Limits {
            message_size: worker.maximum_message_size(),
            maximum_recipients: small(worker.maximum_recipients),
            // 0 in the file is no limit.
            maximum_messages: u32::try_from(worker.maximum_messages)
                .ok()
                .filter(|&most| most > 0)
                .unwrap_or(u32::MAX),
            maximum_errors: worker.maximum_errors,
            maximum_unknown_commands: worker.maximum_unknown_commands,
            maximum_received: small(worker.maximum_received),
            tolerate_unadvertised_params: worker.tolerate_unadvertised_params,
            line_endings: self.line_endings(),
        }
    }

    /// Adds a worker's own layer to the sandbox that it inherited; the layers that the kernel lacks.
    ///
    /// # Errors
    /// A layer that exists cannot be entered.
    pub fn confine(&self) -> io::Result<Vec<MissingLayer>> {
        if self.sandbox == Mode::Off {
            return Ok(Vec::new());
        }
        sandbox::worker_layer(&sandbox::Limits {
            file_size: self
                .configuration
                .worker
                .maximum_message_size()
                .saturating_mul(2)
                .max(1 << 20),
            address_space: ADDRESS_SPACE,
            cpu_seconds: CPU_SECONDS,
        })
    }

    /// How long a client may take.
    pub fn patience(&self) -> Patience {
        let worker = &self.configuration.worker;
        Patience {
            command: worker.command_timeout,
            data: worker.data_timeout,
            session: worker.session_timeout,
            data_rate: worker.minimum_data_rate,
        }
    }
}
