//! Tells systemd the state of the service (sd_notify(3)) through a socket connected before the sandbox.
//!
//! Assumes nothing when `$NOTIFY_SOCKET` is not set: every call then does nothing. Never waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The connected socket of the service manager, or none.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
}

impl Notify {
    /// Connects to `$NOTIFY_SOCKET`; to nobody when it is not set.
    ///
    /// # Errors
    /// When the variable names a socket that cannot be connected to.
    pub fn from_env() -> io::Result<Notify> {
        match std::env::var("NOTIFY_SOCKET") {
            Ok(name) if !name.is_empty() => Notify::connect(&name),
            _ => Ok(Notify::default()),
        }
    }

    /// Connects to a socket by path, or by abstract name after `@`.
    ///
    /// # Errors
    /// What connect(2) says.
    pub fn connect(name: &str) -> io::Result<Notify> {
        let address = match name.strip_prefix('@') {
            Some(rest) => SocketAddr::from_abstract_name(rest)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Notify { socket: Some(socket) })
    }

    /// Gives the socket a descriptor number of at least `min`.
    ///
    /// # Errors
    /// When descriptors ran out.
    pub fn moved(self, min: RawFd) -> io::Result<Notify> {
        let Some(socket) = self.socket else {
            return Ok(self);
        };
        let fd = super::socket::move_fd_at_least(OwnedFd::from(socket), min)?;
        Ok(Notify {
            socket: Some(fd.into()),
        })
    }

    /// The descriptor to keep open, if there is one.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        self.socket.as_ref().map(|socket| socket.as_fd().as_raw_fd())
    }

    /// The service is ready (also again after a reload).
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload has begun; end it with [`Notify::ready`].
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
    }

    /// The service is ending.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// One line on the state of the service.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes()); // a manager that does not listen must not stop the service
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn monotonic_usec() -> i64 {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) {
        Ok(now) => now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_each_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::connect(path.to_str().unwrap()).unwrap().moved(300).unwrap();
        assert!(notify.descriptor().unwrap() >= 300);
        let mut buffer = [0; 256];
        let mut heard = |act: &dyn Fn()| {
            act();
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(
            heard(&|| notify.ready("5 spares\nREADY=0")),
            "READY=1\nSTATUS=5 spares READY=0"
        );
        let reloading = heard(&|| notify.reloading());
        let clock = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(clock.parse::<i64>().unwrap() > 0);
        assert_eq!(heard(&|| notify.status("ok")), "STATUS=ok");
        assert_eq!(heard(&|| notify.stopping()), "STOPPING=1");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let notify = Notify::default();
        notify.ready("x");
        assert!(notify.descriptor().is_none());
        assert!(Notify::connect("/nonexistent/notify").is_err());
    }
}
