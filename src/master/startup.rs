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

use anyhow::{Context as _, Result, bail};

use crate::config;
use crate::helper::{EX_SOFTWARE, Seat};
use crate::ipc::control::ToHelper;
use crate::ipc::link::Role;
use crate::log::{Event, Level};
use crate::logger::{self, Destination, Sink, client::Client as Log};
use crate::sys::inotify::Inotify;
use crate::sys::notify::Notify;
use crate::sys::privilege::{self, Identity};
use crate::sys::signals::Signals;
use crate::sys::{arena, detach, process, sandbox, signals, socket};
use nix::fcntl::AtFlags;

use super::Ready;
use super::accounts::Named;
use super::descriptors::{MASTER_DESCRIPTORS, leaves_room, raised_pair};
use super::helpers::{Helper, Helpers};
use super::workers::{REUSED, SIGNALS};
use super::{start_broker, start_delivery, start_keeper};
use crate::worker::served::Served;

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

/// The configuration names what does not exist, or must not be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

/// Descriptors of one process beside those of its workers: its own, those of workers that are being forked, files under
/// way.
const DESCRIPTORS: u64 = 256;
/// Processes of a user beside its workers: helpers, and agents under way.
const PROCESSES: u64 = 16;

/// Users of the roles; None where we were not started as root and stay who we are.
#[derive(Default)]
struct Users {
    service: Option<Identity>,
    logger: Option<Identity>,
    delivery: Option<Identity>,
    broker: Option<Identity>,
    keeper: Option<Identity>,
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
    let missing = sandbox::check(served.sandbox)
        .context("sandbox: require (rsmtpd.yaml; with `sandbox: best_effort` it runs without what the kernel lacks)")?;
    let directory = socket::move_fd_at_least(directory, socket::FIRST_SHARED)?;
    let (listeners, closers, addresses) = bind(&served)?;
    let signals = arena::inherited(|| Signals::new(&SIGNALS, MASTER_DESCRIPTORS))?;
    let notify = Notify::from_env()?.moved(MASTER_DESCRIPTORS)?;
    let state = plan.state.clone();
    let users = Users::choose(&served, &state)?;
    prepare_state(&state, users.delivery.as_ref())?;

    let (voice, logger) = start_logger(&served, plan, users.logger.as_ref())?;
    let log = Log::new(voice, served.log_level());
    let delivery = start_delivery::start(&served, &directory, users.delivery.as_ref(), &state, &logger)?;
    let broker = start_broker::start(&served, &directory, &plan.directory, users.broker.as_ref(), &logger)?;
    let keeper = start_keeper::start(&served, &directory, &plan.directory, users.keeper.as_ref())?;
    let served = start_keeper::show(&keeper, served, &log)?;
    let helpers = Helpers {
        logger,
        delivery,
        keeper,
        broker,
    };

    if let Some(identity) = &users.service {
        privilege::drop_to(identity, &[]).context("dropping root")?;
    }
    let inotify = inotify(&directory);
    sandbox::enter(&profile(&served, plan), served.sandbox).context("entering the sandbox")?;
    process::set_dumpable(false)?;
    if !missing.is_empty() {
        let event = Event::new("sandbox-layer-missing").quoted("layer", missing.join(", ").as_bytes());
        log.say(Level::Warning, event);
    }
    warn_about_limits(served.daemon.workers.max, &log);
    if users.invented {
        warn_about_users(&users, &log);
    }
    say_listening(&addresses, &log);
    say_notes(served.notes(), &log);
    Ok(Ready {
        path: plan.directory.clone(),
        destination: destination(&served, &state),
        records: served.record_directories(),
        named: served.addresses(),
        served,
        directory,
        inotify,
        listeners,
        closers,
        addresses,
        helpers,
        log,
        notify,
        signals,
    })
}

/// What sees changes in the directory; none where the kernel does not see them all, or refuses, or where workers need all
/// numbers for what they cannot do without: that costs time alone. Not to be asked for as root, as there are limits for each
/// user.
fn inotify(directory: &OwnedFd) -> Option<Inotify> {
    let found = config::reports_changes(directory.as_fd()).then(|| Inotify::new(MASTER_DESCRIPTORS).ok())??;
    leaves_room(&found.sign()).then_some(found)
}

/// What the master and the workers may read: the configuration, and the files that it names to be read with it.
fn profile(served: &Served, plan: &Plan) -> sandbox::Profile {
    let mut read = start_keeper::directories(served.reach().files.iter().map(PathBuf::as_path));
    read.push(plan.directory.clone());
    sandbox::Profile::master_and_worker(read)
}

fn say_listening(addresses: &[SocketAddr], log: &Log) {
    for address in addresses {
        log.say(Level::Notice, Event::new("listening").field("address", address));
    }
}

/// Says what an administrator should know of the configuration although it is in force.
pub(super) fn say_notes(notes: impl Iterator<Item = String>, log: &Log) {
    for note in notes {
        let event = Event::new("configuration-note").quoted("note", note.as_bytes());
        log.say(Level::Warning, event);
    }
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

/// The listeners, numbered as workers may have them and as only the master has them, and where they listen.
fn bind(served: &Served) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>, Vec<SocketAddr>)> {
    let mut listeners = Vec::new();
    let mut closers = Vec::new();
    let mut addresses = Vec::new();
    for address in served.addresses() {
        let listener =
            socket::listen(address, socket::BACKLOG).with_context(|| format!("cannot listen on {address}"))?;
        addresses.push(socket::local_addr(&listener)?);
        let listener = socket::move_fd_at_least(listener, socket::FIRST_SHARED)?;
        if !leaves_room(&listener) {
            bail!(Misconfigured(
                "too many addresses to listen on: expected at most 27".to_owned()
            ));
        }
        closers.push(socket::duplicate_at_least(&listener, MASTER_DESCRIPTORS)?);
        listeners.push(listener);
    }
    if listeners.is_empty() {
        bail!(Misconfigured("no address to listen on".to_owned()));
    }
    Ok((listeners, closers, addresses))
}

impl Users {
    fn choose(served: &Served, state: &Path) -> Result<Users> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("rsmtpd: warning: not started as root, so all processes run as one user");
            return Ok(Users::default());
        }
        let owner = fs::metadata(state).ok().filter(|m| m.uid() != 0);
        let mut invented = false;
        let mut named = |named: &Named<'_>| -> Result<Option<Identity>> {
            let found = named.find().with_context(|| format!("{named}: looking it up"))?;
            let found = found.map_err(|fault| Misconfigured(fault.to_string()))?;
            invented |= found.is_none();
            Ok(found)
        };
        let service = named(&Named::service(&served.daemon))?;
        let delivery = named(&Named::delivery(served.delivery()))?;
        let mut usual = |name: &str| -> Result<Option<Identity>> {
            let found = privilege::lookup_user(name).with_context(|| format!("looking up the user {name:?}"))?;
            invented |= found.is_none();
            Ok(found)
        };
        let (logger, broker) = (usual("rsmtpd-log")?, usual("rsmtpd-broker")?);
        let keeper = usual("rsmtpd-keeper")?;
        // Without a user of its own, delivery goes on as whom it was when it made the directory.
        let delivery = delivery.or_else(|| owner.as_ref().map(|m| Identity::numeric(m.uid(), m.gid())));
        let found = [&service, &logger, &delivery, &broker, &keeper];
        let missing = found.iter().filter(|found| found.is_none()).count();
        let owner = owner.map(|m| m.uid());
        let free = privilege::dynamic_identities(missing, owner).context("looking for free user ids")?;
        let mut free = free.into_iter();
        let mut or_invented = |found: Option<Identity>| found.or_else(|| free.next()).context("no user id is free");
        let (service, logger, delivery) = (or_invented(service)?, or_invented(logger)?, or_invented(delivery)?);
        let (broker, keeper) = (or_invented(broker)?, or_invented(keeper)?);
        for identity in [&service, &logger, &delivery, &broker, &keeper] {
            refuse_root(identity)?;
        }
        Ok(Users {
            service: Some(service),
            logger: Some(logger),
            delivery: Some(delivery),
            broker: Some(broker),
            keeper: Some(keeper),
            invented,
        })
    }
}

fn refuse_root(identity: &Identity) -> Result<()> {
    if identity.uid == 0 || identity.gid == 0 {
        bail!(Misconfigured(format!(
            "no role may run as root or in its group, as {:?} would: name an unprivileged user in rsmtpd.yaml and \
             delivery.yaml",
            identity.name
        )));
    }
    Ok(())
}

/// Says so where the system allows fewer workers than the configuration does: each is a process, and a descriptor of
/// the logger, of delivery, of the keeper and of the broker; of the master one, its Link, and for each of the first
/// [`REUSED`] five more, the ends of it that the next worker gets: of the Link, of the voice and of three doors.
pub(super) fn warn_about_limits(workers: usize, log: &Log) {
    let more = 5 * workers.min(REUSED) as u64;
    let workers = workers as u64;
    let limits = [
        ("nofile", detach::descriptor_limit(), DESCRIPTORS + more, "LimitNOFILE"),
        ("nproc", detach::process_limit(), PROCESSES, "LimitNPROC"),
    ];
    for (name, limit, own, setting) in limits {
        let needed = workers + own;
        if let Some(limit) = limit.filter(|limit| *limit < needed) {
            let remedy = format!(
                "raise it (ulimit, {setting}= of the service) or lower workers.max; at the limit clients read 421"
            );
            let event = Event::new("limit-too-low").field("limit", name);
            let event = event.field("value", limit).field("needed", needed);
            let event = event.field("workers_max", workers).quoted("remedy", remedy.as_bytes());
            log.say(Level::Warning, event);
        }
    }
}

fn warn_about_users(users: &Users, log: &Log) {
    let mut event = Event::new("service-users-missing");
    for (role, identity) in [
        ("service", &users.service),
        ("logger", &users.logger),
        ("delivery", &users.delivery),
        ("broker", &users.broker),
        ("keeper", &users.keeper),
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
            fs::create_dir_all(parent).with_context(|| format!("state directory {}", state.display()))?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(state)
            .with_context(|| format!("state directory {}", state.display()))?;
        if let Some(owner) = owner {
            let (uid, gid) = (Some(owner.uid.into()), Some(owner.gid.into()));
            // What was made is given away, never what a link put in its place points to.
            nix::unistd::fchownat(nix::fcntl::AT_FDCWD, state, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
                .with_context(|| format!("giving {} to {}", state.display(), owner.name))?;
        }
    }
    Ok(())
}

fn start_logger(served: &Served, plan: &Plan, user: Option<&Identity>) -> Result<(OwnedFd, Helper)> {
    let (door, voice) = raised_pair()?;
    let level = served.log_level();
    if let (Destination::File(path), Some(user)) = (&plan.destination, user) {
        make_log_file(path, user)?;
    }
    let directories = served.record_directories();
    for directory in &directories {
        make_record_directory(directory, user);
    }
    let kept = plan.destination.directory().into_iter();
    let kept = kept.chain(logger::existing(&directories)).map(Path::to_path_buf);
    let profile = sandbox::Profile::logger(log_reads(), kept.collect());
    let mode = served.sandbox;
    let destination = plan.destination.clone();
    let work = move |seat: Seat| {
        let mut sink = match Sink::open(destination.clone()) {
            Ok(sink) => sink,
            Err(error) => return seat.give_up(&format!("{destination}"), &error),
        };
        let (mut files, failed) = logger::Files::open(&directories);
        if let Destination::File(path) = &destination {
            files.keep_from(path);
        }
        for (path, error) in failed {
            let event = Event::new("record-directory-missing").quoted("path", path.display().to_string().as_bytes());
            let event = event.quoted("reason", error.to_string().as_bytes());
            sink.write(Level::Error, std::process::id(), &event.text());
        }
        sink.flush();
        if let Err(error) = sandbox::enter(&profile, mode) {
            return seat.give_up("sandbox", &error);
        }
        logger::run(seat, sink, files, level).map_or(EX_SOFTWARE, |()| 0)
    };
    let helper = Helper::start(Role::Logger, user, &[], &[], || Ok(()), &work)?;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    helper.tell(&ToHelper::Door { worker: 0, pid: own }, &[door.as_fd()]);
    Ok((voice, helper))
}

/// Makes a directory of records for its user, one level of it, where it is missing. If that fails the logger will say
/// that it is not there, and mail goes on without records.
fn make_record_directory(path: &Path, user: Option<&Identity>) {
    let made = fs::DirBuilder::new().mode(0o750).create(path).is_ok();
    if let (true, Some(user)) = (made, user) {
        let (uid, gid) = (Some(user.uid.into()), Some(user.gid.into()));
        // What was made is given away, never what a link put in its place points to.
        let _ = nix::unistd::fchownat(nix::fcntl::AT_FDCWD, path, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW);
    }
}

/// Makes the log file for its user where only root may make it. Where even root may not, the directory is
/// another's, and the logger makes the file itself if it is its own.
fn make_log_file(path: &Path, user: &Identity) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = File::options().append(true).create_new(true).mode(0o640).open(path);
    match made {
        Ok(file) => Ok(nix::unistd::fchown(
            &file,
            Some(user.uid.into()),
            Some(user.gid.into()),
        )?),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("{}", path.display())),
    }
}

/// What the logger reads: the time zone.
fn log_reads() -> Vec<PathBuf> {
    vec!["/etc/localtime".into(), "/usr/share/zoneinfo".into()]
}
