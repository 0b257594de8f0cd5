//! The configuration: types and defaults of each file, read from one directory with every fault named by file, line and column.
//!
//! May assume nothing about the files. Must never stop at the first fault, take an impossible value, or touch anything outside
//! the directory but files of certificates, which are public. The YAML crate is known to `load` alone. What a handler's own file says is the handler's to read: here it
//! is only found, and handed over as a [`Part`].
//!
//! `simple_recipient_validator.yaml` is read here, not by the recipient handler: it names further files, and who exists is
//! asked by the chain itself (to refuse whom no handler took) and by the lines at the start as well.

mod chain_file;
mod daemon;
mod delivery;
mod directory;
mod discover;
mod duration;
mod fault;
mod listener;
mod load;
mod overrides;
mod part;
mod peer_tls;
mod place;
mod recipients;
mod recipients_file;
mod section;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode as FileMode;

pub use chain_file::{ChainFile, Combine, Entry, Evaluate, HandlerName, Mode, OnError, VerbEntries};
pub use daemon::{Certificate, Daemon, LogLevel, SandboxMode, Tls, Workers};
pub use delivery::{Acknowledge, Agent, Delivery, DovecotLda, Lmtp};
pub use discover::discover;
pub use fault::{Fault, Faults};
pub use listener::{Listener, ListenerTls, is_listening_address};
pub use load::{Node, Value};
pub use overrides::Overrides;
pub use part::Part;
pub use peer_tls::{Authorities, PeerTls, PeerTlsMode, Pin, Proof};
pub use place::Place;
pub use recipients::{Earlier, Lookup, Recipients, Table};
pub use section::{Field, Section};
pub use watch::{Fingerprint, Unchanged, reports_changes};
pub use worker::{LineEndings, Worker};

use directory::Directory;
use section::File;

/// Everything the configuration directory says.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The directory, as it was named.
    pub directory: PathBuf,
    /// `rsmtpd.yaml`.
    pub daemon: Daemon,
    /// `delivery.yaml`.
    pub delivery: Delivery,
    /// `worker.yaml`.
    pub worker: Worker,
    /// The chain files in use by NAME: that of `command_handler`, and those of listeners.
    pub chains: BTreeMap<String, ChainFile>,
    /// The files of the handlers that stand in these chains, by the handler's id; not read yet.
    pub handler_files: BTreeMap<&'static str, Part>,
    /// `simple_recipient_validator.yaml`.
    pub recipients: Recipients,
    /// What the administrator should know, though nothing is wrong; displayed like faults.
    pub notes: Vec<Fault>,
    /// Names of the files that a worker's part was read from or looked for under: what [`Fingerprint::of`] watches.
    pub files: Vec<String>,
    /// What these files were when they were read.
    pub fingerprint: Fingerprint,
}

/// What a worker reads again at its next connection when it changed.
#[derive(Debug, Clone)]
pub struct WorkerSet {
    /// As in [`Configuration`].
    pub worker: Worker,
    /// As in [`Configuration`].
    pub chains: BTreeMap<String, ChainFile>,
    /// As in [`Configuration`].
    pub handler_files: BTreeMap<&'static str, Part>,
    /// As in [`Configuration`].
    pub recipients: Recipients,
    /// As in [`Configuration`].
    pub notes: Vec<Fault>,
    /// As in [`Configuration`].
    pub files: Vec<String>,
    /// As in [`Configuration`].
    pub fingerprint: Fingerprint,
}

/// Opens a configuration directory, for [`Fingerprint::of`] and [`WorkerSet::read`].
///
/// # Errors
/// One fault with the reason.
pub fn open_directory(directory: &Path) -> Result<OwnedFd, Faults> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(directory, flags, FileMode::empty()).map_err(|errno| {
        let message = format!("expected a readable directory, found: {}", errno.desc());
        Faults(vec![whole_file(&directory.display().to_string(), message)])
    })
}

/// Whether `path` still names the directory that was opened; a reload cannot follow it elsewhere.
///
/// # Errors
/// One fault when another directory, or none, stands in its place.
pub fn still_there(opened: BorrowedFd<'_>, path: &Path) -> Result<(), Faults> {
    let Ok(held) = nix::sys::stat::fstat(opened) else {
        return Ok(());
    };
    let found = match nix::sys::stat::stat(path) {
        Ok(found) if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino) => return Ok(()),
        Ok(_) => "another one in its place",
        Err(nix::errno::Errno::ENOENT) => "none",
        // The service user may not see the way to it, but holds it open.
        Err(_) => return Ok(()),
    };
    let message = format!("expected the directory that was there at the start, found {found} (restart needed)");
    Err(Faults(vec![whole_file(&path.display().to_string(), message)]))
}

impl Configuration {
    /// Reads a whole configuration directory, whose chains name some of `handlers`; besides the chains in use those in
    /// `also`. Gives what could be read, and every fault but those of the handlers' own files, which are still to be read.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn read(
        directory: &Path,
        handlers: &[HandlerName],
        also: &[String],
    ) -> Result<(Configuration, Vec<Fault>), Faults> {
        let fd = open_directory(directory)?;
        Ok(Configuration::read_opened(fd.as_fd(), directory, handlers, also))
    }

    /// The same, in a directory that was opened before; `directory` is its name.
    pub fn read_opened(
        fd: BorrowedFd<'_>,
        directory: &Path,
        handlers: &[HandlerName],
        also: &[String],
    ) -> (Configuration, Vec<Fault>) {
        let mut reader = Reader::new(fd, Earlier::default());
        let daemon = reader.daemon();
        let delivery = reader.delivery();
        let Reader { mut faults, notes, .. } = reader;
        let listeners = daemon.listening().into_iter().filter_map(|listener| listener.chain);
        let chains: Vec<String> = listeners.chain(also.iter().cloned()).collect();
        let (set, of_set) = WorkerSet::read(fd, handlers, &chains, Earlier::default());
        faults.extend(of_set);
        let configuration = Configuration {
            directory: directory.to_owned(),
            daemon,
            delivery,
            worker: set.worker,
            chains: set.chains,
            handler_files: set.handler_files,
            recipients: set.recipients,
            notes: notes.into_iter().chain(set.notes).collect(),
            files: set.files,
            fingerprint: set.fingerprint,
        };
        (configuration, faults)
    }

    /// Reads what the delivery process needs: `rsmtpd.yaml` and `delivery.yaml`.
    ///
    /// # Errors
    /// Every fault of these two.
    pub fn load_delivery_set(directory: BorrowedFd<'_>) -> Result<(Daemon, Delivery), Faults> {
        let mut reader = Reader::new(directory, Earlier::default());
        let set = (reader.daemon(), reader.delivery());
        if reader.faults.is_empty() {
            Ok(set)
        } else {
            Err(Faults(reader.faults))
        }
    }

    /// Reads what the keeper needs: `rsmtpd.yaml`.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn load_daemon(directory: BorrowedFd<'_>) -> Result<Daemon, Faults> {
        let mut reader = Reader::new(directory, Earlier::default());
        let daemon = reader.daemon();
        if reader.faults.is_empty() {
            Ok(daemon)
        } else {
            Err(Faults(reader.faults))
        }
    }

    /// NAME of every `command_handler_NAME.yaml` in the directory, whether in use or not.
    pub fn chain_names(directory: &Path) -> Vec<String> {
        let name = |file: &String| {
            let name = file.strip_prefix("command_handler_")?.strip_suffix(".yaml")?;
            Some(name.to_owned())
        };
        yaml_files(directory).iter().filter_map(name).collect()
    }

    /// What to tell about files in the directory that look like configuration and that nothing reads. The files of
    /// `handlers` that stand in no chain are there to be read once they do.
    pub fn unread(&self, directory: &Path, handlers: &[HandlerName]) -> Vec<String> {
        let known = ["rsmtpd.yaml", "delivery.yaml"];
        let idle = handlers
            .iter()
            .filter(|one| one.has_settings && !self.handler_files.contains_key(one.id));
        let waiting: Vec<String> = idle.flat_map(HandlerName::files).collect();
        let read =
            |file: &String| known.contains(&file.as_str()) || waiting.contains(file) || self.files.contains(file);
        let unread = yaml_files(directory).into_iter().filter(|file| !read(file));
        let said = |file: String| {
            if chain_file::is_not_yet(&file) {
                format!("{file}: its handler is not yet available")
            } else {
                format!("{file}: nothing reads it")
            }
        };
        unread.map(said).collect()
    }

    /// Replaces what a worker reads.
    pub fn replace_worker_set(&mut self, set: WorkerSet) {
        self.worker = set.worker;
        self.chains = set.chains;
        self.handler_files = set.handler_files;
        self.recipients = set.recipients;
        self.notes.retain(|note| !self.files.contains(&note.file));
        self.notes.extend(set.notes);
        self.files = set.files;
        self.fingerprint = set.fingerprint;
    }

    /// The names that [`WorkerSet::read`] takes: chains that listeners name.
    pub fn listener_chains(&self) -> Vec<String> {
        self.daemon
            .listeners
            .iter()
            .filter_map(|listener| listener.chain.clone())
            .collect()
    }
}

/// Names of the files `*.yaml`, sorted; none of a directory that cannot be read.
fn yaml_files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<String> = names
        .filter(|name| name.ends_with(".yaml") && !name.starts_with('.'))
        .collect();
    found.sort();
    found
}

fn whole_file(file: &str, message: String) -> Fault {
    Fault {
        file: file.to_owned(),
        line: 0,
        column: 0,
        key: String::new(),
        message,
    }
}

impl WorkerSet {
    /// Reads the files of a worker: `worker.yaml`, the chain file it names and those in `chains`, and finds the files of the
    /// handlers that stand in them. Gives what could be read, and every fault; after one the set in use should stay. Lists of
    /// recipients may be those of an `earlier` set.
    pub fn read(
        fd: BorrowedFd<'_>,
        handlers: &[HandlerName],
        chains: &[String],
        earlier: Earlier<'_>,
    ) -> (WorkerSet, Vec<Fault>) {
        let mut reader = Reader::new(fd, earlier);
        let worker = reader.optional(&["worker.yaml"], Worker::read).unwrap_or_default();
        let mut names = vec![worker.command_handler.clone()];
        for name in chains {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let mut chains = BTreeMap::new();
        for name in names {
            let file = format!("command_handler_{name}.yaml");
            match reader.optional(&[file.as_str()], |root| ChainFile::read(root, handlers)) {
                Some(chain) => {
                    chains.insert(name, chain);
                }
                None => reader.missing(&file),
            }
        }
        let uses = |handler: &str| chains.values().any(|chain| chain.uses(handler));
        let mut handler_files = BTreeMap::new();
        for handler in handlers.iter().filter(|one| one.has_settings && uses(one.id)) {
            if let Some(part) = reader.optional(&handler.files(), |root| root.part()) {
                handler_files.insert(handler.id, part);
            }
        }
        let recipients = reader.recipients(uses("recipient"));
        let (files, fingerprint) = reader.directory.into_consulted();
        let set = WorkerSet {
            worker,
            chains,
            handler_files,
            recipients,
            notes: reader.notes,
            files,
            fingerprint,
        };
        (set, reader.faults)
    }
}

/// Files of one directory, being read.
struct Reader<'fd> {
    directory: Directory<'fd>,
    faults: Vec<Fault>,
    notes: Vec<Fault>,
}

impl<'fd> Reader<'fd> {
    fn new(fd: BorrowedFd<'fd>, earlier: Earlier<'fd>) -> Reader<'fd> {
        Reader {
            directory: Directory::new(fd, earlier),
            faults: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn daemon(&mut self) -> Daemon {
        self.optional(&["rsmtpd.yaml"], Daemon::read).unwrap_or_else(|| {
            self.missing("rsmtpd.yaml");
            Daemon::default()
        })
    }

    fn delivery(&mut self) -> Delivery {
        if let Some(delivery) = self.optional(&["delivery.yaml"], Delivery::read) {
            return delivery;
        }
        let names = [
            "rsmtpd.handlers.dovecot_delivery.yaml",
            "dovecot_delivery.yaml",
            "DovecotDelivery.yaml",
        ];
        self.optional(&names, Delivery::read_dovecot_delivery)
            .unwrap_or_default()
    }

    fn recipients(&mut self, needed: bool) -> Recipients {
        let names = [
            "rsmtpd.validators.recipient.simple_recipient_validator.yaml",
            "simple_recipient_validator.yaml",
            "SimpleRecipientValidator.yaml",
        ];
        let Some((file, _)) = self.find(&names) else {
            if needed {
                self.missing("simple_recipient_validator.yaml");
            }
            return Recipients::default();
        };
        let Some(file) = file else {
            return Recipients::default();
        };
        let mut lists = Vec::new();
        let mut recipients = Recipients::default();
        if let Some(node) = file.parse(&mut self.faults) {
            recipients = recipients_file::read(&file.root(&node), &mut self.directory, &mut lists);
        }
        file.finish(&mut self.faults, &mut self.notes);
        self.faults.append(&mut lists);
        recipients
    }

    /// Reads the first of the names that exists; none when none does. A file that cannot be read is a fault, and gives
    /// what `read` makes of an empty one.
    fn optional<T>(&mut self, names: &[impl AsRef<str>], read: impl FnOnce(&Field<'_>) -> T) -> Option<T> {
        let (file, name) = self.find(names)?;
        let empty = Node {
            serial: 0,
            value: Value::Map(Vec::new()),
        };
        let node = file.as_ref().and_then(|file| file.parse(&mut self.faults));
        match (file, node) {
            (Some(file), Some(node)) => {
                let value = read(&file.root(&node));
                file.finish(&mut self.faults, &mut self.notes);
                Some(value)
            }
            _ => Some(read(&File::new(&name, String::new()).root(&empty))),
        }
    }

    /// The first of the names that exists, opened; no file when reading it is a fault.
    fn find(&mut self, names: &[impl AsRef<str>]) -> Option<(Option<File>, String)> {
        for name in names {
            let name = name.as_ref();
            match self.directory.read(name) {
                Ok(None) => {}
                Ok(Some(text)) => return Some((Some(File::new(name, text)), name.to_owned())),
                Err(why) => {
                    self.faults.push(Fault {
                        file: name.to_owned(),
                        line: why.line,
                        column: why.column,
                        key: String::new(),
                        message: why.message,
                    });
                    return Some((None, name.to_owned()));
                }
            }
        }
        None
    }

    fn missing(&mut self, file: &str) {
        self.faults
            .push(whole_file(file, "expected a file, found none".to_owned()));
    }
}
