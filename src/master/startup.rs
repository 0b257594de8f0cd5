//! Start-up, in the only order that is safe; every step is fatal.
//!
//! Bind every listener → fork the helpers and await each → drop root and prove it → enter the sandbox.
//! From then on no process of the daemon has user id 0.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::config;
use crate::delivery;
use crate::helper::EX_SOFTWARE;
use crate::ipc::channel::Channel;
use crate::ipc::control::ToHelper;
use crate::ipc::link::Role;
use crate::log::{Event, Level};
use crate::logger::{self, Destination, Sink, client::Client as Log};
use crate::sys::notify::Notify;
use crate::sys::privilege::{self, Identity};
use crate::sys::signals::Signals;
use crate::sys::{detach, process, sandbox, signals, socket};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::Ready;
use super::helpers::{Helper, Helpers};
use super::workers::{MASTER_DESCRIPTORS, pair};
use crate::worker::served::Served;

/// What the master catches.
pub const SIGNALS: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGCHLD,
    Signal::SIGUSR1,
];

/// What the command line says beside the configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration directory.
    pub directory: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Where lines go.
    pub destination: Destination,
}

/// Users of the roles; None where we were not started as root and stay who we are.
#[derive(Serialize, Deserialize)]
struct Users {
    service: Option<Identity>,
    logger: Option<Identity>,
    delivery: Option<Identity>,
    invented: bool,
}

/// Starts every process but the workers; what the master needs from then on.
///
/// # Errors
/// Any step failed; nothing is left running then but helpers that see their channel end.
pub fn start(served: Served, directory: OwnedFd, plan: &Plan) -> Result<Ready> {
    detach::raise_descriptor_limit();
    process::set_name("rsmtpd: master")?;
    signals::ignore_write_failures();
    let (listeners, addresses) = bind(&served)?;
    let signals = Signals::new(&SIGNALS, MASTER_DESCRIPTORS)?;
    let notify = Notify::from_env()?.moved(MASTER_DESCRIPTORS)?;
    let state = plan.state.clone();
    let users = Users::choose_apart(&served, &state)?;
    prepare_state(&state, users.delivery.as_ref())?;

    let (voice, logger) = start_logger(&served, plan, users.logger.as_ref())?;
    let log = Log::new(voice, served.log_level());
    let delivery = start_delivery(&served, users.delivery.as_ref(), &state, &logger)?;
    let helpers = Helpers { logger, delivery };

    if let Some(identity) = &users.service {
        privilege::drop_to(identity, &[]).context("dropping root")?;
    }
    let missing = sandbox::enter(
        &sandbox::Profile::master_and_worker(vec![plan.directory.clone()]),
        served.sandbox,
    )
    .context("sandbox (set `sandbox: best_effort` in rsmtpd.yaml to run without what the kernel lacks)")?;
    process::set_dumpable(false)?;
    for layer in missing {
        log.say(
            Level::Warning,
            Event::new("sandbox-layer-missing").field("layer", layer),
        );
    }
    if users.invented {
        warn_about_users(&users, &log);
    }
    for address in &addresses {
        log.say(Level::Notice, Event::new("listening").field("address", address));
    }
    let path = plan.directory.clone();
    let destination = destination(&served, &state);
    Ok(Ready {
        served,
        path,
        directory,
        listeners,
        addresses,
        destination,
        helpers,
        log,
        notify,
        signals,
    })
}

/// Where mail goes, for people.
fn destination(served: &Served, state: &Path) -> String {
    let delivery = served.delivery();
    match delivery.agent {
        config::Agent::Maildir => format!("{}/mail/<domain>/<local part>/", state.display()),
        config::Agent::DovecotLda => format!("{}", delivery.dovecot_lda.path.display()),
        config::Agent::Lmtp => format!("LMTP at {}", delivery.lmtp.socket.display()),
    }
}

fn bind(served: &Served) -> Result<(Vec<OwnedFd>, Vec<SocketAddr>)> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for address in served.addresses() {
        let listener = socket::listen(address, 4096).with_context(|| format!("cannot listen on {address}"))?;
        addresses.push(socket::local_addr(&listener)?);
        listeners.push(listener);
    }
    if listeners.is_empty() {
        bail!("no address to listen on");
    }
    Ok((listeners, addresses))
}

impl Users {
    /// [`Users::choose`] in a child: the C library loads whole families of libraries to look up a user, which every
    /// worker would inherit and each fork would pay for.
    fn choose_apart(served: &Served, state: &Path) -> Result<Users> {
        let (ours, theirs) = pair()?;
        let blocked = signals::block_for_fork()?;
        match process::fork()? {
            process::Fork::Child => {
                std::mem::forget(blocked);
                let answer = Users::choose(served, state).map_err(|error| format!("{error:#}"));
                let said = Channel::<_, ()>::new(theirs).send(&answer);
                process::exit_now(i32::from(said.is_err()))
            }
            process::Fork::Parent(child) => {
                drop((theirs, blocked));
                let answer = Channel::<(), Result<Users, String>>::new(ours).receive();
                process::wait(child)?;
                let (users, _) = answer.context("looking up the users of the roles")?;
                users.map_err(anyhow::Error::msg)
            }
        }
    }

    fn choose(served: &Served, state: &Path) -> Result<Users> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("rsmtpd: warning: not started as root, so all processes run as one user");
            return Ok(Users {
                service: None,
                logger: None,
                delivery: None,
                invented: false,
            });
        }
        let mut invented = false;
        let mut pick = |name: &str, group: Option<&str>, nth: usize| -> Result<Identity> {
            if let Some(identity) = account(name, group)? {
                return Ok(identity);
            }
            invented = true;
            Ok(privilege::dynamic_identity(nth)?)
        };
        let service = pick(&served.daemon.user, served.daemon.group.as_deref(), 0)?;
        let logger = pick("rsmtpd-log", None, 1)?;
        let mut delivery = pick(&served.delivery().user, served.delivery().group.as_deref(), 2)?;
        if let Ok(metadata) = fs::metadata(state)
            && metadata.uid() != 0
        {
            delivery = Identity::numeric(metadata.uid(), metadata.gid());
        }
        for identity in [&service, &logger, &delivery] {
            if identity.uid == 0 || identity.gid == 0 {
                bail!("no role may run as root; name an unprivileged user in rsmtpd.yaml and delivery.yaml");
            }
        }
        Ok(Users {
            service: Some(service),
            logger: Some(logger),
            delivery: Some(delivery),
            invented,
        })
    }
}

fn warn_about_users(users: &Users, log: &Log) {
    let mut event = Event::new("service-users-missing");
    for (role, identity) in [
        ("service", &users.service),
        ("logger", &users.logger),
        ("delivery", &users.delivery),
    ] {
        if let Some(identity) = identity {
            event = event.field(role, identity.uid);
        }
    }
    log.say(
        Level::Warning,
        event.quoted("remedy", b"systemd-sysusers, or adduser --system rsmtpd"),
    );
}

/// Makes the state directory, 0700 and owned by the user who keeps mail.
fn prepare_state(state: &Path, owner: Option<&Identity>) -> Result<()> {
    if !state.exists() {
        if let Some(parent) = state.parent() {
            fs::create_dir_all(parent).with_context(|| format!("{}", parent.display()))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(state)
            .with_context(|| format!("{}", state.display()))?;
        if let Some(owner) = owner {
            nix::unistd::chown(state, Some(owner.uid.into()), Some(owner.gid.into()))?;
        }
    }
    Ok(())
}

fn start_logger(served: &Served, plan: &Plan, user: Option<&Identity>) -> Result<(OwnedFd, Helper)> {
    let (door, voice) = pair()?;
    let voice = socket::move_fd_at_least(voice, MASTER_DESCRIPTORS)?;
    let parents = voice.try_clone()?;
    let level = served.log_level();
    if let (Destination::File(path), Some(user)) = (&plan.destination, user)
        && !path.exists()
    {
        File::options()
            .append(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("{}", path.display()))?;
        nix::unistd::chown(path, Some(user.uid.into()), Some(user.gid.into()))?;
    }
    let profile = sandbox::Profile::logger(
        log_reads(),
        plan.destination
            .directory()
            .map(Path::to_path_buf)
            .into_iter()
            .collect(),
    );
    let mode = served.sandbox;
    let destination = plan.destination.clone();
    let work = move |control: OwnedFd, _| {
        let Ok(sink) = Sink::open(destination.clone()) else {
            return crate::helper::EX_CONFIG;
        };
        if sandbox::enter(&profile, mode).is_err() {
            return EX_SOFTWARE;
        }
        logger::run(control, sink, level).map_or(EX_SOFTWARE, |()| 0)
    };
    let helper = Helper::start(Role::Logger, user, || Ok(Log::new(parents, level)), &work)?;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    helper.tell(&ToHelper::Door { worker: 0, pid: own }, &[door.as_fd()]);
    Ok((voice, helper))
}

fn start_delivery(served: &Served, user: Option<&Identity>, state: &Path, logger: &Helper) -> Result<Helper> {
    let (door, voice) = pair()?;
    let level = served.log_level();
    let settings = delivery_settings(served.delivery(), state, served.daemon.grace_time);
    let profile = delivery_profile(state, &settings);
    let mode = served.sandbox;
    let parents = voice.try_clone()?;
    let lock = state.join("lock");
    let work = move |control: OwnedFd, _| {
        let Ok(voice) = voice.try_clone() else {
            return EX_SOFTWARE;
        };
        let log = Log::new(voice, level);
        let log: delivery::Log = Arc::new(move |level, text| log.line(Level::from_number(level), text));
        if sandbox::enter(&profile, mode).is_err() {
            return EX_SOFTWARE;
        }
        delivery::run(control, settings.clone(), log)
    };
    let master = std::process::id();
    let prepare = move || {
        hold_lock(&lock, master)?;
        Ok(Log::new(parents, level))
    };
    let helper = Helper::start(Role::Delivery, user, prepare, &work)
        .with_context(|| format!("state directory {}", state.display()))?;
    logger.tell(
        &ToHelper::Door {
            worker: 0,
            pid: helper.pid.as_raw(),
        },
        &[door.as_fd()],
    );
    Ok(helper)
}

/// The delivery process's settings from delivery.yaml.
fn delivery_settings(delivery: &config::Delivery, state: &Path, grace: Duration) -> delivery::Settings {
    let agent = match delivery.agent {
        config::Agent::Maildir => delivery::Agent::Maildir,
        config::Agent::DovecotLda => delivery::Agent::DovecotLda {
            path: delivery.dovecot_lda.path.clone(),
            userdb: delivery.dovecot_lda.userdb,
            home: delivery.dovecot_lda.home.clone().unwrap_or_default(),
        },
        config::Agent::Lmtp => delivery::Agent::Lmtp {
            socket: delivery.lmtp.socket.clone(),
        },
    };
    let acknowledge = match delivery.acknowledge {
        config::Acknowledge::Delivered => delivery::Acknowledge::Delivered,
        config::Acknowledge::Spooled => delivery::Acknowledge::Spooled,
    };
    delivery::Settings {
        agent,
        acknowledge,
        writers: delivery.writers,
        lda_jobs: delivery.lda_jobs,
        queue: delivery.queue,
        timeout: delivery.timeout,
        give_up: delivery.give_up,
        grace,
        ..delivery::Settings::new(state)
    }
}

/// What delivery may do: files below the state directory; with dovecot-lda, whatever that program needs.
fn delivery_profile(state: &Path, settings: &delivery::Settings) -> sandbox::Profile {
    let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut read = paths(&["/proc", "/etc/localtime", "/usr/share/zoneinfo"]);
    let mut write = vec![state.to_path_buf()];
    let mut execute = Vec::new();
    if let delivery::Agent::DovecotLda { path, home, .. } = &settings.agent {
        execute = paths(&["/usr", "/lib", "/lib64", "/bin"]);
        execute.push(path.clone());
        read.extend(paths(&["/etc", "/run/dovecot", "/var/run/dovecot"]));
        write.extend(paths(&["/dev/null", "/tmp"]));
        // The part of the template before the first variable: every home is below it.
        let fixed = home.split('%').next().unwrap_or_default();
        let base = Path::new(fixed);
        let base = if fixed.ends_with('/') {
            Some(base)
        } else {
            base.parent()
        };
        write.extend(base.filter(|base| base.components().count() > 1).map(Path::to_path_buf));
    }
    sandbox::Profile::delivery(read, write, execute)
}

/// What the logger reads: the time zone.
fn log_reads() -> Vec<PathBuf> {
    vec!["/etc/localtime".into(), "/usr/share/zoneinfo".into()]
}

/// The account of this name, with `group` in place of its own; none when there is no such account.
fn account(name: &str, group: Option<&str>) -> Result<Option<Identity>> {
    let Some(mut identity) = privilege::lookup_user(name)? else {
        return Ok(None);
    };
    if let Some(group) = group {
        let found = nix::unistd::Group::from_name(group)?;
        identity.gid = found.with_context(|| format!("no group {group:?}"))?.gid.as_raw();
    }
    Ok(Some(identity))
}

/// Takes the lock of the state directory for as long as this process and its children live, and leaves the
/// master's process id in it.
fn hold_lock(path: &Path, master: u32) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.try_lock()
        .map_err(|_| io::Error::other("another rsmtpd holds the lock"))?;
    file.set_len(0)?;
    writeln!(file, "{master}")?;
    std::mem::forget(file);
    Ok(())
}
