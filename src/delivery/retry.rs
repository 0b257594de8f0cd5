//! The spool's clock: what is due is tried again, later and later, until it is delivered or given up into `failed/`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ipc::delivery::{Disposition, Recipient, RecipientResult};
use crate::log::{Event, Level};

use super::agents::{Message, Step, deliver, maildir as into_maildir};
use super::content::Source;
use super::journal::Slot;
use super::shared::Shared;
use super::spool::{Entry, Fresh, State};
use super::{Agent, lmtp, maildir, spool};

/// Finds what is due: at the start, when somebody asks, and as time passes.
pub(super) fn watch(shared: &Arc<Shared>) {
    let state = &shared.settings.state;
    let mut kicked = spool::kicked(state);
    let mut first = true;
    let interval = shared
        .settings
        .retry_first
        .min(Duration::from_secs(30))
        .max(Duration::from_millis(100));
    let mut last = Instant::now();
    while !shared.draining.load(Ordering::SeqCst) {
        let asked = spool::kicked(state);
        if first || asked != kicked || last.elapsed() >= interval {
            (kicked, last) = (asked, Instant::now());
            if let Err(error) = scan(shared, first) {
                let event = Event::new("spool-unreadable").word("reason", &error.to_string());
                shared.log(Level::Error, event);
            }
            first = false;
        }
        std::thread::sleep(interval.min(Duration::from_secs(1)));
    }
}

fn scan(shared: &Arc<Shared>, first: bool) -> io::Result<()> {
    for id in spool::ids(&shared.settings.state, spool::SPOOL)? {
        match Entry::open(&shared.settings.state, spool::SPOOL, &id) {
            Ok(Some(mut entry)) => {
                if first {
                    tell_interrupted(shared, &mut entry)?;
                }
                let is_due = entry.next <= spool::now();
                // whoever takes it from the queue wants its lock
                drop(entry);
                if is_due {
                    shared.queues.due(id);
                }
            }
            Err(error) if first => damaged(shared, &id, &error),
            // held by whoever works on it, or told of at the start
            Ok(None) | Err(_) => {}
        }
    }
    Ok(())
}

/// At the start nothing is under way: what says so was left by a process that died.
fn tell_interrupted(shared: &Shared, entry: &mut Entry) -> io::Result<()> {
    for index in 0..entry.states.len() {
        if entry.states.get(index) == Some(&State::Trying) {
            let rcpt = entry
                .commit
                .recipients
                .get(index)
                .map_or_else(String::new, Recipient::address);
            let event = Event::new("interrupted").word("id", &entry.id).field("at", "agent");
            let event = event.word("rcpt", &rcpt);
            shared.log(Level::Warning, event.quoted("note", b"the agent may have succeeded"));
            entry.set_state(index, State::Waiting)?;
        }
    }
    Ok(())
}

fn damaged(shared: &Shared, id: &str, error: &io::Error) {
    let event = Event::new("spool-damaged").word("id", id);
    shared.log(Level::Critical, event.word("reason", &error.to_string()));
}

/// Tries one entry, if it is due and nobody else works on it.
pub(super) fn retry(shared: &Arc<Shared>, slot: &Slot, connection: &mut Option<lmtp::Connection>, id: &str) {
    if shared.draining.load(Ordering::SeqCst) {
        return;
    }
    let mut entry = match Entry::open(&shared.settings.state, spool::SPOOL, id) {
        Ok(Some(entry)) if entry.next <= spool::now() => entry,
        Ok(_) => return,
        Err(error) => return damaged(shared, id, &error),
    };
    let done = attempt(shared, slot, connection, &mut entry).and_then(|()| conclude(shared, slot, entry));
    if let Err(error) = done {
        let event = Event::new("spool-failed").word("id", id);
        shared.log(Level::Critical, event.word("reason", &error.to_string()));
    }
}

fn is_open(state: State) -> bool {
    matches!(state, State::Waiting | State::Trying)
}

/// Tries every recipient that still waits, and writes down what came of each.
fn attempt(
    shared: &Arc<Shared>,
    slot: &Slot,
    connection: &mut Option<lmtp::Connection>,
    entry: &mut Entry,
) -> io::Result<()> {
    let commit = entry.commit.clone();
    let open = |disposition| -> Vec<usize> {
        let recipients = commit.recipients.iter().zip(&entry.states).enumerate();
        let open =
            recipients.filter(|(_, (recipient, state))| recipient.disposition == disposition && is_open(**state));
        open.map(|(index, _)| index).collect()
    };
    let (real, soft) = (open(Disposition::Deliver), open(Disposition::Quarantine));
    // a handle of its own, so that states can be written meanwhile
    let body = entry.body_handle()?;
    let message = Message {
        commit: &commit,
        source: Source::File(&body, entry.checked_body()?.length()),
        end: None,
    };
    slot.begin(&entry.id);
    deliver(shared, slot, connection, &message, &real, &mut |step| match step {
        Step::Begins(which) => {
            for &index in which {
                entry.set_state(index, State::Trying)?;
            }
            if shared.settings.agent == Agent::Maildir {
                // the slot undoes it
                return Ok(());
            }
            entry.sync()
        }
        Step::Ended(index, result) => {
            // from here on the entry's own record counts: what appeared must not be undone once it says so
            slot.close();
            entry.set_state(index, state_after(result))
        }
    });
    for &index in &soft {
        entry.set_state(index, State::Trying)?;
    }
    let kept = into_maildir(shared, slot, maildir::QUARANTINE, &message, &soft);
    slot.close();
    for (&index, result) in soft.iter().zip(&kept) {
        entry.set_state(index, state_after(result))?;
    }
    Ok(())
}

/// After an attempt: later again, or nothing is left to do but to keep what nobody will ever get.
fn conclude(shared: &Shared, slot: &Slot, mut entry: Entry) -> io::Result<()> {
    let settings = &shared.settings;
    let age = u64::try_from(spool::now() - entry.spooled_at).unwrap_or(0);
    let give_up = age >= settings.give_up.as_secs();
    if !give_up && entry.states.iter().any(|state| is_open(*state)) {
        let wait = wait_after(entry.attempts, settings.retry_first, settings.retry_most);
        let next = spool::now() + i64::try_from(wait.as_secs()).unwrap_or(3_600);
        return entry.schedule(entry.attempts + 1, next);
    }
    let states = entry.states.iter().enumerate();
    let never: Vec<usize> = states
        .filter(|(_, state)| **state == State::Refused || is_open(**state))
        .map(|(index, _)| index)
        .collect();
    if !never.is_empty() {
        give_up_on(shared, slot, &entry, &never)?;
    }
    entry.remove()
}

/// How long to wait after an attempt that came after `attempts` others: `first`, then twice as long each time, up to `longest`.
fn wait_after(attempts: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << attempts.min(16)).min(longest)
}

/// Into `failed/` with what nobody will ever get.
fn give_up_on(shared: &Shared, slot: &Slot, entry: &Entry, never: &[usize]) -> io::Result<()> {
    let attempts = entry.attempts + 1;
    let fresh = Fresh {
        commit: &entry.commit,
        source: entry.checked_body()?,
        which: never,
        attempts,
        next: 0,
    };
    // a kill before the entry was removed may have left it there
    if spool::has(&shared.settings.state, spool::FAILED, &entry.id, &fresh)? {
        return Ok(());
    }
    let stored = spool::store(&shared.settings.state, spool::FAILED, &fresh, Some(slot))?;
    slot.close();
    let event = Event::new("failed").field("id", &stored.name);
    let event = event.field("recipients", never.len()).field("attempts", attempts);
    shared.log(Level::Critical, event);
    Ok(())
}

fn state_after(result: &RecipientResult) -> State {
    match result {
        RecipientResult::Temporary { .. } => State::Waiting,
        RecipientResult::Permanent { .. } => State::Refused,
        _ => State::Delivered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = |first: u64, longest: u64| -> Vec<u64> {
            let [first, longest] = [first, longest].map(Duration::from_secs);
            (0..9)
                .map(|attempts| wait_after(attempts, first, longest).as_secs())
                .collect()
        };
        assert_eq!(waits(60, 3_600), [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        assert_eq!(waits(1, 1), [1; 9]);
        let day = Duration::from_secs(86_400);
        for attempts in [16, 17, 63, 64, u32::MAX] {
            assert_eq!(wait_after(attempts, Duration::from_secs(2), day), day);
        }
    }
}
