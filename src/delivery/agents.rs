//! Who brings a message to its mailboxes, and the threads for those that are slow: runs of a program, LMTP
//! transactions, and whatever the spool has due.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::ipc::delivery::{Commit, Recipient, RecipientResult};

use super::content::{Content, Source};
use super::file::Unnamed;
use super::journal::Slot;
use super::process::{Door, Shared, held, thread};
use super::{Agent, lda, level, lmtp, maildir, outcome, quoted, retry, spool, writer};

/// A message of a door that waits for a thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) door: Arc<Door>,
    pub(super) commit: Commit,
    pub(super) staged: Option<File>,
}

/// Envelope and bytes.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) commit: &'a Commit,
    pub(super) source: Source<'a>,
}

#[derive(Debug, Default)]
struct Waiting {
    fresh: VecDeque<Job>,
    due: VecDeque<String>,
}

enum Next {
    Fresh(Box<Job>),
    Due(String),
}

/// What waits for an agent: messages of doors, bounded, and names of spool entries.
#[derive(Debug, Default)]
pub(super) struct Queues {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

impl Queues {
    /// Takes the job, or gives it back when `bound` are waiting.
    pub(super) fn offer(&self, job: Job, bound: usize) -> Result<(), Box<Job>> {
        let mut waiting = held(&self.waiting);
        if waiting.fresh.len() >= bound.max(1) {
            return Err(Box::new(job));
        }
        waiting.fresh.push_back(job);
        self.more.notify_one();
        Ok(())
    }

    /// An entry's time has come.
    pub(super) fn due(&self, id: String) {
        let mut waiting = held(&self.waiting);
        if !waiting.due.contains(&id) {
            waiting.due.push_back(id);
            self.more.notify_one();
        }
    }

    fn next(&self, prefer_due: bool) -> Next {
        let mut waiting = held(&self.waiting);
        loop {
            if prefer_due && let Some(id) = waiting.due.pop_front() {
                return Next::Due(id);
            }
            if let Some(job) = waiting.fresh.pop_front() {
                return Next::Fresh(Box::new(job));
            }
            if let Some(id) = waiting.due.pop_front() {
                return Next::Due(id);
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the threads.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    for number in 0..shared.settings.lda_jobs.max(1) {
        let (slot, shared) = (Slot::take(&shared.settings.state)?, Arc::clone(shared));
        thread(format!("agent-{number}"), move || {
            let mut connection = None;
            let mut turn = false;
            loop {
                turn = !turn;
                let next = shared.queues.next(turn);
                let work = shared.work();
                match next {
                    Next::Fresh(job) => writer::run(&shared, &slot, &mut connection, &job),
                    Next::Due(id) => retry::retry(&shared, &slot, &mut connection, &id),
                }
                drop(work);
            }
        })?;
    }
    let shared = Arc::clone(shared);
    thread("retry".to_owned(), move || retry::watch(&shared))
}

/// The mailbox's address.
pub(super) fn address(recipient: &Recipient) -> String {
    format!("{}@{}", recipient.mailbox, recipient.domain)
}

/// Fields in front of all others: Return-Path (RFC 5321 4.4) and Delivered-To.
fn head(commit: &Commit, recipient: &Recipient) -> Vec<u8> {
    format!(
        "Return-Path: <{}>\r\nDelivered-To: {}\r\n",
        commit.reverse_path,
        address(recipient)
    )
    .into_bytes()
}

/// Delivers to these recipients with the configured agent; `record` hears of each before and after its attempt.
pub(super) fn deliver(
    shared: &Arc<Shared>,
    slot: &Slot,
    connection: &mut Option<lmtp::Connection>,
    message: &Message<'_>,
    which: &[usize],
    record: &mut dyn FnMut(usize, Option<&RecipientResult>) -> io::Result<()>,
) -> Vec<RecipientResult> {
    if which.is_empty() {
        return Vec::new();
    }
    let id = &message.commit.id;
    let all = |record: &mut dyn FnMut(usize, Option<&RecipientResult>) -> io::Result<()>| {
        which.iter().try_for_each(|&index| record(index, None))
    };
    let results = match &shared.settings.agent {
        Agent::Maildir => match all(record) {
            Ok(()) => maildir(shared, slot, maildir::MAIL, message, which),
            Err(error) => vec![outcome::of_io(&error); which.len()],
        },
        Agent::Lmtp { socket } => match all(record).and_then(|()| slot.begin(id, &[])) {
            Ok(()) => {
                let results = over_lmtp(shared, connection, socket, message, which);
                let _ = slot.done();
                results
            }
            Err(error) => vec![outcome::of_io(&error); which.len()],
        },
        Agent::DovecotLda { path, userdb, home } => {
            let mut results = Vec::with_capacity(which.len());
            for &index in which {
                let began = record(index, None).and_then(|()| slot.begin(id, &[]));
                let result = match began.and_then(|()| run_lda(shared, message, index, path, *userdb, home)) {
                    Ok(result) => result,
                    Err(error) => outcome::of_io(&error),
                };
                let _ = slot.done();
                finish(shared, message, index, &result, record);
                results.push(result);
            }
            return results;
        }
    };
    for (&index, result) in which.iter().zip(&results) {
        finish(shared, message, index, result, record);
    }
    results
}

fn finish(
    shared: &Arc<Shared>,
    message: &Message<'_>,
    index: usize,
    result: &RecipientResult,
    record: &mut dyn FnMut(usize, Option<&RecipientResult>) -> io::Result<()>,
) {
    if let Err(error) = record(index, Some(result)) {
        shared.log(
            level::CRIT,
            format!(
                "event=unrecorded id={} reason={}",
                quoted(&message.commit.id),
                quoted(&error.to_string())
            ),
        );
    }
    let agent = match shared.settings.agent {
        Agent::Maildir => "maildir",
        Agent::DovecotLda { .. } => "dovecot_lda",
        Agent::Lmtp { .. } => "lmtp",
    };
    log_result(shared, message, index, result, agent);
}

fn log_result(shared: &Arc<Shared>, message: &Message<'_>, index: usize, result: &RecipientResult, agent: &str) {
    let rcpt = message.commit.recipients.get(index).map_or_else(String::new, address);
    let (level, event, reason) = match result {
        RecipientResult::Temporary { code, text, .. } => (
            level::WARNING,
            "deferred",
            format!(" code={code} reason={}", quoted(text)),
        ),
        RecipientResult::Permanent { code, text, .. } => (
            level::WARNING,
            "rejected",
            format!(" code={code} reason={}", quoted(text)),
        ),
        RecipientResult::Quarantined => (level::INFO, "quarantined", String::new()),
        _ => (level::INFO, "delivered", String::new()),
    };
    shared.log(
        level,
        format!(
            "event={event} id={} rcpt={} agent={agent}{reason}",
            quoted(&message.commit.id),
            quoted(&rcpt)
        ),
    );
}

/// Into Maildirs of `tree`. A mailbox that cannot be written fails alone; linking fails for all.
pub(super) fn maildir(
    shared: &Arc<Shared>,
    slot: &Slot,
    tree: &str,
    message: &Message<'_>,
    which: &[usize],
) -> Vec<RecipientResult> {
    if which.is_empty() {
        return Vec::new();
    }
    let state = &shared.settings.state;
    let commit = message.commit;
    let failed = |error: &io::Error, what: &str| {
        shared.log(
            level::ERR,
            format!(
                "event=write_failed id={} at={what} reason={}",
                quoted(&commit.id),
                quoted(&error.to_string())
            ),
        );
        outcome::of_io(error)
    };
    let content = match Content::new(&commit.fields, &commit.removed, message.source) {
        Ok(content) => content,
        Err(error) => return vec![failed(&error, "body"); which.len()],
    };
    let success = if tree == maildir::QUARANTINE {
        RecipientResult::Quarantined
    } else {
        RecipientResult::Delivered
    };
    let mut files = Vec::with_capacity(which.len());
    let mut results = Vec::with_capacity(which.len());
    for recipient in which.iter().filter_map(|&index| commit.recipients.get(index)) {
        let mailbox = maildir::mailbox(tree, &recipient.domain, &recipient.mailbox);
        match maildir::write(state, &mailbox, &commit.id, &head(commit, recipient), &content) {
            Ok(file) => {
                files.push(file);
                results.push(success.clone());
            }
            Err(error) => results.push(failed(&error, "mailbox")),
        }
    }
    if !files.is_empty()
        && let Err(error) = maildir::place(state, slot, &commit.id, files)
    {
        return vec![failed(&error, "linking"); which.len()];
    }
    if tree == maildir::QUARANTINE {
        which
            .iter()
            .zip(&results)
            .for_each(|(&index, result)| log_result(shared, message, index, result, "quarantine"));
    }
    results
}

fn run_lda(
    shared: &Arc<Shared>,
    message: &Message<'_>,
    index: usize,
    path: &Path,
    userdb: bool,
    home: &str,
) -> io::Result<RecipientResult> {
    let commit = message.commit;
    let recipient = commit.recipients.get(index).ok_or(io::ErrorKind::InvalidInput)?;
    let file = Unnamed::create(&shared.settings.state.join(spool::SPOOL))?;
    Content::new(&commit.fields, &commit.removed, message.source)?.write(&head(commit, recipient), &file.file)?;
    let run = lda::Run {
        path,
        userdb,
        home,
        sender: &commit.reverse_path,
        recipient,
        timeout: shared.settings.timeout,
    };
    let (ended, output) = run.on(&file.into_file()?)?;
    if ended != outcome::Ended::Exit(0) {
        let level = if ended.is_configuration() {
            level::CRIT
        } else {
            level::WARNING
        };
        let configuration = if ended.is_configuration() {
            " at=configuration"
        } else {
            ""
        };
        shared.log(
            level,
            format!(
                "event=agent_ended id={} ended={}{configuration} output={}",
                quoted(&commit.id),
                quoted(&format!("{ended:?}")),
                quoted(&output)
            ),
        );
    }
    Ok(outcome::of_agent(ended))
}

fn over_lmtp(
    shared: &Arc<Shared>,
    connection: &mut Option<lmtp::Connection>,
    socket: &Path,
    message: &Message<'_>,
    which: &[usize],
) -> Vec<RecipientResult> {
    let recipients: Vec<&Recipient> = which
        .iter()
        .filter_map(|&index| message.commit.recipients.get(index))
        .collect();
    let result = Content::new(&message.commit.fields, &message.commit.removed, message.source).and_then(|content| {
        lmtp::transact(
            connection,
            socket,
            shared.settings.timeout,
            message.commit,
            &recipients,
            &content,
        )
    });
    result.unwrap_or_else(|error| {
        *connection = None;
        shared.log(
            level::ERR,
            format!(
                "event=lmtp_failed id={} reason={}",
                quoted(&message.commit.id),
                quoted(&error.to_string())
            ),
        );
        vec![outcome::local_error(); which.len()]
    })
}
