//! From a configuration to chains: the one place where the two meet, and where every fault comes together.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::{Chain, Directory, Found, registry};
use crate::config::{ChainFile, Configuration, Earlier, Fault, Faults, Lookup, Part, Recipients, WorkerSet};
use crate::session::Mailbox;
use crate::smtp::address::{Domain, ForwardPath};

/// Where mail for soft recipients goes below the quarantine, one box a domain.
const SOFT_MAILBOX: &str = "soft";

/// Chains by NAME of their `command_handler_NAME.yaml`.
pub type Chains = BTreeMap<String, Rc<Chain>>;

/// Reads a configuration directory and builds its chains, besides those in use the ones in `also`: what could be read and
/// built, and every fault.
///
/// # Errors
/// The directory cannot be opened.
pub fn read(directory: &Path, also: &[String]) -> Result<(Configuration, Chains, Faults), Faults> {
    let (configuration, faults) = Configuration::read(directory, &registry::names(), also)?;
    Ok(with_chains(configuration, faults))
}

fn with_chains(mut configuration: Configuration, mut faults: Vec<Fault>) -> (Configuration, Chains, Faults) {
    let Configuration {
        chains: files,
        handler_files,
        recipients,
        ..
    } = &configuration;
    let chains = build(files, handler_files, recipients, &mut faults);
    let notes = notes(&chains, files);
    configuration.notes.extend(notes);
    (configuration, chains, ordered(faults))
}

/// What the files of chains say in vain, each once.
fn notes(chains: &Chains, files: &BTreeMap<String, ChainFile>) -> Vec<Fault> {
    let built = chains
        .iter()
        .filter_map(|(name, chain)| Some((chain, files.get(name)?)));
    let mut notes: Vec<Fault> = Vec::new();
    for note in built.flat_map(|(chain, file)| chain.notes(file)) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// As [`read`], without faults.
///
/// # Errors
/// Every fault of every file that is in use.
pub fn load(directory: &Path, also: &[String]) -> Result<(Configuration, Chains), Faults> {
    faultless(read(directory, also)?)
}

/// As [`load`], in a directory that was opened before; `path` is its name.
///
/// # Errors
/// As [`load`].
pub fn load_opened(directory: BorrowedFd<'_>, path: &Path) -> Result<(Configuration, Chains), Faults> {
    let (configuration, faults) = Configuration::read_opened(directory, path, &registry::names(), &[]);
    faultless(with_chains(configuration, faults))
}

fn faultless(read: (Configuration, Chains, Faults)) -> Result<(Configuration, Chains), Faults> {
    match read {
        (configuration, chains, faults) if faults.0.is_empty() => Ok((configuration, chains)),
        (_, _, faults) => Err(faults),
    }
}

/// Reads what a worker reads again; `names` are chains that listeners name. Lists of recipients may be `earlier` ones.
///
/// # Errors
/// Every fault of these files; the set in use should then stay.
pub fn load_worker_set(
    directory: BorrowedFd<'_>,
    names: &[String],
    earlier: Earlier<'_>,
) -> Result<(WorkerSet, Chains), Faults> {
    let (mut set, mut faults) = WorkerSet::read(directory, &registry::names(), names, earlier);
    let chains = build(&set.chains, &set.handler_files, &set.recipients, &mut faults);
    let notes = notes(&chains, &set.chains);
    set.notes.extend(notes);
    if faults.is_empty() {
        Ok((set, chains))
    } else {
        Err(ordered(faults))
    }
}

/// The chain that is shipped, with every setting at its default.
pub fn shipped(directory: &Arc<dyn Directory>) -> Chain {
    let text = include_str!("../../config/command_handler_standard_server.yaml");
    let mut faults = Vec::new();
    let file = ChainFile::parse("shipped", text, &registry::names(), &mut faults).unwrap_or_default();
    Chain::build(&file, &BTreeMap::new(), directory, &mut faults)
}

fn build(
    files: &BTreeMap<String, ChainFile>,
    handler_files: &BTreeMap<&'static str, Part>,
    recipients: &Recipients,
    faults: &mut Vec<Fault>,
) -> Chains {
    let directory: Arc<dyn Directory> = Arc::new(Known(recipients.clone()));
    let chains = files.iter().map(|(name, file)| {
        let chain = Chain::build(file, handler_files, &directory, faults);
        (name.clone(), Rc::new(chain))
    });
    chains.collect()
}

/// File by file, in the order in which the files were first complained of, then by line; a fault of a handler's file once,
/// however many entries read it.
fn ordered(mut faults: Vec<Fault>) -> Faults {
    let mut files: Vec<String> = Vec::new();
    for fault in &faults {
        if !files.contains(&fault.file) {
            files.push(fault.file.clone());
        }
    }
    let place = |fault: &Fault| files.iter().position(|file| *file == fault.file);
    // A line without a number counts what lies beyond; it comes last.
    let line = |fault: &Fault| fault.line.wrapping_sub(1);
    faults.sort_by(|a, b| {
        let left = (place(a), line(a), a.column, &a.key, &a.message);
        left.cmp(&(place(b), line(b), b.column, &b.key, &b.message))
    });
    faults.dedup();
    Faults(faults)
}

/// The configured recipients as the chain asks for them.
struct Known(Recipients);

impl Directory for Known {
    fn look_up(&self, path: &ForwardPath) -> Found {
        let (local, domain) = match path {
            ForwardPath::Postmaster => ("postmaster", String::new()),
            ForwardPath::Mailbox(mailbox) => match mailbox.domain() {
                Domain::Name(name) => (mailbox.local_part(), name.clone()),
                _ => return Found::ForeignDomain,
            },
        };
        match self.0.lookup(local, &domain) {
            Lookup::Valid { deliver_to } => Found::Valid(
                deliver_to
                    .into_iter()
                    .map(|(domain, mailbox)| Mailbox { domain, mailbox })
                    .collect(),
            ),
            Lookup::Soft => Found::Soft(Mailbox {
                domain: self.0.spelling(&domain).unwrap_or(&domain).to_lowercase(),
                mailbox: SOFT_MAILBOX.to_owned(),
            }),
            Lookup::Disabled => Found::Disabled,
            Lookup::Unknown => Found::UnknownMailbox,
            Lookup::ForeignDomain => Found::ForeignDomain,
        }
    }
}
