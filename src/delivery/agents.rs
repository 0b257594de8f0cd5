//! Who brings a message to its mailboxes: our own Maildirs, runs of a program, or an LMTP server.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ipc::delivery::{Commit, Recipient, RecipientResult};
use crate::log::{Event, Level};

use super::content::{Content, Source};
use super::file::Unnamed;
use super::journal::Slot;
use super::shared::Shared;
use super::{Agent, lda, lmtp, maildir, outcome, spool};

/// Envelope and bytes.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) commit: &'a Commit,
    pub(super) source: Source<'a>,
    /// No attempt begins, and none lasts, after this.
    pub(super) end: Option<Instant>,
}

impl Message<'_> {
    /// How long an attempt may take from now on; none if there is no time left.
    fn time(&self, timeout: Duration) -> Option<Duration> {
        let Some(end) = self.end else {
            return Some(timeout);
        };
        let left = end.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left.min(timeout))
    }
}

/// One step of an attempt, for the record; recipients by index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// An agent is about to have the message for these.
    Begins(&'a [usize]),
    /// What came of it for this one.
    Ended(usize, &'a RecipientResult),
}

/// Told of each step; what an agent may do that cannot be undone must be on disk when this returns from its beginning.
pub(super) type Record<'a> = dyn FnMut(Step<'_>) -> io::Result<()> + 'a;

/// Fields in front of all others: Return-Path (RFC 5321 4.4) and Delivered-To.
fn head(commit: &Commit, recipient: &Recipient) -> Vec<u8> {
    format!(
        "Return-Path: <{}>\r\nDelivered-To: {}\r\n",
        commit.reverse_path,
        recipient.address()
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
    record: &mut Record<'_>,
) -> Vec<RecipientResult> {
    if which.is_empty() {
        return Vec::new();
    }
    if let Agent::DovecotLda { path, userdb, home } = &shared.settings.agent {
        let each = which.iter().map(|&index| {
            let result =
                record(Step::Begins(&[index])).and_then(|()| run_lda(shared, message, index, path, *userdb, home));
            let result = result.unwrap_or_else(|error| unusable(shared, message, &error));
            finish(shared, message, index, &result, record);
            result
        });
        return each.collect();
    }
    let begun = record(Step::Begins(which));
    let results = match (begun, &shared.settings.agent) {
        (Err(error), _) => vec![unusable(shared, message, &error); which.len()],
        (Ok(()), Agent::Lmtp { socket }) => over_lmtp(shared, connection, socket, message, which),
        (Ok(()), _) => maildir(shared, slot, maildir::MAIL, message, which),
    };
    for (&index, result) in which.iter().zip(&results) {
        finish(shared, message, index, result, record);
    }
    results
}

/// A file of ours could not be written; what the client is told.
pub(super) fn write_failed(shared: &Shared, commit: &Commit, at: &str, error: &io::Error) -> RecipientResult {
    let event = Event::new("write-failed").word("id", &commit.id).field("at", at);
    shared.log(Level::Error, event.word("reason", &error.to_string()));
    outcome::of_io(error)
}

/// An attempt that our own files hindered.
fn unusable(shared: &Arc<Shared>, message: &Message<'_>, error: &io::Error) -> RecipientResult {
    write_failed(shared, message.commit, "attempt", error)
}

fn finish(
    shared: &Arc<Shared>,
    message: &Message<'_>,
    index: usize,
    result: &RecipientResult,
    record: &mut Record<'_>,
) {
    if let Err(error) = record(Step::Ended(index, result)) {
        let event = Event::new("unrecorded").word("id", &message.commit.id);
        shared.log(Level::Critical, event.word("reason", &error.to_string()));
    }
    let agent = match shared.settings.agent {
        Agent::Maildir => "maildir",
        Agent::DovecotLda { .. } => "dovecot_lda",
        Agent::Lmtp { .. } => "lmtp",
    };
    log_result(shared, message, index, result, agent);
}

fn log_result(shared: &Arc<Shared>, message: &Message<'_>, index: usize, result: &RecipientResult, agent: &str) {
    let rcpt = message
        .commit
        .recipients
        .get(index)
        .map_or_else(String::new, Recipient::address);
    let (level, event, reason) = match result {
        RecipientResult::Temporary { code, text, .. } => (Level::Warning, Event::new("deferred"), Some((code, text))),
        RecipientResult::Permanent { code, text, .. } => (Level::Warning, Event::new("rejected"), Some((code, text))),
        RecipientResult::Quarantined => (Level::Info, Event::new("quarantined"), None),
        _ => (Level::Info, Event::new("delivered"), None),
    };
    let mut event = event
        .word("id", &message.commit.id)
        .word("rcpt", &rcpt)
        .field("agent", agent);
    if let Some((code, text)) = reason {
        event = event.field("code", code).word("reason", text);
    }
    shared.log(level, event);
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
    let failed = |error: &io::Error, at: &str| write_failed(shared, commit, at, error);
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
        && let Err(error) = maildir::place(state, slot, files)
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
    let Some(timeout) = message.time(shared.settings.timeout) else {
        return Ok(outcome::too_busy());
    };
    let file = Unnamed::create(&shared.settings.state.join(spool::SPOOL))?;
    Content::new(&commit.fields, &commit.removed, message.source)?.write(&head(commit, recipient), &file.file)?;
    let run = lda::Run {
        path,
        userdb,
        home,
        sender: &commit.reverse_path,
        recipient,
        timeout,
        ending: &shared.ending,
    };
    let (ended, output) = run.on(&file.into_file()?)?;
    if ended != outcome::Ended::Exit(0) || !output.is_empty() {
        let mut event = Event::new("agent-ended")
            .word("id", &commit.id)
            .word("ended", &format!("{ended:?}"));
        let mut level = Level::Warning;
        if ended.is_configuration() {
            (level, event) = (Level::Critical, event.field("at", "configuration"));
        }
        shared.log(level, event.word("output", &output));
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
    let Some(time) = message.time(shared.settings.timeout) else {
        return vec![outcome::too_busy(); which.len()];
    };
    let mut results = vec![outcome::local_error(); which.len()];
    let ended = Content::new(&message.commit.fields, &message.commit.removed, message.source).and_then(|content| {
        let order = lmtp::Order {
            socket,
            end: Instant::now() + time,
            commit: message.commit,
            recipients: &recipients,
            content: &content,
        };
        lmtp::transact(connection, &order, &mut results)
    });
    if let Err(error) = ended {
        let event = Event::new("lmtp-failed").word("id", &message.commit.id);
        shared.log(Level::Error, event.word("reason", &error.to_string()));
    }
    results
}
