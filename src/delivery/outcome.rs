//! What an agent's end means for a recipient, and what all recipients' results mean for the client. Pure.

use std::io;

use crate::ipc::delivery::RecipientResult;
use crate::ipc::frame;

/// A result that asks the client to come again.
pub fn temporary(code: u16, status: [u16; 3], text: &str) -> RecipientResult {
    RecipientResult::Temporary {
        code,
        status,
        text: text.to_owned(),
    }
}

/// A result that tells the client to give up.
pub fn permanent(code: u16, status: [u16; 3], text: &str) -> RecipientResult {
    RecipientResult::Permanent {
        code,
        status,
        text: text.to_owned(),
    }
}

/// Nobody is free for this message: 451 4.3.2.
pub fn too_busy() -> RecipientResult {
    temporary(451, [4, 3, 2], "Too many deliveries at the moment, try again later")
}

/// The mailbox could not be written now: 451 4.3.0.
pub fn local_error() -> RecipientResult {
    temporary(451, [4, 3, 0], "Local error, try again later")
}

/// No space: 452 4.3.1.
pub fn no_space() -> RecipientResult {
    temporary(452, [4, 3, 1], "Insufficient system storage")
}

/// What a failed file operation means: ENOSPC and EDQUOT 452 4.3.1, EFBIG 552 5.3.4, all else 451 4.3.0.
pub fn of_io(error: &io::Error) -> RecipientResult {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(),
        io::ErrorKind::FileTooLarge => permanent(552, [5, 3, 4], "Message is too big for the mailbox"),
        _ => local_error(),
    }
}

/// Shortens the texts so that all results together fit into one answer, whatever an agent has said.
pub fn shorten(results: &mut [RecipientResult]) {
    // of a frame, less what a result has besides its text
    let each = (frame::MAXIMUM / results.len().max(1)).saturating_sub(24);
    for result in results {
        if let RecipientResult::Temporary { text, .. } | RecipientResult::Permanent { text, .. } = result
            && text.len() > each
        {
            text.truncate(text.floor_char_boundary(each));
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With an exit status.
    Exit(i32),
    /// By a signal.
    Signal(i32),
    /// Killed by us when its time was up.
    TimedOut,
    /// Never started.
    NotStarted,
}

impl Ended {
    /// Whether the cause is how the agent is set up, which only the operator can change.
    pub fn is_configuration(self) -> bool {
        matches!(self, Ended::NotStarted | Ended::Exit(64 | 70..=74 | 78 | 126 | 127))
    }
}

/// The result of a delivery agent run (sysexits.h; dovecot-lda with `-e`).
pub fn of_agent(ended: Ended) -> RecipientResult {
    match ended {
        Ended::Exit(0) => RecipientResult::Delivered,
        // EX_DATAERR: the agent will never take these bytes
        Ended::Exit(65) => permanent(554, [5, 6, 0], "Message was refused by the mailbox"),
        // EX_NOUSER
        Ended::Exit(67) => permanent(550, [5, 1, 1], "No such user here"),
        // EX_NOPERM: over quota, says dovecot-lda -e
        Ended::Exit(77) => permanent(552, [5, 2, 2], "Mailbox is full"),
        // EX_USAGE, EX_SOFTWARE, EX_OSERR, EX_OSFILE, EX_CANTCREAT, EX_IOERR, EX_CONFIG, the shell's own
        Ended::NotStarted | Ended::Exit(64 | 70..=74 | 78 | 126 | 127) => {
            temporary(451, [4, 3, 5], "Delivery is not set up correctly, try again later")
        }
        // EX_NOINPUT, EX_NOHOST, EX_UNAVAILABLE, EX_TEMPFAIL, EX_PROTOCOL and whatever is not in the table
        Ended::Exit(_) | Ended::Signal(_) | Ended::TimedOut => local_error(),
    }
}

/// The one reply to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Reply code.
    pub code: u16,
    /// Enhanced status (RFC 3463).
    pub status: [u16; 3],
    /// Text for the client, without the message's identifier.
    pub text: String,
    /// Whether we answer for the message from now on: true with 250 only.
    pub taken: bool,
}

fn answer(code: u16, status: [u16; 3], text: &str) -> Answer {
    Answer {
        code,
        status,
        text: text.to_owned(),
        taken: code == 250,
    }
}

/// The reply that all results together make.
///
/// One delivered or spooled is 250: the process has by then put the temporary ones into the spool and the permanent
/// ones into `failed/`. None of those: the first lack of space, else the first temporary failure, else the first
/// permanent one. Only quarantined or discarded ones: 250. No results at all is 451.
pub fn fold(results: &[RecipientResult]) -> Answer {
    use RecipientResult::{Delivered, Permanent, Spooled, Temporary};
    let taken = || answer(250, [2, 0, 0], "Message accepted");
    if results.iter().any(|result| matches!(result, Delivered | Spooled)) {
        return taken();
    }
    let temporary = |space: bool| {
        results.iter().find_map(|result| match result {
            Temporary { code, status, text } if !space || *status == [4, 3, 1] => Some((*code, *status, text)),
            _ => None,
        })
    };
    let permanent = || {
        results.iter().find_map(|result| match result {
            Permanent { code, status, text } => Some((*code, *status, text)),
            _ => None,
        })
    };
    match temporary(true).or_else(|| temporary(false)).or_else(permanent) {
        Some((code, status, text)) => answer(code, status, text),
        None if results.is_empty() => answer(451, [4, 3, 0], "Local error, try again later"),
        None => taken(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecipientResult::{Delivered, Discarded, Quarantined, Spooled};

    #[test]
    fn the_table_of_replies_holds() {
        let gone = || permanent(550, [5, 1, 1], "gone");
        let full = || permanent(552, [5, 2, 2], "full");
        for (results, code, taken) in [
            (vec![Delivered], 250, true),
            (vec![Delivered, Spooled], 250, true),
            (vec![Delivered, local_error(), gone()], 250, true),
            (vec![gone(), Spooled], 250, true),
            (vec![gone(), local_error()], 451, false),
            (vec![local_error(), no_space()], 452, false),
            (vec![gone(), full()], 550, false),
            (vec![full(), gone()], 552, false),
            (vec![Quarantined], 250, true),
            (vec![Discarded], 250, true),
            (vec![Quarantined, Discarded], 250, true),
            (vec![Quarantined, gone()], 550, false),
            (vec![Quarantined, local_error()], 451, false),
            (vec![], 451, false),
        ] {
            let answer = fold(&results);
            assert_eq!((answer.code, answer.taken), (code, taken), "{results:?}");
        }
    }

    #[test]
    fn every_exit_status_has_one_meaning() {
        let code = |ended| match of_agent(ended) {
            RecipientResult::Delivered => 250,
            RecipientResult::Temporary { code, .. } | RecipientResult::Permanent { code, .. } => code,
            other => panic!("{other:?}"),
        };
        for status in 0..=255 {
            let expected = match status {
                0 => 250,
                65 => 554,
                67 => 550,
                77 => 552,
                _ => 451,
            };
            assert_eq!(code(Ended::Exit(status)), expected, "{status}");
        }
        assert_eq!(code(Ended::TimedOut), 451);
        assert_eq!(code(Ended::Signal(9)), 451);
        assert!(Ended::Exit(78).is_configuration() && !Ended::Exit(75).is_configuration());
    }

    #[test]
    fn what_an_agent_said_at_length_fits_into_one_answer() {
        let text = "\u{fc}".repeat(200);
        for count in [1, 10, 1000] {
            let mut results = vec![permanent(550, [5, 1, 1], &text); count];
            shorten(&mut results);
            let answer = crate::ipc::delivery::FromDelivery::Outcome {
                id: "a".repeat(100),
                outcome: crate::ipc::delivery::Outcome {
                    results: results.clone(),
                },
            };
            assert!(frame::encode(&answer).is_ok(), "{count}");
            assert_eq!(results == vec![permanent(550, [5, 1, 1], &text); count], count < 1000);
        }
    }

    #[test]
    fn errors_of_the_disk_are_told_apart() {
        let of = |errno| fold(&[of_io(&io::Error::from_raw_os_error(errno))]).code;
        assert_eq!([28, 122, 27, 13, 5].map(of), [452, 452, 552, 451, 451]);
    }
}
