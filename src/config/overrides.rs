//! What the command line says instead of `rsmtpd.yaml`, at the start and at every reload.

use std::path::PathBuf;

use super::{Daemon, LogLevel, Place};

/// Values of the command line; what is not given leaves the file's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--address`.
    pub address: Option<String>,
    /// `--port`.
    pub port: Option<u16>,
    /// `--user`.
    pub user: Option<String>,
    /// `--group`.
    pub group: Option<String>,
    /// `--background`.
    pub background: bool,
    /// `--log-path`.
    pub log_path: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<LogLevel>,
}

impl Overrides {
    /// Lets the command line have the last word.
    pub fn apply(&self, daemon: &mut Daemon) {
        if self.address.is_some() || self.port.is_some() {
            daemon.listeners.clear();
        }
        if let Some(address) = &self.address {
            daemon.address.clone_from(address);
        }
        if let Some(port) = self.port {
            daemon.port = port;
        }
        if let Some(user) = &self.user {
            daemon.user.clone_from(user);
            (daemon.user_place, daemon.group_place) = (Some(Place::option("--user")), None);
            daemon.group = None;
        }
        if let Some(group) = &self.group {
            daemon.group_place = Some(Place::option("--group"));
            daemon.group = Some(group.clone());
        }
        daemon.background |= self.background;
        if let Some(path) = &self.log_path {
            daemon.log_path = Some(path.clone());
        }
        if let Some(level) = self.log_level {
            daemon.log_level = level;
        }
    }
}
