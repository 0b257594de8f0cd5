//! What a writer does with one frame of a door.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::ipc::delivery::{Body, Commit, Disposition, FromDelivery, Outcome, RecipientResult, ToDelivery};

use super::agents::{self, Job, Message};
use super::content::Source;
use super::file::Unnamed;
use super::journal::Slot;
use super::outcome;
use super::process::{Door, Shared, held};
use super::{Acknowledge, Agent, envelope, level, maildir, quoted, spool};

// What one declared size may reserve.
const RESERVE: u64 = 256 << 20;

pub(super) fn serve(shared: &Arc<Shared>, slot: &Slot, door: &Arc<Door>, request: ToDelivery) {
    match request {
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
            shared.log(
                level::ERR,
                format!("event=staging_failed reason={}", quoted(&error.to_string())),
            );
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
        shared.log(
            level::ERR,
            format!("event=refused id={} reason={}", quoted(&commit.id), quoted(&reason)),
        );
        return shared.answer(door, &FromDelivery::Refused(reason));
    }
    let real = commit
        .recipients
        .iter()
        .any(|recipient| recipient.disposition == Disposition::Deliver);
    let job = Job {
        door: Arc::clone(door),
        commit,
        staged,
    };
    if real && shared.settings.acknowledge == Acknowledge::Delivered && shared.settings.agent != Agent::Maildir {
        let Err(job) = shared.queues.offer(job, shared.settings.queue) else {
            return;
        };
        shared.log(level::ERR, format!("event=overloaded id={}", quoted(&job.commit.id)));
        let results = job.commit.recipients.iter().map(|_| outcome::too_busy()).collect();
        return shared.answer(door, &FromDelivery::Outcome(Outcome { results }));
    }
    let mut lmtp = None;
    run(shared, slot, &mut lmtp, &job);
}

/// Delivers or spools a message of a door and answers.
pub(super) fn run(shared: &Arc<Shared>, slot: &Slot, lmtp: &mut Option<super::lmtp::Connection>, job: &Job) {
    let source = match (&job.commit.body, &job.staged) {
        (Body::Inline(bytes), _) => Source::Bytes(bytes),
        (Body::Staged { length }, Some(file)) => Source::File(file, *length),
        (Body::Staged { .. }, None) => return shared.close(&job.door),
    };
    let results = results(shared, slot, lmtp, &job.commit, source);
    shared.answer(&job.door, &FromDelivery::Outcome(Outcome { results }));
    slot.answered();
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
    commit: &Commit,
    source: Source<'_>,
) -> Vec<RecipientResult> {
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
    let message = Message { commit, source };
    if !real.is_empty() {
        let new = if shared.settings.acknowledge == Acknowledge::Spooled {
            spooled(shared, commit, source, &real)
        } else {
            let new = agents::deliver(shared, slot, lmtp, &message, &real, &mut |_, _| Ok(()));
            settle(shared, commit, source, &real, new)
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
            let kept = agents::maildir(shared, slot, maildir::QUARANTINE, &message, &soft);
            if taken && !real.is_empty() {
                settle(shared, commit, source, &soft, kept)
            } else {
                kept
            }
        };
        set(&mut results, &soft, new);
    }
    results
}

fn spooled(shared: &Arc<Shared>, commit: &Commit, source: Source<'_>, which: &[usize]) -> Vec<RecipientResult> {
    let result = match spool::store(
        &shared.settings.state,
        spool::SPOOL,
        commit,
        source,
        which,
        spool::now(),
    ) {
        Ok(name) => {
            shared.log(
                level::INFO,
                format!("event=spooled id={name} recipients={}", which.len()),
            );
            shared.queues.due(name);
            RecipientResult::Spooled
        }
        Err(error) => {
            shared.log(
                level::ERR,
                format!(
                    "event=spool_failed id={} reason={}",
                    quoted(&commit.id),
                    quoted(&error.to_string())
                ),
            );
            outcome::of_io(&error)
        }
    };
    vec![result; which.len()]
}

/// When some have it, the others' copies are ours to keep: temporary ones in the spool, permanent ones in `failed/`.
/// If even that fails the client is asked to come again: better twice than lost.
fn settle(
    shared: &Arc<Shared>,
    commit: &Commit,
    source: Source<'_>,
    which: &[usize],
    mut results: Vec<RecipientResult>,
) -> Vec<RecipientResult> {
    let soft = which.iter().all(|&index| {
        commit
            .recipients
            .get(index)
            .is_some_and(|recipient| recipient.disposition == Disposition::Quarantine)
    });
    if !soft && !results.contains(&RecipientResult::Delivered) {
        return results;
    }
    let those = |wanted: fn(&RecipientResult) -> bool, results: &[RecipientResult]| -> Vec<usize> {
        which
            .iter()
            .zip(results)
            .filter(|(_, result)| wanted(result))
            .map(|(&index, _)| index)
            .collect()
    };
    let again = those(|result| matches!(result, RecipientResult::Temporary { .. }), &results);
    let never = those(|result| matches!(result, RecipientResult::Permanent { .. }), &results);
    let next = spool::now() + i64::try_from(shared.settings.retry_first.as_secs()).unwrap_or(60);
    for (tree, kept) in [(spool::SPOOL, again), (spool::FAILED, never)] {
        if kept.is_empty() {
            continue;
        }
        match spool::store(&shared.settings.state, tree, commit, source, &kept, next) {
            Ok(name) if tree == spool::SPOOL => {
                shared.log(
                    level::WARNING,
                    format!("event=spooled id={name} recipients={}", kept.len()),
                );
                for (index, result) in which.iter().zip(&mut results) {
                    if kept.contains(index) {
                        *result = RecipientResult::Spooled;
                    }
                }
            }
            Ok(name) => shared.log(level::CRIT, format!("event=failed id={name} recipients={}", kept.len())),
            Err(error) => {
                let id = quoted(&commit.id);
                shared.log(
                    level::CRIT,
                    format!("event=spool_failed id={id} reason={}", quoted(&error.to_string())),
                );
                return vec![outcome::of_io(&error); which.len()];
            }
        }
    }
    results
}
