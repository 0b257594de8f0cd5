//! The spool's clock: what is due is tried again, later and later, until it is delivered or given up into `failed/`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::ipc::delivery::{Disposition, RecipientResult};

use super::agents::{Message, address, deliver, maildir as into_maildir};
use super::content::Source;
use super::journal::Slot;
use super::process::Shared;
use super::spool::{Entry, Fresh, State};
use super::{level, lmtp, maildir, quoted, spool};

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
                shared.log(
                    level::ERR,
                    format!("event=spool_unreadable reason={}", quoted(&error.to_string())),
                );
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
                for index in 0..entry.states.len() {
                    if first && entry.states.get(index) == Some(&State::Trying) {
                        let rcpt = entry.commit.recipients.get(index).map_or_else(String::new, address);
                        shared.log(
                            level::WARNING,
                            format!(
                                "event=interrupted id={id} at=agent rcpt={} note=\"the agent may have succeeded\"",
                                quoted(&rcpt)
                            ),
                        );
                        entry.set_state(index, State::Waiting)?;
                    }
                }
                if entry.next <= spool::now() {
                    shared.queues.due(id);
                }
            }
            Ok(None) => {}
            Err(error) if first => shared.log(
                level::CRIT,
                format!("event=spool_damaged id={id} reason={}", quoted(&error.to_string())),
            ),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Tries one entry, if it is due and nobody else works on it.
pub(super) fn retry(shared: &Arc<Shared>, slot: &Slot, connection: &mut Option<lmtp::Connection>, id: &str) {
    if shared.draining.load(Ordering::SeqCst) {
        return;
    }
    let entry = match Entry::open(&shared.settings.state, spool::SPOOL, id) {
        Ok(Some(entry)) if entry.next <= spool::now() => entry,
        Ok(_) => return,
        Err(error) => {
            return shared.log(
                level::CRIT,
                format!("event=spool_damaged id={id} reason={}", quoted(&error.to_string())),
            );
        }
    };
    if let Err(error) = attempt(shared, slot, connection, entry) {
        shared.log(
            level::CRIT,
            format!("event=spool_failed id={id} reason={}", quoted(&error.to_string())),
        );
    }
}

fn attempt(
    shared: &Arc<Shared>,
    slot: &Slot,
    connection: &mut Option<lmtp::Connection>,
    mut entry: Entry,
) -> io::Result<()> {
    let settings = &shared.settings;
    let commit = entry.commit.clone();
    let id = &entry.id.clone();
    let open = |disposition| -> Vec<usize> {
        let recipients = commit.recipients.iter().zip(&entry.states).enumerate();
        let open = recipients.filter(|(_, (recipient, state))| {
            recipient.disposition == disposition && matches!(state, State::Waiting | State::Trying)
        });
        open.map(|(index, _)| index).collect()
    };
    let (real, soft) = (open(Disposition::Deliver), open(Disposition::Quarantine));
    // a handle of its own, so that states can be written meanwhile
    let body = entry.body_handle()?;
    let source = Source::File(&body, entry.checked_body()?.length());
    let message = Message {
        commit: &commit,
        source,
        end: None,
    };
    let mut never = Vec::new();
    slot.begin(id);
    deliver(shared, slot, connection, &message, &real, &mut |index, result| {
        if result.is_some() {
            // from here on the entry's own record counts: what appeared must not be undone once it says so
            slot.close();
        }
        entry.set_state(index, state_after(result))
    });
    for &index in &soft {
        entry.set_state(index, State::Trying)?;
    }
    let kept = into_maildir(shared, slot, maildir::QUARANTINE, &message, &soft);
    slot.close();
    for (&index, result) in soft.iter().zip(&kept) {
        entry.set_state(index, state_after(Some(result)))?;
    }
    let waiting = |entry: &Entry| {
        entry
            .states
            .iter()
            .any(|state| matches!(state, State::Waiting | State::Trying))
    };
    let age = u64::try_from(spool::now() - entry.spooled_at).unwrap_or(0);
    let give_up = age >= settings.give_up.as_secs();
    for (index, state) in entry.states.iter().enumerate() {
        if *state == State::Refused || (give_up && matches!(state, State::Waiting | State::Trying)) {
            never.push(index);
        }
    }
    if waiting(&entry) && !give_up {
        let doubled = settings
            .retry_first
            .saturating_mul(1 << entry.attempts.min(16))
            .min(settings.retry_most);
        let next = spool::now() + i64::try_from(doubled.as_secs()).unwrap_or(3_600);
        return entry.schedule(entry.attempts + 1, next);
    }
    let fresh = Fresh {
        commit: &commit,
        source,
        which: &never,
        attempts: entry.attempts + 1,
        next: 0,
    };
    // a kill before the entry was removed may have left it there
    if !never.is_empty() && !spool::has(&settings.state, spool::FAILED, id, &fresh)? {
        let stored = spool::store(&settings.state, spool::FAILED, &fresh, Some(slot))?;
        slot.close();
        shared.log(
            level::CRIT,
            format!(
                "event=failed id={} recipients={} attempts={}",
                stored.name,
                never.len(),
                entry.attempts + 1
            ),
        );
    }
    entry.remove()
}

fn state_after(result: Option<&RecipientResult>) -> State {
    match result {
        None => State::Trying,
        Some(RecipientResult::Temporary { .. }) => State::Waiting,
        Some(RecipientResult::Permanent { .. }) => State::Refused,
        Some(_) => State::Delivered,
    }
}
