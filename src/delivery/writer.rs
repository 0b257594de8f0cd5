//! What a writer does with one frame of a door.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::ipc::delivery::{Body, Commit, Disposition, FromDelivery, Outcome, Recipient, RecipientResult, ToDelivery};
use crate::log::{Event, Level};

use super::agents::{self, Message, Step};
use super::client::PATIENCE;
use super::content::Source;
use super::door::{Door, Holder, held};
use super::file::Unnamed;
use super::journal::Slot;
use super::outcome;
use super::queues::Job;
use super::shared::Shared;
use super::spool::{Fresh, Stored};
use super::{Acknowledge, Agent, copies, envelope, maildir, spool};

// How much earlier than the worker gives up its answer is ready.
const MARGIN: Duration = Duration::from_secs(10);
// What one declared size may reserve.
const RESERVE: u64 = 256 << 20;

pub(super) fn serve(shared: &Arc<Shared>, slot: &Slot, door: &Arc<Door>, request: ToDelivery) {
    match request {
        // The file would be kept for nobody when its worker is gone. One of ours asks for a door of its own.
        ToDelivery::Begin { .. } if door.holder == Holder::OneAfterTheOther => {
            shared.log(Level::Error, door.holder.note(Event::new("begin-refused")));
            shared.close(door);
        }
        ToDelivery::Begin { size_hint } => begin(shared, door, size_hint),
        ToDelivery::Commit(commit) => {
            let staged = held(&door.staged).take();
            commit_message(shared, slot, door, commit, staged);
        }
    }
}

fn begin(shared: &Arc<Shared>, door: &Arc<Door>, size_hint: u64) {
    let file = match Unnamed::create(&shared.settings.state.join(spool::SPOOL)).and_then(Unnamed::into_file) {
        Ok(file) if reserve(&file, size_hint) => file,
        Ok(_) => return shared.answer(door, &FromDelivery::Full),
        Err(error) => {
            let event = Event::new("staging-failed").word("reason", &error.to_string());
            shared.log(Level::Error, event);
            return shared.answer(door, &FromDelivery::Full);
        }
    };
    let sent = door.channel.send_nowait(&FromDelivery::Staged, &[file.as_fd()]);
    *held(&door.staged) = Some(file);
    if sent.is_ok() {
        shared.rearm(door)
    } else {
        shared.close(door)
    }
}

/// Whether there is room; a file system that cannot say so is believed to have it.
fn reserve(file: &File, size_hint: u64) -> bool {
    let length = i64::try_from(size_hint.min(RESERVE)).unwrap_or(0);
    length == 0
        || !matches!(
            fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length),
            Err(Errno::ENOSPC | Errno::EDQUOT)
        )
}

fn commit_message(shared: &Arc<Shared>, slot: &Slot, door: &Arc<Door>, commit: Commit, staged: Option<File>) {
    let length = staged
        .as_ref()
        .and_then(|file| file.metadata().ok())
        .map(|data| data.len());
    let checked = envelope::check(&commit).and_then(|()| match commit.body {
        Body::Staged { length: said } if length != Some(said) => Err("staged body has another length".to_owned()),
        _ => Ok(()),
    });
    if let Err(reason) = checked {
        let event = Event::new("commit-refused").word("id", &commit.id);
        shared.log(Level::Error, event.word("reason", &reason));
        let id = commit.id;
        return shared.answer(door, &FromDelivery::Refused { id, reason });
    }
    let real = commit
        .recipients
        .iter()
        .any(|recipient| recipient.disposition == Disposition::Deliver);
    let job = Job {
        door: Arc::downgrade(door),
        commit,
        staged,
        end: Instant::now() + PATIENCE - MARGIN,
    };
    if real && shared.settings.acknowledge == Acknowledge::Delivered && shared.settings.agent != Agent::Maildir {
        door.waits.store(true, Ordering::SeqCst);
        shared.rearm(door);
        let Err(job) = shared.queues.offer(job, shared.settings.queue) else {
            return;
        };
        door.waits.store(false, Ordering::SeqCst);
        shared.log(Level::Error, Event::new("overloaded").word("id", &job.commit.id));
        let results = job.commit.recipients.iter().map(|_| outcome::too_busy()).collect();
        return shared.answer(door, &answer(&job.commit, results));
    }
    let mut lmtp = None;
    run(shared, slot, &mut lmtp, &job);
}

fn answer(commit: &Commit, results: Vec<RecipientResult>) -> FromDelivery {
    FromDelivery::Outcome {
        id: commit.id.clone(),
        outcome: Outcome { results },
    }
}

/// Delivers or spools a message of a door and answers.
pub(super) fn run(shared: &Arc<Shared>, slot: &Slot, lmtp: &mut Option<super::lmtp::Connection>, job: &Job) {
    let source = match (&job.commit.body, &job.staged) {
        (Body::Inline(bytes), _) => Source::Bytes(bytes),
        (Body::Staged { length }, Some(file)) => Source::File(file, *length),
        (Body::Staged { .. }, None) => return job.door.upgrade().iter().for_each(|door| shared.close(door)),
    };
    let message = Message {
        commit: &job.commit,
        source,
        end: Some(job.end),
    };
    let mut kept = Vec::new();
    save_copy(shared, &message);
    slot.begin(&job.commit.id);
    let results = results(shared, slot, lmtp, &message, &mut kept);
    if let Some(door) = conclude(shared, slot, job, results) {
        shared.rearm(&door);
    }
    for stored in kept {
        let name = stored.name.clone();
        drop(stored);
        shared.queues.due(name);
    }
}

/// Saves a copy where one is asked for. Nobody waits for it: whether it could be written is for the log.
fn save_copy(shared: &Shared, message: &Message<'_>) {
    let commit = message.commit;
    if with(commit, Disposition::Copy).is_empty() {
        return;
    }
    match copies::save(&shared.settings.state, commit, message.source) {
        Ok(name) => {
            let event = Event::new("copied").word("id", &commit.id).word("file", &name);
            shared.log(Level::Info, event);
        }
        Err(error) => {
            let event = Event::new("copy-failed").word("id", &commit.id);
            shared.log(Level::Error, event.word("reason", &error.to_string()));
        }
    }
}

/// Answers, after all that was done for the message is recorded as done. The door, if the answer could be sent.
///
/// What a client is told to bring again must not be kept, as far as that can be undone; nor what nobody could be told of.
/// That an answer could be sent does not say that it will be read: whoever has a copy of the other end keeps it open. Of a
/// lent door that is the master, until it has reaped a worker that was killed: a kill that falls just before the answer is
/// then as one just after it, and the client, which has no reply, may bring the message again (RFC 1047).
fn conclude(shared: &Arc<Shared>, slot: &Slot, job: &Job, mut results: Vec<RecipientResult>) -> Option<Arc<Door>> {
    let state = &shared.settings.state;
    let again = |result: &&RecipientResult| matches!(result, RecipientResult::Temporary { .. });
    let space = |result: &&RecipientResult| matches!(result, RecipientResult::Temporary { status: [4, 3, 1], .. });
    let reason = results.iter().find(space).or_else(|| results.iter().find(again));
    if let Some(reason) = reason.cloned() {
        slot.undo(state);
        results.fill(reason);
    }
    outcome::shorten(&mut results);
    // a disk's time is not to pass while nobody else can be answered
    let synced = slot.sync();
    let answering = held(&shared.answering);
    if let Err(error) = synced.and_then(|()| slot.done()) {
        slot.undo(state);
        results.fill(agents::write_failed(shared, &job.commit, "journal", &error));
    }
    let told = job.door.upgrade().filter(|door| {
        door.waits.store(false, Ordering::SeqCst);
        shared.tell(door, &answer(&job.commit, results))
    });
    if told.is_some() {
        slot.close();
    } else {
        slot.undo(state);
    }
    drop(answering);
    if told.is_none() {
        let event = Event::new("abandoned").word("id", &job.commit.id);
        shared.log(Level::Warning, event.quoted("note", b"the worker is gone"));
    }
    told
}

fn with(commit: &Commit, disposition: Disposition) -> Vec<usize> {
    let recipients = commit.recipients.iter().enumerate();
    recipients
        .filter(|(_, recipient)| recipient.disposition == disposition)
        .map(|(index, _)| index)
        .collect()
}

fn results(
    shared: &Arc<Shared>,
    slot: &Slot,
    lmtp: &mut Option<super::lmtp::Connection>,
    message: &Message<'_>,
    stored: &mut Vec<Stored>,
) -> Vec<RecipientResult> {
    let commit = message.commit;
    let mut results = vec![RecipientResult::Discarded; commit.recipients.len()];
    let set = |results: &mut Vec<RecipientResult>, which: &[usize], new: Vec<RecipientResult>| {
        for (&index, result) in which.iter().zip(new) {
            if let Some(old) = results.get_mut(index) {
                *old = result;
            }
        }
    };
    let real = with(commit, Disposition::Deliver);
    let soft = with(commit, Disposition::Quarantine);
    if !real.is_empty() {
        let new = if shared.settings.acknowledge == Acknowledge::Spooled {
            spooled(shared, slot, message, &real, stored)
        } else {
            let new = agents::deliver(shared, slot, lmtp, message, &real, &mut |step| {
                note(shared, slot, commit, step)
            });
            settle(shared, slot, message, &real, new, stored)
        };
        set(&mut results, &real, new);
    }
    // a client that is told to come again brings the quarantine's copy again as well
    let taken = outcome::fold(&results).taken;
    let again = results
        .iter()
        .any(|result| matches!(result, RecipientResult::Temporary { .. }));
    if !soft.is_empty() {
        let new = if again && !taken {
            vec![outcome::local_error(); soft.len()]
        } else {
            let kept = agents::maildir(shared, slot, maildir::QUARANTINE, message, &soft);
            if taken && !real.is_empty() {
                settle(shared, slot, message, &soft, kept, stored)
            } else {
                kept
            }
        };
        set(&mut results, &soft, new);
    }
    results
}

/// Notes an agent's attempt; of our own files the slot knows already.
fn note(shared: &Shared, slot: &Slot, commit: &Commit, step: Step<'_>) -> io::Result<()> {
    if shared.settings.agent == Agent::Maildir {
        return Ok(());
    }
    let address = |&index: &usize| commit.recipients.get(index).map(Recipient::address);
    match step {
        Step::Begins(which) => slot.agent_begins(&which.iter().filter_map(address).collect::<Vec<_>>()),
        Step::Ended(index, result) => address(&index).map_or(Ok(()), |recipient| {
            slot.agent_ended(&recipient, *result == RecipientResult::Delivered)
        }),
    }
}

fn spooled(
    shared: &Arc<Shared>,
    slot: &Slot,
    message: &Message<'_>,
    which: &[usize],
    stored: &mut Vec<Stored>,
) -> Vec<RecipientResult> {
    let fresh = Fresh {
        commit: message.commit,
        source: message.source,
        which,
        attempts: 0,
        next: spool::now(),
    };
    let result = match spool::store(&shared.settings.state, spool::SPOOL, &fresh, Some(slot)) {
        Ok(entry) => {
            let event = Event::new("spooled").field("id", &entry.name);
            shared.log(Level::Info, event.field("recipients", which.len()));
            stored.push(entry);
            RecipientResult::Spooled
        }
        Err(error) => {
            let event = Event::new("spool-failed").word("id", &message.commit.id);
            shared.log(Level::Error, event.word("reason", &error.to_string()));
            outcome::of_io(&error)
        }
    };
    vec![result; which.len()]
}

/// When some have it, the others' copies are ours to keep: temporary ones in the spool, permanent ones in `failed/`.
/// If even that fails the client is asked to come again: better twice than lost.
fn settle(
    shared: &Arc<Shared>,
    slot: &Slot,
    message: &Message<'_>,
    which: &[usize],
    mut results: Vec<RecipientResult>,
    stored: &mut Vec<Stored>,
) -> Vec<RecipientResult> {
    let commit = message.commit;
    let of = |index: usize| commit.recipients.get(index).map(|recipient| recipient.disposition);
    let soft = which.iter().all(|&index| of(index) == Some(Disposition::Quarantine));
    if !soft && !results.contains(&RecipientResult::Delivered) {
        return results;
    }
    let those = |wanted: fn(&RecipientResult) -> bool, results: &[RecipientResult]| -> Vec<usize> {
        let pairs = which.iter().zip(results).filter(|(_, result)| wanted(result));
        pairs.map(|(&index, _)| index).collect()
    };
    let again = those(|result| matches!(result, RecipientResult::Temporary { .. }), &results);
    let never = those(|result| matches!(result, RecipientResult::Permanent { .. }), &results);
    let first = i64::try_from(shared.settings.retry_first.as_secs()).unwrap_or(60);
    for (tree, kept) in [(spool::SPOOL, again), (spool::FAILED, never)] {
        if kept.is_empty() {
            continue;
        }
        let fresh = Fresh {
            commit,
            source: message.source,
            which: &kept,
            attempts: 1,
            next: spool::now() + first,
        };
        match spool::store(&shared.settings.state, tree, &fresh, Some(slot)) {
            Ok(entry) => {
                let (level, event) = if tree == spool::SPOOL {
                    (Level::Warning, Event::new("spooled"))
                } else {
                    (Level::Critical, Event::new("failed"))
                };
                let event = event.field("id", &entry.name);
                shared.log(level, event.field("recipients", kept.len()));
                if tree == spool::SPOOL {
                    stored.push(entry);
                    let pairs = which.iter().zip(&mut results).filter(|(index, _)| kept.contains(index));
                    pairs.for_each(|(_, result)| *result = RecipientResult::Spooled);
                }
            }
            Err(error) => {
                let event = Event::new("spool-failed").word("id", &commit.id);
                shared.log(Level::Critical, event.word("reason", &error.to_string()));
                return vec![outcome::of_io(&error); which.len()];
            }
        }
    }
    results
}
