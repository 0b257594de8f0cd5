//! The worker: serves one client, then ends.
//!
//! Inherit → harden → wait → accept → talk → end. It may assume that the master sandboxed itself before the
//! fork; it must never open a socket, write a file by name, or believe anything a client says.

mod back_end;
mod body;
mod broker;
mod deadlines;
mod link;
mod panics;
mod records;
pub mod refuse;
pub mod served;
mod talk;
mod transport;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Poll};

use crate::config::Unchanged;
use crate::helper::EX_SOFTWARE;
use crate::ipc::link::{Doors, FromWorker};
use crate::ipc::sources::View;
use crate::keeper;
use crate::log::{Event, Level};
use crate::logger;
use crate::sys::{inotify, process, socket};

pub use deadlines::Patience;
use link::{Link, Order};
use served::{Current, Served};
use transport::{LINK, listening};

/// What a worker has from its master: the only descriptors it keeps.
pub struct Inherited<'a> {
    /// The shared listeners, in the order of the configuration.
    pub listeners: &'a [OwnedFd],
    /// The Link.
    pub link: OwnedFd,
    /// A door to the logger.
    pub logger: OwnedFd,
    /// Doors of which the master has copies, as far as there are any.
    pub doors: Doors<Option<OwnedFd>>,
    /// The configuration directory.
    pub directory: &'a OwnedFd,
    /// How to see that nothing has changed in it, if there is a short way.
    pub unchanged: Option<&'a Unchanged>,
    /// What is ready when a watch over it reports a change, if there is one.
    pub sign: Option<BorrowedFd<'a>>,
    /// The sources that are refused.
    pub refused: &'a View,
}

/// The exit status of a worker that has given up a door: no other one may have its doors.
pub const WITHOUT_DOOR: i32 = 3;

/// Serves up to the configured number of connections; the exit status of the process.
pub fn run(inherited: Inherited<'_>, served: &Served) -> i32 {
    let log = Rc::new(logger::client::Client::new(inherited.logger, served.log_level()));
    let ends = Ends {
        listeners: inherited.listeners,
        directory: inherited.directory,
        unchanged: inherited.unchanged,
        sign: inherited.sign,
        refused: inherited.refused,
        served,
    };
    panics::remember();
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let link = Rc::new(Link::new(inherited.link, Rc::clone(&log)));
        let delivery = body::Delivery::new(Rc::clone(&link), inherited.doors.delivery);
        let broker = broker::Broker::new(Rc::clone(&link), inherited.doors.broker);
        let lent = Lent {
            delivery: Rc::new(RefCell::new(delivery)),
            broker: Rc::new(RefCell::new(broker)),
            keeper: inherited
                .doors
                .keeper
                .map(|door| Arc::new(keeper::client::Client::new(door))),
        };
        life(&ends, &link, &lent, &log)
    })) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            log.say(
                Level::Error,
                Event::new("worker-failed").quoted("error", error.to_string().as_bytes()),
            );
            EX_SOFTWARE
        }
        Err(_) => {
            log.say(
                Level::Critical,
                Event::new("worker-panicked").quoted("at", panics::place().as_bytes()),
            );
            EX_SOFTWARE
        }
    }
}

/// What a worker shares with its siblings.
struct Ends<'a> {
    listeners: &'a [OwnedFd],
    directory: &'a OwnedFd,
    unchanged: Option<&'a Unchanged>,
    sign: Option<BorrowedFd<'a>>,
    refused: &'a View,
    served: &'a Served,
}

impl<'a> Ends<'a> {
    /// The set for a connection that begins now.
    fn current(&self, link: &Link) -> Current<'a> {
        let directory = self.directory.as_fd();
        // In this order: the master takes the number back before it takes reports out. A master that is gone watches
        // nothing any more; its Link has come to its end then.
        let is_quiet = |number| {
            self.sign.is_some_and(|sign| inotify::is_quiet([sign, link.as_fd()])) && self.refused.watch() == number
        };
        if self
            .unchanged
            .is_some_and(|unchanged| unchanged.holds(directory, is_quiet))
        {
            return Current::Same(self.served);
        }
        self.served.current(directory, |fingerprint| {
            link.report(&FromWorker::Changed { fingerprint })
        })
    }
}

/// What a worker has after others.
struct Lent {
    delivery: Rc<RefCell<body::Delivery>>,
    broker: Rc<RefCell<broker::Broker>>,
    keeper: Option<Arc<keeper::client::Client>>,
}

impl Lent {
    /// The exit status of the worker.
    fn status(&self) -> i32 {
        let has_kept_all = self.delivery.borrow().has_kept_its_door()
            && self.broker.borrow().has_kept_its_door()
            && self.keeper.as_ref().is_none_or(|door| door.is_whole());
        if has_kept_all { 0 } else { WITHOUT_DOOR }
    }
}

/// Waits and serves; the exit status.
fn life(ends: &Ends<'_>, link: &Rc<Link>, lent: &Lent, log: &logger::client::Client) -> io::Result<i32> {
    let served = ends.served;
    served.confine()?; // what the kernel lacks, the master has said once for all
    link.report(&FromWorker::Ready);
    let connections = served.daemon.workers.connections_per_worker;
    let mut waiting = Waiting::new(ends, link)?;
    for number in 1..=connections {
        let Some((client, peer, listener)) = waiting.accept(link)? else {
            return Ok(lent.status());
        };
        let last = number == connections;
        let poll = waiting.hand_over(last, link)?;
        let session = busy(link, peer, served.is_for_proxies(listener))?;
        let served = ends.current(link);
        let local = socket::local_addr(&client)?;
        let ended = talk::serve(
            client,
            talk::Ends {
                poll,
                session,
                peer,
                local,
                listener,
                keeper: lent.keeper.clone(),
                broker: Rc::clone(&lent.broker),
                refused: ends.refused,
            },
            &served,
            link,
            &lent.delivery,
            log,
        )?;
        if last {
            // The master takes our death for the report; the kernel clears away faster than we could.
            process::exit_now(lent.status());
        }
        drop(ended);
        lent.broker.borrow_mut().end_session();
        link.report(&FromWorker::Done);
        link.listen();
        if link.order() != Order::Serve || is_worn() {
            break;
        }
        link.report(&FromWorker::Ready);
    }
    Ok(lent.status())
}

/// Reports a client, or a proxy that brings one; the session's identifier.
fn busy(link: &Link, peer: SocketAddr, is_proxy: bool) -> io::Result<String> {
    let session = talk::identifier()?;
    link.report(&FromWorker::Busy {
        peer,
        session: session.clone(),
        is_proxy,
    });
    Ok(session)
}

/// Whether this process has used so much of its processor time that the next client might see the end of it.
fn is_worn() -> bool {
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    used.map_or(true, |used| used.tv_sec() > (served::CPU_SECONDS / 2) as i64)
}

/// The listeners and the Link, waited on together.
struct Waiting<'a> {
    /// Until it is handed over.
    poll: Option<Poll>,
    events: Events,
    listeners: &'a [OwnedFd],
    refused: &'a View,
    served: &'a Served,
}

/// A client, where it came from, and on which listener.
type Client = (OwnedFd, SocketAddr, usize);

impl<'a> Waiting<'a> {
    fn new(ends: &Ends<'a>, link: &Link) -> io::Result<Waiting<'a>> {
        let poll = listening(link)?;
        for (number, listener) in ends.listeners.iter().enumerate() {
            socket::add_exclusive(poll.as_raw_fd(), listener, number as u64)?;
        }
        Ok(Waiting {
            poll: Some(poll),
            events: Events::with_capacity(8),
            listeners: ends.listeners,
            refused: ends.refused,
            served: ends.served,
        })
    }

    /// The next client; none when the master wants us to leave.
    fn accept(&mut self, link: &Link) -> io::Result<Option<Client>> {
        while let Some(poll) = &mut self.poll {
            match poll.poll(&mut self.events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            // Announced once, but a client that came with it comes first: no other spare was woken for that one.
            let is_told = self.events.iter().any(|event| event.token() == LINK);
            for event in &self.events {
                let number = event.token().0;
                let Some(listener) = self.listeners.get(number) else {
                    continue;
                };
                match socket::accept(listener) {
                    Ok((client, peer)) => {
                        let client = socket::place_client(client)?;
                        if let Some(client) = self.admit(client, peer, number, link) {
                            if is_told {
                                link.listen();
                            }
                            return Ok(Some((client, peer, number)));
                        }
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            if is_told {
                link.listen();
                if link.order() != Order::Serve {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The client, unless its source is refused, or it is no proxy where only those are served: then it is turned away
    /// here. That costs no life of a worker, though it be its only one, because nothing is read from that client.
    fn admit(&self, client: OwnedFd, peer: SocketAddr, listener: usize, link: &Link) -> Option<OwnedFd> {
        if self.served.is_for_proxies(listener) {
            // Its clients' sources are known from its headers.
            if self.served.is_proxy(listener, peer.ip()) {
                return Some(client);
            }
            refuse::client(client, refuse::NO_PROXY);
            link.report(&FromWorker::NoProxy { peer });
        } else if let Some(limit) = self.refused.refuses(peer.ip(), Instant::now()) {
            refuse::client(client, refuse::SOURCE);
            link.report(&FromWorker::Refused { peer, limit });
        } else {
            return Some(client);
        }
        None
    }

    /// What is to hear the master from now on; for the `last` client what waited for it: one thing less to make.
    fn hand_over(&mut self, last: bool, link: &Link) -> io::Result<Poll> {
        if last { self.close() } else { listening(link) }
    }

    /// Closes the listeners, so that nobody but spares and the master holds the port, and hands over what hears the master.
    /// The master's values of the listeners in this process's memory are never used or dropped again: it ends by `_exit`.
    fn close(&mut self) -> io::Result<Poll> {
        let poll = self.poll.take().ok_or(io::ErrorKind::NotConnected)?;
        for listener in std::mem::take(&mut self.listeners) {
            // Others have it open too, so that closing alone would not end its events.
            poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()))?;
            let _ = nix::unistd::close(listener.as_raw_fd());
        }
        Ok(poll)
    }
}

/// Whether accept(2) may be tried again: another spare was faster, the client has left, or the listener was closed
/// for all (EINVAL), of which the master has told us or is about to.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(
        error.kind(),
        WouldBlock | ConnectionAborted | ConnectionReset | Interrupted
    ) || matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EPROTO | libc::ENETDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH)
    )
}
