//! How delivery starts: what it works by, what it may do, and how a later one of its line learns what changed.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::delivery;
use crate::helper::{EX_SOFTWARE, Seat, Turn};
use crate::ipc::control::ToHelper;
use crate::ipc::frame;
use crate::ipc::link::Role;
use crate::log::Level;
use crate::logger::client::Client as Log;
use crate::sys::child;
use crate::sys::privilege::Identity;
use crate::sys::sandbox;
use crate::worker::served::{Served, level};

use super::descriptors::pair;
use super::helpers::Helper;

/// Forks it.
///
/// # Errors
/// It cannot start; another daemon holds the state directory.
pub(super) fn start(
    served: &Served,
    directory: &OwnedFd,
    user: Option<&Identity>,
    state: &Path,
    logger: &Helper,
) -> Result<Helper> {
    let (door, voice) = pair()?;
    let lent = [voice.as_raw_fd(), directory.as_raw_fd()];
    let first = Known {
        level: served.log_level() as u8,
        settings: delivery_settings(served.delivery(), state, served.daemon.grace_time),
    };
    let mode = served.sandbox;
    let work = |seat: Seat| {
        let known = match first.renewed(&seat, served.said(), directory) {
            Ok(known) => known,
            Err(faults) => return seat.refuse(&faults),
        };
        let Ok(voice) = voice.try_clone() else {
            return EX_SOFTWARE;
        };
        let client = Arc::new(Log::new(voice, Level::from_number(known.level)));
        let speaker = Arc::clone(&client);
        let log: delivery::Log = Arc::new(move |level, event| speaker.say(level, event));
        if let Err(error) = sandbox::enter(&delivery_profile(state, &known.settings), mode) {
            return seat.give_up("sandbox", &error);
        }
        if !seat.take_over(frame::encode(&known).unwrap_or_default()) {
            return EX_SOFTWARE;
        }
        if matches!(known.settings.agent, delivery::Agent::DovecotLda { .. }) {
            child::ignore_but_in_programs(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1]);
        }
        delivery::run(delivery::Place {
            seat,
            settings: known.settings,
            log,
            rejoin: Box::new(move |fd| client.rejoin(fd)),
        })
    };
    let (lock, master) = (state.join("lock"), std::process::id());
    let prepare = || hold_lock(&lock, master);
    let helper =
        Helper::start(Role::Delivery, user, &[], &lent, prepare, &work).with_context(|| belongs_to(state, user))?;
    logger.tell(
        &ToHelper::Door {
            worker: 0,
            pid: helper.pid.as_raw(),
        },
        &[door.as_fd()],
    );
    Ok(helper)
}

/// What one delivery process works by, and hands on to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    level: u8,
    settings: delivery::Settings,
}

impl Known {
    /// What a process in this seat is to work by: the first one by what the daemon was started with, later ones by
    /// what the files say now. If those are broken, one that comes in place of a dead one goes on with the last good
    /// set; one that was to take over does not.
    fn renewed(&self, seat: &Seat, said: &config::Overrides, directory: &OwnedFd) -> Result<Known, config::Faults> {
        if seat.turn == Turn::First {
            return Ok(self.clone());
        }
        match config::Configuration::load_delivery_set(directory.as_fd()) {
            Ok((mut daemon, delivery)) => {
                said.apply(&mut daemon);
                Ok(Known {
                    level: level(daemon.log_level) as u8,
                    settings: delivery_settings(&delivery, &self.settings.state, daemon.grace_time),
                })
            }
            Err(_) if seat.turn == Turn::Again => Ok(frame::decode(&seat.memory).unwrap_or_else(|_| self.clone())),
            Err(faults) => Err(faults),
        }
    }
}

/// The state directory, and where it is not the user's, whose it is.
fn belongs_to(state: &Path, user: Option<&Identity>) -> String {
    let mut text = format!("state directory {}", state.display());
    if let (Ok(metadata), Some(user)) = (fs::metadata(state), user)
        && metadata.uid() != user.uid
    {
        text += &format!(
            " (it belongs to user id {}, delivery runs as {}: change its owner, or `user` in delivery.yaml)",
            metadata.uid(),
            user.name
        );
    }
    text
}

/// The delivery process's settings from delivery.yaml.
fn delivery_settings(delivery: &config::Delivery, state: &Path, grace: Duration) -> delivery::Settings {
    let agent = match delivery.agent {
        config::Agent::Maildir => delivery::Agent::Maildir,
        config::Agent::DovecotLda => delivery::Agent::DovecotLda {
            path: delivery.dovecot_lda.path.clone(),
            userdb: delivery.dovecot_lda.userdb,
            home: delivery.dovecot_lda.home.clone().unwrap_or_else(|| {
                // a per cent sign of the path itself is none of the template
                let state = state.display().to_string().replace('%', "%%");
                format!("{state}/{}/%d/%n", delivery::MAIL)
            }),
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
        retry_first: delivery.retry.first,
        retry_most: delivery.retry.longest,
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
    if let delivery::Agent::DovecotLda { path, home, userdb } = &settings.agent {
        execute = paths(&["/usr", "/lib", "/lib64", "/bin"]);
        execute.push(path.clone());
        read.extend(paths(&["/etc", "/run/dovecot", "/var/run/dovecot"]));
        read.extend(paths(&["/dev/zero", "/dev/random", "/dev/urandom"]));
        write.extend(paths(&["/dev/null", "/tmp"]));
        if *userdb {
            // only Dovecot knows where its users' mail is; the user's own rights are what confines it
            write.push("/".into());
        }
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
    file.try_lock().map_err(|_| {
        io::Error::other("another rsmtpd holds the lock, and each needs a `state` of its own in rsmtpd.yaml")
    })?;
    file.set_len(0)?;
    writeln!(file, "{master}")?;
    std::mem::forget(file);
    Ok(())
}
