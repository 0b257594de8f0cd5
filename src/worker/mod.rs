//! The worker: serves one client, then ends.
//!
//! Inherit → harden → wait → accept → talk → end. It may assume that the master sandboxed itself before the
//! fork; it must never open a socket, write a file by name, or believe anything a client says.

mod body;
mod deadlines;
mod link;
pub mod served;
mod talk;
mod transport;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::delivery::client::Client as DeliveryClient;
use crate::ipc::link::FromWorker;
use crate::log::{Event, Level};
use crate::logger;
use crate::sys::{process, socket};

pub use deadlines::Patience;
use link::{Link, Order};
use served::Served;

/// What a worker has from its master: the only descriptors it keeps.
pub struct Inherited<'a> {
    /// The shared listeners, in the order of the configuration.
    pub listeners: &'a [OwnedFd],
    /// The Link.
    pub link: OwnedFd,
    /// A door to delivery.
    pub delivery: OwnedFd,
    /// A door to the logger.
    pub logger: OwnedFd,
    /// The configuration directory.
    pub directory: &'a OwnedFd,
}

const LINK: Token = Token(usize::MAX);

/// Serves up to the configured number of connections; the exit status of the process.
pub fn run(inherited: Inherited<'_>, served: &Served) -> i32 {
    let log = logger::client::Client::new(inherited.logger, served.log_level());
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        life(
            inherited.listeners,
            inherited.link,
            inherited.delivery,
            inherited.directory,
            &log,
            served,
        )
    })) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            log.say(
                Level::Error,
                Event::new("worker-failed").quoted("error", error.to_string().as_bytes()),
            );
            70
        }
        Err(_) => {
            log.say(Level::Critical, Event::new("worker-panicked"));
            70
        }
    }
}

fn life(
    listeners: &[OwnedFd],
    link: OwnedFd,
    delivery: OwnedFd,
    directory: &OwnedFd,
    log: &logger::client::Client,
    served: &Served,
) -> io::Result<()> {
    for layer in served.confine()? {
        log.say(
            Level::Warning,
            Event::new("sandbox-layer-missing").field("layer", layer),
        );
    }
    let link = Rc::new(Link::new(link));
    link.report(&FromWorker::Ready);
    let delivery = Rc::new(RefCell::new(body::Delivery::new(
        DeliveryClient::new(delivery, body::PATIENCE),
        Rc::clone(&link),
    )));
    let connections = served.daemon.workers.connections_per_worker;
    let mut waiting = Waiting::new(listeners, &link)?;
    for number in 1..=connections {
        let Some((client, peer, listener)) = waiting.accept(&link)? else {
            return Ok(());
        };
        let last = number == connections;
        if last {
            waiting.close();
        }
        let session = talk::identifier()?;
        link.report(&FromWorker::Busy {
            peer,
            session: session.clone(),
        });
        let served = served.current(directory.as_fd(), |fingerprint| {
            link.report(&FromWorker::Changed { fingerprint })
        });
        let local = socket::local_addr(&client)?;
        let ended = talk::serve(
            client,
            talk::Ends {
                session,
                peer,
                local,
                listener,
            },
            &served,
            &link,
            &delivery,
            log,
        )?;
        if last {
            // The master takes our death for the report; the kernel clears away faster than we could.
            process::exit_now(0);
        }
        drop(ended);
        link.report(&FromWorker::Done);
        if link.order() != Order::Serve {
            return Ok(());
        }
    }
    Ok(())
}

/// The listeners and the Link, waited on together.
struct Waiting<'a> {
    poll: Poll,
    events: Events,
    listeners: &'a [OwnedFd],
}

impl<'a> Waiting<'a> {
    fn new(listeners: &'a [OwnedFd], link: &Link) -> io::Result<Waiting<'a>> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&link.as_raw_fd()), LINK, Interest::READABLE)?;
        for (number, listener) in listeners.iter().enumerate() {
            socket::add_exclusive(poll.as_raw_fd(), listener, number as u64)?;
        }
        Ok(Waiting {
            poll,
            events: Events::with_capacity(8),
            listeners,
        })
    }

    /// The next client, where it came from and on which listener; none when the master wants us to leave.
    fn accept(&mut self, link: &Link) -> io::Result<Option<(OwnedFd, SocketAddr, usize)>> {
        loop {
            match self.poll.poll(&mut self.events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &self.events {
                if event.token() == LINK {
                    link.listen();
                    if link.order() != Order::Serve {
                        return Ok(None);
                    }
                } else if let Some(listener) = self.listeners.get(event.token().0) {
                    match socket::accept(listener) {
                        Ok((client, peer)) => {
                            let client = socket::place_client(client)?;
                            return Ok(Some((client, peer, event.token().0)));
                        }
                        Err(error) if is_passing(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }

    /// Closes the listeners, so that nobody but spares and the master holds the port. The master's values
    /// of them in this process's memory are never used or dropped again: it ends by `_exit`.
    fn close(&mut self) {
        for listener in std::mem::take(&mut self.listeners) {
            let _ = nix::unistd::close(listener.as_raw_fd());
        }
    }
}

/// Whether accept(2) may be tried again: another spare was faster, or the client has left.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(
        error.kind(),
        WouldBlock | ConnectionAborted | ConnectionReset | Interrupted
    ) || matches!(
        error.raw_os_error(),
        Some(libc::EPROTO | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}
