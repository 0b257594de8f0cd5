//! How the broker starts: what it may reach, and how a later one of its line learns what changed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::broker::{self, Hosts};
use crate::chain::{Chain, Reach, configured};
use crate::config;
use crate::helper::{EX_SOFTWARE, Seat, Turn};
use crate::ipc::control::ToHelper;
use crate::ipc::frame;
use crate::ipc::link::Role;
use crate::log::Level;
use crate::logger::client::Client as Log;
use crate::sys::privilege::Identity;
use crate::sys::sandbox;
use crate::worker::served::{Served, level};

use super::descriptors::pair;
use super::helpers::Helper;

/// Names of this machine.
const HOSTS: &str = "/etc/hosts";
/// The name servers of this machine.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Forks it; only its parent half while the configuration names nothing to reach: after root is dropped nobody could
/// give it a user of its own any more.
///
/// # Errors
/// It cannot start.
pub(super) fn start(
    served: &Served,
    directory: &OwnedFd,
    path: &Path,
    user: Option<&Identity>,
    logger: &Helper,
) -> Result<Helper> {
    let reach = served.reach();
    let asleep = reach.is_empty();
    let (door, voice) = pair()?;
    let lent = [voice.as_raw_fd(), directory.as_raw_fd()];
    let first = Known {
        level: served.log_level() as u8,
        settings: settings(reach, &served.daemon),
        files: served.files().to_vec(),
        fingerprint: served.fingerprint,
    };
    let mode = served.sandbox;
    let said = served.said();
    let work = |seat: Seat| {
        let known = match first.renewed(&seat, said, directory, path) {
            Ok(known) => known,
            Err(faults) => return seat.refuse(&faults),
        };
        let Ok(voice) = voice.try_clone() else {
            return EX_SOFTWARE;
        };
        let log = Rc::new(Log::new(voice, Level::from_number(known.level)));
        let hosts = std::fs::read(HOSTS).unwrap_or_default();
        if let Err(error) = sandbox::enter(&profile(&known.settings), mode) {
            return seat.give_up("sandbox", &error);
        }
        if !seat.take_over(frame::encode(&known).unwrap_or_default()) {
            return EX_SOFTWARE;
        }
        let Ok(directory) = directory.try_clone() else {
            return EX_SOFTWARE;
        };
        let speaker = Rc::clone(&log);
        broker::run(broker::Place {
            seat,
            settings: known.settings.clone(),
            hosts: Hosts::parse(&String::from_utf8_lossy(&hosts)),
            changed: Box::new(move || {
                config::Fingerprint::of(directory.as_fd(), &known.files).number() != known.fingerprint
            }),
            log: Box::new(move |level, event| speaker.say(level, event)),
            rejoin: Box::new(move |fd| log.rejoin(fd)),
        })
    };
    if asleep {
        // It is given a way to the logger when it wakes, as one that was forked again.
        return Ok(Helper::start_asleep(Role::Broker, user, &lent, &work)?);
    }
    let helper = Helper::start(Role::Broker, user, &[], &lent, || Ok(()), &work)?;
    let pid = helper.pid.as_raw();
    logger.tell(&ToHelper::Door { worker: 0, pid }, &[door.as_fd()]);
    Ok(helper)
}

/// What one broker works by, and hands on to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    level: u8,
    settings: broker::Settings,
    /// The files that this comes from, and what they were.
    files: Vec<String>,
    fingerprint: u64,
}

impl Known {
    /// What a process in this seat is to work by: one that is there from the start by what the daemon was started with,
    /// later ones by what the files say now. If those are broken, one that comes in place of a dead one, or of none,
    /// goes on with the last good set; one that was to take over does not.
    fn renewed(
        &self,
        seat: &Seat,
        said: &config::Overrides,
        directory: &OwnedFd,
        path: &Path,
    ) -> Result<Known, config::Faults> {
        if seat.turn == Turn::First {
            return Ok(self.clone());
        }
        match configured::load_opened(directory.as_fd(), path) {
            Ok((mut configuration, chains)) => {
                said.apply(&mut configuration.daemon);
                let mut reach = Reach::default();
                for chain in chains.values() {
                    reach.add(Chain::reach(chain));
                }
                Ok(Known {
                    level: level(configuration.daemon.log_level) as u8,
                    settings: settings(reach, &configuration.daemon),
                    fingerprint: configuration.fingerprint.number(),
                    files: configuration.files,
                })
            }
            Err(_) if seat.turn == Turn::Again => Ok(frame::decode(&seat.memory).unwrap_or_else(|_| self.clone())),
            Err(faults) => Err(faults),
        }
    }
}

fn settings(reach: Reach, daemon: &config::Daemon) -> broker::Settings {
    let mut name_servers = daemon.nameservers.clone();
    if name_servers.is_empty() {
        let text = std::fs::read(RESOLV_CONF).unwrap_or_default();
        name_servers = broker::name_servers(&String::from_utf8_lossy(&text));
    }
    broker::Settings {
        endpoints: reach.endpoints,
        name_servers,
    }
}

/// What the broker may do: connect to the ports that the configuration names, and to those of the name servers.
fn profile(settings: &broker::Settings) -> sandbox::Profile {
    let servers = settings.name_servers.iter().map(std::net::SocketAddr::port);
    let ports = settings.endpoints.iter().map(|endpoint| endpoint.port).chain(servers);
    sandbox::Profile::broker(Vec::<PathBuf>::new(), ports.collect())
}
