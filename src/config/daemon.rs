//! `rsmtpd.yaml`: what the master needs. Read at start and at SIGHUP.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::listener::{Listener, ListenerTls, address, listener, network};
use super::place::Place;
use super::section::{Field, Section};

/// How many sockets there may be: workers have as many descriptor numbers for them.
const LISTENERS_MAX: usize = 27;

/// The settings of the daemon as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// `address`: an IP address, `localhost` (both loopbacks) or `*` (both wildcards). Default `localhost`. Not beside `listeners`.
    pub address: String,
    /// `port`: TCP port; 0 lets the kernel choose one. Default 8025. Not beside `listeners`.
    pub port: u16,
    /// `listeners`: sockets to listen on, instead of `address` and `port`. Default none; see [`Daemon::listening`].
    pub listeners: Vec<Listener>,
    /// `user`: service user of master and workers when started as root. Default `rsmtpd`.
    pub user: String,
    /// Where `user` stands, unless the default says it.
    pub user_place: Option<Place>,
    /// `group`: its group. Default: the user's own.
    pub group: Option<String>,
    /// Where `group` stands.
    pub group_place: Option<Place>,
    /// `background`: leave the terminal after start. Default no.
    pub background: bool,
    /// `server_name`: our name in greetings and trace fields (RFC 5321 4.3.1). Default: the machine's host name.
    pub server_name: Option<String>,
    /// `log_path`: absolute path of a file to log to, opened again at SIGHUP. Default: syslog.
    pub log_path: Option<PathBuf>,
    /// `log_level`: least severe level logged. Default info.
    pub log_level: LogLevel,
    /// `state`: absolute path of the state directory (mail, quarantine, spool, failed). Default: `$XDG_STATE_HOME/rsmtpd`, or
    /// `~/.local/state/rsmtpd`, or `/var/lib/rsmtpd` as root.
    pub state: Option<PathBuf>,
    /// `sandbox`: what to do where the kernel lacks a layer. Default best_effort.
    pub sandbox: SandboxMode,
    /// `grace_time`: how long connections may last after SIGTERM, 0s to 1h. Default 30s.
    pub grace_time: Duration,
    /// `nameservers`: IP addresses, with a port where it is not 53, of the name servers to ask. Default: those of
    /// `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// `workers`: the pool.
    pub workers: Workers,
    /// `tls`: certificates.
    pub tls: Tls,
    /// `xclient`: networks of servers in front that may say by XCLIENT whom they speak for. Default: none.
    pub xclient: Vec<IpNet>,
}

/// Levels of the log, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// A person must act.
    Critical,
    /// We failed.
    Error,
    /// Degraded.
    Warning,
    /// Start, stop, reload.
    Notice,
    /// The session.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    /// The words of the file and of `--log-level`.
    pub const WORDS: &[(&str, LogLevel)] = &[
        ("critical", LogLevel::Critical),
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("notice", LogLevel::Notice),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
}

/// How much of the sandbox must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// Do not start without every layer.
    Require,
    /// Warn once of each missing layer.
    BestEffort,
    /// No sandbox: for debugging only.
    Off,
}

/// The pool of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// `min_spare`: workers waiting for a connection, at least; 1 to 1000. Default 8.
    pub min_spare: usize,
    /// `max_spare`: workers waiting, at most; not below `min_spare`. Default 32.
    pub max_spare: usize,
    /// `max`: workers in all; beyond it clients read 421; 1 to 100000, not below `max_spare`. Default 1000.
    pub max: usize,
    /// `connections_per_worker`: connections in one worker's life; 1 isolates each from the next; 1 to 1000000. Default 1.
    pub connections_per_worker: u32,
    /// `per_source`: connections at once from one IPv4 address or IPv6 /64; 0 is no limit. Default 50.
    pub per_source: u32,
    /// `per_source_rate`: new connections per minute from one source; 0 is no limit. Default 300.
    pub per_source_rate: u32,
    /// `trusted`: networks without limits per source. Default 127.0.0.0/8 and ::1.
    pub trusted: Vec<IpNet>,
}

impl Default for Workers {
    fn default() -> Workers {
        Workers {
            min_spare: 8,
            max_spare: 32,
            max: 1000,
            connections_per_worker: 1,
            per_source: 50,
            per_source_rate: 300,
            trusted: ["127.0.0.0/8", "::1/128"]
                .iter()
                .filter_map(|net| net.parse().ok())
                .collect(),
        }
    }
}

/// Certificates, as in the original.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `enabled`: default no.
    pub enabled: bool,
    /// `certificates`: by server name; the first is for clients that name none.
    pub certificates: Vec<Certificate>,
}

/// One certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// `domain_match`: the names asked for (RFC 6066 §3) that it is for: `.example.com` for all below example.com,
    /// `example.com` for that and all below it.
    pub domain_match: String,
    /// `server_name`: our name on such connections.
    pub server_name: String,
    /// `pem_file`: certificate chain.
    pub pem_file: PathBuf,
    /// `key_file`: private key.
    pub key_file: PathBuf,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon {
            address: "localhost".to_owned(),
            port: 8025,
            listeners: Vec::new(),
            user: "rsmtpd".to_owned(),
            user_place: None,
            group: None,
            group_place: None,
            background: false,
            server_name: None,
            log_path: None,
            log_level: LogLevel::Info,
            state: None,
            sandbox: SandboxMode::BestEffort,
            grace_time: Duration::from_secs(30),
            nameservers: Vec::new(),
            workers: Workers::default(),
            tls: Tls::default(),
            xclient: Vec::new(),
        }
    }
}

impl Daemon {
    /// The listeners in force: `listeners`, or the one that `address` and `port` make.
    pub fn listening(&self) -> Vec<Listener> {
        if self.listeners.is_empty() {
            vec![Listener {
                address: self.address.clone(),
                port: self.port,
                tls: ListenerTls::StartTls,
                chain: None,
                proxy_protocol: None,
            }]
        } else {
            self.listeners.clone()
        }
    }

    /// The certificates in force: none unless TLS is enabled.
    pub fn certificates(&self) -> &[Certificate] {
        if self.tls.enabled { &self.tls.certificates } else { &[] }
    }

    /// Reads the document of `rsmtpd.yaml`.
    pub(super) fn read(root: &Field<'_>) -> Daemon {
        let mut daemon = Daemon::default();
        let Some(section) = root.section() else {
            return daemon;
        };
        section.read("address", &mut daemon.address, address);
        section.read("port", &mut daemon.port, |f| f.integer(0..=65535));
        if let Some(listeners) = section.get("listeners") {
            daemon.listeners = listeners
                .items(false)
                .unwrap_or_default()
                .iter()
                .filter_map(listener)
                .collect();
            let sockets: usize = daemon.listeners.iter().map(|l| l.addresses().len()).sum();
            if sockets > LISTENERS_MAX {
                listeners.fault(format!("expected at most {LISTENERS_MAX} sockets, found {sockets}"));
            }
            if section.get("address").is_some() || section.get("port").is_some() {
                listeners.fault("expected listeners or address and port, found both".to_owned());
            }
        }
        section.read("user", &mut daemon.user, account);
        section.read_option("group", &mut daemon.group, account);
        daemon.user_place = section.get("user").map(|field| field.place());
        daemon.group_place = section.get("group").map(|field| field.place());
        section.read("background", &mut daemon.background, Field::boolean);
        section.read_option("server_name", &mut daemon.server_name, server_name);
        section.read_option("log_path", &mut daemon.log_path, Field::path);
        section.read("log_level", &mut daemon.log_level, |f| f.choice(LogLevel::WORDS));
        section.read_option("state", &mut daemon.state, Field::path);
        section.read("sandbox", &mut daemon.sandbox, |f| {
            f.choice(&[
                ("require", SandboxMode::Require),
                ("best_effort", SandboxMode::BestEffort),
                ("off", SandboxMode::Off),
            ])
        });
        section.read("grace_time", &mut daemon.grace_time, |f| {
            f.duration(Duration::ZERO..=Duration::from_secs(3600))
        });
        section.read("nameservers", &mut daemon.nameservers, |f| {
            Some(f.items(true)?.iter().filter_map(nameserver).collect())
        });
        if let Some(workers) = section.get("workers").and_then(|f| f.section()) {
            daemon.workers = Workers::read(workers);
        }
        if let Some(tls) = section.get("tls").and_then(|f| f.section()) {
            daemon.tls = Tls::read(tls);
        }
        section.read("xclient", &mut daemon.xclient, |f| {
            Some(f.items(true)?.iter().filter_map(network).collect())
        });
        if let Some(misplaced) = section.get("proxy_protocol") {
            misplaced.fault("expected this in an entry of listeners, found it outside of them".to_owned());
        }
        section.finish();
        daemon
    }
}

impl Workers {
    fn read(section: Section<'_>) -> Workers {
        let mut workers = Workers::default();
        section.read("min_spare", &mut workers.min_spare, |f| f.integer(1..=1000));
        section.read("max_spare", &mut workers.max_spare, |f| f.integer(1..=1000));
        section.read("max", &mut workers.max, |f| f.integer(1..=100_000));
        section.read("connections_per_worker", &mut workers.connections_per_worker, |f| {
            f.integer(1..=1_000_000)
        });
        section.read("per_source", &mut workers.per_source, |f| f.integer(0..=1_000_000));
        section.read("per_source_rate", &mut workers.per_source_rate, |f| {
            f.integer(0..=1_000_000)
        });
        section.read("trusted", &mut workers.trusted, |f| {
            Some(f.items(true)?.iter().filter_map(network).collect())
        });
        if workers.max_spare < workers.min_spare {
            section.field().fault(format!(
                "expected max_spare not below min_spare, found {} and {}",
                workers.max_spare, workers.min_spare
            ));
        }
        if workers.max < workers.max_spare {
            section.field().fault(format!(
                "expected max not below max_spare, found {} and {}",
                workers.max, workers.max_spare
            ));
        }
        section.finish();
        workers
    }
}

impl Tls {
    fn read(section: Section<'_>) -> Tls {
        let mut tls = Tls::default();
        section.read("enabled", &mut tls.enabled, Field::boolean);
        for item in section
            .get("certificates")
            .and_then(|f| f.items(false))
            .unwrap_or_default()
        {
            let Some(entry) = item.section() else {
                continue;
            };
            let mut certificate = Certificate::default();
            entry.read("domain_match", &mut certificate.domain_match, domain_match);
            entry.read("server_name", &mut certificate.server_name, server_name);
            entry.read("pem_file", &mut certificate.pem_file, Field::path);
            entry.read("key_file", &mut certificate.key_file, Field::path);
            for key in ["domain_match", "server_name", "pem_file", "key_file"] {
                if entry.get(key).is_none() {
                    item.fault(format!("expected {key}, found none"));
                }
            }
            entry.finish();
            tls.certificates.push(certificate);
        }
        if tls.enabled && tls.certificates.is_empty() {
            section.field().note("no certificates, so TLS stays off".to_owned());
        }
        section.finish();
        tls
    }
}

/// A host name, or one with a dot in front.
fn domain_match(field: &Field<'_>) -> Option<String> {
    let is_domain = |text: &String| is_host_name(text.strip_prefix('.').unwrap_or(text));
    let found = field.scalar().filter(is_domain);
    if found.is_none() {
        field.expected("a domain such as .example.com");
    }
    found
}

fn nameserver(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.scalar().unwrap_or_default();
    let alone = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
    let found = alone.or_else(|| text.parse().ok()).filter(|server| server.port() != 0);
    if found.is_none() {
        field.expected("an IP address, with a port or without, such as 192.0.2.1 or [2001:db8::1]:53");
    }
    found
}

fn server_name(field: &Field<'_>) -> Option<String> {
    let found = field.scalar().filter(|name| is_host_name(name));
    if found.is_none() {
        field.expected("a host name");
    }
    found
}

/// A name of RFC 1123 labels, of at most 253 octets.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A user or group, by name or number.
pub(super) fn account(field: &Field<'_>) -> Option<String> {
    let found = field.scalar().filter(|name| {
        (1..=64).contains(&name.len())
            && !name.starts_with('-')
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte))
    });
    if found.is_none() {
        field.expected("the name of an account");
    }
    found
}
