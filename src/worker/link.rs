//! The worker's end of its Link to the master.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::logger::client::Client as Log;

/// How long a door may take: the master may be at a configuration with a long list.
const DOOR_PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to end one: the client has waited for its reply nearly as long as it does.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// What the master wants of this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Go on.
    Serve,
    /// Leave between connections.
    Retire,
    /// Answer 421 at the next command boundary.
    Leave,
}

/// The Link and the gravest order that came over it.
#[derive(Debug)]
pub struct Link {
    channel: Channel<FromWorker, ToWorker>,
    log: Rc<Log>,
    order: Cell<Order>,
    refused: RefCell<Option<String>>,
}

impl Link {
    /// Speaks over `fd`; `log` gets a new way to the logger when the master sends one.
    pub fn new(fd: OwnedFd, log: Rc<Log>) -> Link {
        Link {
            channel: Channel::new(fd),
            log,
            order: Cell::new(Order::Serve),
            refused: RefCell::new(None),
        }
    }

    /// Reports; a master that is gone is noted as an order to leave.
    pub fn report(&self, report: &FromWorker) {
        if self.channel.send(report).is_err() {
            self.order.set(Order::Leave);
        }
    }

    /// The gravest order so far.
    pub fn order(&self) -> Order {
        self.order.get()
    }

    /// Whether the client of `session` is one too many. An order about an earlier session means nothing.
    pub fn refuses(&self, session: &str) -> bool {
        self.refused.borrow().as_deref() == Some(session)
    }

    /// Takes what the master has said, without waiting.
    pub fn listen(&self) {
        loop {
            match self.channel.receive_nowait() {
                Ok((order, fd)) => self.note(&order, fd),
                Err(Fault::WouldBlock) => return,
                Err(_) => return self.order.set(Order::Leave),
            }
        }
    }

    /// Asks for a door to `helper` and waits for it.
    ///
    /// # Errors
    /// The master gave none within half a minute.
    pub fn open(&self, helper: Role) -> io::Result<OwnedFd> {
        self.report(&FromWorker::Open { helper });
        loop {
            match self.channel.receive_within(DOOR_PATIENCE) {
                Ok((ToWorker::Door, Some(fd))) => return Ok(fd),
                Ok((ToWorker::Door, None)) => return Err(io::ErrorKind::NotConnected.into()),
                Ok((order, fd)) => self.note(&order, fd),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Gives up the door to `helper` that we were lent, and waits until the master has ended it: what came before is there,
    /// and what the helper says later fails on its side.
    pub fn close(&self, helper: Role) {
        self.report(&FromWorker::Close { helper });
        let end = Instant::now() + END_PATIENCE;
        loop {
            match self
                .channel
                .receive_within(end.saturating_duration_since(Instant::now()))
            {
                Ok((ToWorker::Closed, _)) | Err(_) => return,
                Ok((order, fd)) => self.note(&order, fd),
            }
        }
    }

    fn note(&self, order: &ToWorker, fd: Option<OwnedFd>) {
        let order = match order {
            ToWorker::Retire => Order::Retire,
            ToWorker::Voice => return fd.map(|fd| self.log.rejoin(fd)).unwrap_or_default(),
            ToWorker::Drain => Order::Leave,
            ToWorker::Refuse { session } => {
                *self.refused.borrow_mut() = Some(session.clone());
                return;
            }
            ToWorker::Door | ToWorker::Closed => return,
        };
        self.order.set(self.order.get().max(order));
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.channel.as_raw_fd()
    }
}
