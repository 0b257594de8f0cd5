//! One generation of the configuration, with the chains built from it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ipnet::IpNet;

use crate::chain::configured::{self, Chains};
use crate::chain::{Chain, Limits, Reach};
use crate::config::{self, Configuration, Daemon, Earlier, Faults, Fingerprint, ListenerTls, Overrides, Unchanged};
use crate::ipc::keeper::Certificate;
use crate::log::Level;
use crate::smtp::{self, receiver::LineEndings};
use crate::sys::inotify::Inotify;
use crate::sys::memory;
use crate::sys::sandbox::{self, MissingLayer, Mode};
use crate::tls::Certificates;

use super::deadlines::Patience;

/// Address space of a worker, in octets.
const ADDRESS_SPACE: u64 = 512 << 20;
/// Processor time of a worker, in seconds: far more than a session of an hour needs.
pub(super) const CPU_SECONDS: u64 = 600;

/// What is served: made before the fork, read-only in every worker.
pub struct Served {
    configuration: Configuration,
    chains: Vec<Option<Rc<Chain>>>,
    /// What each socket address does about TLS.
    tls: Vec<ListenerTls>,
    /// From where each socket address is served by PROXY header only.
    proxies: Vec<Option<Vec<IpNet>>>,
    certificates: Certificates,
    /// Positions, among the configured socket addresses, of those that only the next start will listen on.
    absent: BTreeSet<usize>,
    said: Overrides,
    /// Of rsmtpd.yaml, with the command line's say.
    pub daemon: Daemon,
    /// How much sandbox there must be.
    pub sandbox: Mode,
    /// Counts the sets read.
    pub generation: u64,
    /// Of the files this was read from.
    pub fingerprint: u64,
}

/// The level that a configuration names.
pub fn level(named: config::LogLevel) -> Level {
    match named {
        config::LogLevel::Critical => Level::Critical,
        config::LogLevel::Error => Level::Error,
        config::LogLevel::Warning => Level::Warning,
        config::LogLevel::Notice => Level::Notice,
        config::LogLevel::Info => Level::Info,
        config::LogLevel::Debug => Level::Debug,
    }
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

/// One chain for each socket address, in the order of [`Served::addresses`].
fn by_address(configuration: &Configuration, chains: &Chains, absent: &BTreeSet<usize>) -> Vec<Option<Rc<Chain>>> {
    let mut by_address = Vec::new();
    for listener in configuration.daemon.listening() {
        let name = listener.chain.as_ref().unwrap_or(&configuration.worker.command_handler);
        let chain = chains.get(name);
        by_address.extend(listener.addresses().iter().map(|_| chain.cloned()));
    }
    present(by_address, absent)
}

/// What each socket address does about TLS, in the order of [`Served::addresses`].
fn tls_by_address(daemon: &Daemon, absent: &BTreeSet<usize>) -> Vec<ListenerTls> {
    let all = daemon.listening();
    let each = all.iter().flat_map(|one| one.addresses().into_iter().map(|_| one.tls));
    present(each, absent)
}

/// From where each socket address is served by PROXY header only, in the order of [`Served::addresses`].
fn proxies_by_address(daemon: &Daemon, absent: &BTreeSet<usize>) -> Vec<Option<Vec<IpNet>>> {
    let all = daemon.listening();
    let proxies = |one: &config::Listener| one.proxy_protocol.clone();
    let each = all
        .iter()
        .flat_map(|one| one.addresses().into_iter().map(|_| proxies(one)));
    present(each, absent)
}

fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Those whose positions are not in `absent`.
fn present<T>(all: impl IntoIterator<Item = T>, absent: &BTreeSet<usize>) -> Vec<T> {
    let numbered = all.into_iter().enumerate();
    numbered
        .filter(|(position, _)| !absent.contains(position))
        .map(|(_, item)| item)
        .collect()
}

impl Served {
    /// Serves with `chains`, which were built from `configuration`; `said` is what the command line has put into it.
    pub fn new(configuration: Configuration, said: Overrides, chains: &Chains) -> Served {
        Served::of(configuration, said, BTreeSet::new(), chains, 1)
    }

    fn of(
        configuration: Configuration,
        said: Overrides,
        absent: BTreeSet<usize>,
        chains: &Chains,
        generation: u64,
    ) -> Served {
        let daemon = configuration.daemon.clone();
        let chains = by_address(&configuration, chains, &absent);
        let sandbox = match daemon.sandbox {
            config::SandboxMode::Require => Mode::Require,
            config::SandboxMode::BestEffort => Mode::BestEffort,
            config::SandboxMode::Off => Mode::Off,
        };
        memory::trim();
        Served {
            chains,
            tls: tls_by_address(&daemon, &absent),
            proxies: proxies_by_address(&daemon, &absent),
            certificates: Certificates::default(),
            absent,
            said,
            sandbox,
            generation,
            fingerprint: configuration.fingerprint.number(),
            daemon,
            configuration,
        }
    }

    /// How to see in fewer looks that no file has changed; none while that cannot be told. With a watch, if it can be set,
    /// that has the number given.
    pub fn unchanged(&self, directory: BorrowedFd<'_>, watch: Option<(&mut Inotify, u64)>) -> Option<Unchanged> {
        Unchanged::of(directory, &self.configuration.files, self.fingerprint, watch)
    }

    /// The set for a connection that begins now: files that changed are read again; if they are broken, the
    /// last good set stays, and `tell` is told the fingerprint in either case.
    pub fn current(&self, directory: BorrowedFd<'_>, tell: impl FnOnce(u64)) -> Current<'_> {
        let fingerprint = Fingerprint::of(directory, &self.configuration.files).number();
        if fingerprint == self.fingerprint {
            return Current::Same(self);
        }
        tell(fingerprint);
        self.fresh(directory)
    }

    /// The set of the files that have changed. Apart from [`Served::current`], whose stack every worker has.
    #[inline(never)]
    fn fresh(&self, directory: BorrowedFd<'_>) -> Current<'_> {
        // The master has been told, and reads large lists for every worker to come.
        self.reread_with(directory, true)
            .map_or(Current::Same(self), |served| Current::Fresh(Box::new(served)))
    }

    /// The fingerprint of the files as they are now.
    pub fn found(&self, directory: BorrowedFd<'_>) -> u64 {
        Fingerprint::of(directory, &self.configuration.files).number()
    }

    /// Reads again what a connection may read again: worker.yaml, the chains, the handlers' files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn reread(&self, directory: BorrowedFd<'_>) -> Result<Served, Faults> {
        self.reread_with(directory, false)
    }

    /// The same; large lists of recipients `may_be_old`.
    fn reread_with(&self, directory: BorrowedFd<'_>, may_be_old: bool) -> Result<Served, Faults> {
        let mut configuration = self.configuration.clone();
        let earlier = Earlier {
            recipients: Some(&self.configuration.recipients),
            may_be_old,
        };
        let (set, chains) = configured::load_worker_set(directory, &configuration.listener_chains(), earlier)?;
        configuration.replace_worker_set(set);
        let absent = self.absent.clone();
        let served = Served::of(configuration, self.said.clone(), absent, &chains, self.generation + 1);
        Ok(Served {
            certificates: self.certificates.clone(),
            ..served
        })
    }

    /// Reads everything again, for a reload. What only a start can put into force stays as it is; the second value
    /// names such keys that differ.
    ///
    /// # Errors
    /// What is wrong with the files, or that another directory stands in the place of ours.
    pub fn reload(&self, path: &Path, directory: BorrowedFd<'_>) -> Result<(Served, Vec<&'static str>), Faults> {
        config::still_there(directory, path)?;
        let (mut configuration, chains) = configured::load_opened(directory, path)?;
        self.said.apply(&mut configuration.daemon);
        let keys = self.keep_what_needs_a_restart(&mut configuration);
        let served = Served::of(
            configuration,
            self.said.clone(),
            BTreeSet::new(),
            &chains,
            self.generation + 1,
        );
        Ok((served, keys))
    }

    /// Puts the values in force back where only a start can change them; the keys that differed.
    fn keep_what_needs_a_restart(&self, next: &mut Configuration) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut keep = |key, differs: bool| {
            if differs {
                keys.push(key);
            }
        };
        let (a, b) = (&self.daemon, &mut next.daemon);
        keep("user", a.user != b.user);
        keep("group", a.group != b.group);
        keep("background", a.background != b.background);
        keep("log_path", a.log_path != b.log_path);
        keep("state", a.state != b.state);
        keep("sandbox", a.sandbox != b.sandbox);
        b.user.clone_from(&a.user);
        b.group.clone_from(&a.group);
        b.background = a.background;
        b.log_path.clone_from(&a.log_path);
        b.state.clone_from(&a.state);
        b.sandbox = a.sandbox;
        let (a, b) = (&self.configuration.delivery, &mut next.delivery);
        keep("delivery.yaml user", a.user != b.user);
        keep("delivery.yaml group", a.group != b.group);
        b.user.clone_from(&a.user);
        b.group.clone_from(&a.group);
        keys
    }

    /// The same without the listeners at these positions among the configured socket addresses.
    #[must_use]
    pub fn without(mut self, absent: BTreeSet<usize>) -> Served {
        self.chains = present(self.chains, &absent);
        self.tls = tls_by_address(&self.daemon, &absent);
        self.proxies = proxies_by_address(&self.daemon, &absent);
        self.absent = absent;
        self
    }

    /// The same with these certificates.
    #[must_use]
    pub fn with_certificates(mut self, certificates: Vec<Certificate>) -> Served {
        self.certificates = certificates.into();
        self
    }

    /// Takes certificates; where they are others than before, this is another generation.
    pub fn renew_certificates(&mut self, certificates: Vec<Certificate>) -> bool {
        let certificates = Certificates::from(certificates);
        let differ = certificates != self.certificates;
        if differ {
            self.certificates = certificates;
            self.generation += 1;
        }
        differ
    }

    /// What clients are shown.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// What a listener does about TLS, by its number in [`Served::addresses`]. Without a certificate STARTTLS is not
    /// offered.
    pub fn tls(&self, listener: usize) -> ListenerTls {
        match self.tls.get(listener) {
            Some(ListenerTls::StartTls) if self.certificates.is_empty() => ListenerTls::None,
            Some(tls) => *tls,
            None => ListenerTls::None,
        }
    }

    /// Whether connections to a listener begin with a PROXY header.
    pub fn is_for_proxies(&self, listener: usize) -> bool {
        self.proxies.get(listener).is_some_and(Option::is_some)
    }

    /// Whether a PROXY header is taken from this address on that listener.
    pub fn is_proxy(&self, listener: usize, address: IpAddr) -> bool {
        let networks = self.proxies.get(listener).and_then(Option::as_deref);
        networks.is_some_and(|networks| holds(networks, address))
    }

    /// Whether XCLIENT is served to this address.
    pub fn may_introduce(&self, address: IpAddr) -> bool {
        holds(&self.daemon.xclient, address)
    }

    /// Whether a connection from this address may turn out to be another client's.
    pub fn may_be_introduced(&self, address: IpAddr) -> bool {
        let listeners = 0..self.proxies.len();
        self.may_introduce(address) || listeners.into_iter().any(|listener| self.is_proxy(listener, address))
    }

    /// Where the listeners are to be.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.daemon.listening();
        present(all.iter().flat_map(config::Listener::addresses), &self.absent)
    }

    /// The chain of a listener, by its number in [`Served::addresses`].
    pub fn chain(&self, listener: usize) -> Option<&Chain> {
        self.chains.get(listener)?.as_deref()
    }

    /// What the files say in vain, and what else an administrator should know of them, as lines.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.configuration.notes.iter().map(ToString::to_string)
    }

    /// What the chains want to reach beyond this host.
    pub fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        for chain in self.chains.iter().flatten() {
            reach.add(chain.reach());
        }
        reach
    }

    /// Names of the files that a worker's part was read from, or looked for under.
    pub fn files(&self) -> &[String] {
        &self.configuration.files
    }

    /// Whether some listener's chain hands messages over.
    pub fn takes_mail(&self) -> bool {
        self.chains.iter().flatten().any(|chain| chain.takes_mail())
    }

    /// The directories of records, each once.
    pub fn record_directories(&self) -> Vec<PathBuf> {
        let chains = self.chains.iter().flatten();
        let all: BTreeSet<&Path> = chains.flat_map(|chain| chain.record_directories()).collect();
        all.into_iter().map(Path::to_path_buf).collect()
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
        level(self.daemon.log_level)
    }

    /// What the command line said.
    pub fn said(&self) -> &Overrides {
        &self.said
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

    /// What the conversation on a listener keeps to, by its number in [`Served::addresses`].
    pub fn limits(&self, listener: usize) -> Limits {
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
            maximum_harmless_commands: worker.maximum_harmless_commands,
            maximum_received: small(worker.maximum_received),
            tolerate_unadvertised_params: worker.tolerate_unadvertised_params,
            starttls: self.tls(listener) == ListenerTls::StartTls,
            xclient: !self.daemon.xclient.is_empty(),
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
