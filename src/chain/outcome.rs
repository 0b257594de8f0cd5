//! The end of a message: who has it now, and what the client is told.
//!
//! [`Taken`] is the only way to a 250 after end-of-data. [`fold`] and [`relayed`] are its only constructors, so "somebody
//! other than the worker has it on disk" can be checked by reading this file.

use crate::ipc::delivery::{Body, Disposition, Recipient, RecipientResult};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// A whole message on its way to the taker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id, also the transaction's.
    pub id: String,
    /// Mailboxes and what is to become of it for each, without duplicates.
    pub copies: Vec<Recipient>,
    /// Where the octets are.
    pub body: Body,
}

/// Proof that the message is kept by somebody else.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    results: Vec<RecipientResult>,
    /// What another server said that took it.
    said: Option<Reply>,
}

impl Taken {
    /// What became of each copy.
    pub fn results(&self) -> &[RecipientResult] {
        &self.results
    }

    /// The 250 for the message with this id.
    pub fn reply(&self, id: &str) -> Reply {
        if let Some(said) = &self.said {
            return said.clone();
        }
        Reply::new(250, Some(Status(2, 0, 0)), format!("{id} accepted"))
    }
}

/// Why a taker did not take a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub reply: Reply,
    /// What failed on our side, for the log; none where the recipients' mailboxes refused.
    pub fault: Option<String>,
}

impl Refusal {
    /// The taker could not do its work: 451 4.3.0.
    pub fn failed(fault: impl Into<String>) -> Refusal {
        Refusal {
            reply: unavailable(),
            fault: Some(fault.into()),
        }
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Refusal {
        Refusal { reply, fault: None }
    }
}

/// 451 4.3.0, for everything that failed on our side.
pub fn unavailable() -> Reply {
    Reply::new(451, Some(Status(4, 3, 0)), "local error, try again later")
}

/// Folds what became of each copy into one answer: only copies to be delivered decide; where there are none, the
/// quarantine copies do.
///
/// # Errors
/// The reply when no real recipient got the message.
pub fn fold(copies: &[Recipient], results: Vec<RecipientResult>) -> Result<Taken, Reply> {
    let nobodys = copies.iter().all(|copy| copy.disposition == Disposition::Copy);
    if results.len() != copies.len() || nobodys {
        return Err(unavailable());
    }
    let of = |disposition: Disposition| {
        let pairs = copies.iter().zip(&results);
        pairs
            .filter(move |(copy, _)| copy.disposition == disposition)
            .map(|(_, result)| result)
            .collect::<Vec<_>>()
    };
    let real = of(Disposition::Deliver);
    if real.is_empty() {
        let kept = of(Disposition::Quarantine).iter().all(|result| is_kept(result));
        return if kept {
            Ok(Taken { results, said: None })
        } else {
            Err(unavailable())
        };
    }
    if real.iter().any(|result| is_kept(result)) {
        return Ok(Taken { results, said: None });
    }
    Err(refusal(&real))
}

/// What the server behind a proxy said to the end of the data: if that was 2yz, it has the message.
///
/// # Errors
/// Its reply, where it has not.
pub fn relayed(reply: Reply) -> Result<Taken, Reply> {
    match reply.code {
        200..=299 => Ok(Taken {
            results: Vec::new(),
            said: Some(reply),
        }),
        400..=599 => Err(reply),
        _ => Err(unavailable()),
    }
}

fn is_kept(result: &RecipientResult) -> bool {
    matches!(
        result,
        RecipientResult::Delivered
            | RecipientResult::Spooled
            | RecipientResult::Quarantined
            | RecipientResult::Discarded
    )
}

/// None of them got it: 452 for space, else 451 if any may work later, else the first 5xx.
fn refusal(real: &[&RecipientResult]) -> Reply {
    let mut permanent = None;
    let mut temporary = None;
    for result in real {
        match result {
            RecipientResult::Temporary {
                code: 452,
                status,
                text,
            } => return reply(452, *status, text),
            RecipientResult::Temporary { status, text, .. } => {
                temporary.get_or_insert_with(|| reply(451, *status, text));
            }
            RecipientResult::Permanent { code, status, text } => {
                permanent.get_or_insert_with(|| reply(*code, *status, text));
            }
            _ => {}
        }
    }
    temporary.or(permanent).unwrap_or_else(unavailable)
}

/// A reply whose code and status agree, whatever the agent said.
fn reply(code: u16, status: [u16; 3], text: &str) -> Reply {
    let class: u8 = if (500..600).contains(&code) { 5 } else { 4 };
    let code = if (400..600).contains(&code) { code } else { 451 };
    let [given, subject, detail] = status;
    let status = if given == u16::from(class) {
        Status(class, subject, detail)
    } else {
        Status(class, 3, 0)
    };
    Reply::new(code, Some(status), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecipientResult::{Delivered, Quarantined, Spooled};

    fn copy(disposition: Disposition) -> Recipient {
        Recipient {
            original: "a@b".into(),
            domain: "b".into(),
            mailbox: "a".into(),
            disposition,
        }
    }

    fn temporary(code: u16) -> RecipientResult {
        RecipientResult::Temporary {
            code,
            status: [4, 3, 1],
            text: "later".into(),
        }
    }

    fn permanent(code: u16) -> RecipientResult {
        RecipientResult::Permanent {
            code,
            status: [5, 2, 2],
            text: "over quota".into(),
        }
    }

    fn answer(cells: &[(Disposition, RecipientResult)]) -> u16 {
        let copies: Vec<_> = cells.iter().map(|(disposition, _)| copy(*disposition)).collect();
        let results = cells.iter().map(|(_, result)| result.clone()).collect();
        match fold(&copies, results) {
            Ok(taken) => taken.reply("x.1").code,
            Err(reply) => reply.code,
        }
    }

    #[test]
    fn the_table() {
        use Disposition::{Deliver, Discard, Quarantine};
        let cases: &[(&[(Disposition, RecipientResult)], u16)] = &[
            (&[(Deliver, Delivered), (Deliver, Delivered)], 250),
            (&[(Deliver, permanent(552)), (Deliver, Delivered)], 250),
            (&[(Deliver, Delivered), (Deliver, Spooled)], 250),
            (&[(Deliver, temporary(451)), (Deliver, permanent(550))], 451),
            (&[(Deliver, temporary(450)), (Deliver, temporary(452))], 452),
            (&[(Deliver, permanent(552)), (Deliver, permanent(550))], 552),
            (&[(Quarantine, Quarantined)], 250),
            (&[(Quarantine, temporary(452))], 451),
            (&[(Quarantine, permanent(550))], 451),
            (&[(Quarantine, Quarantined), (Deliver, permanent(550))], 550),
            (&[(Quarantine, temporary(451)), (Deliver, Delivered)], 250),
            (&[(Discard, RecipientResult::Discarded)], 250),
        ];
        for (cells, code) in cases {
            assert_eq!(answer(cells), *code, "{cells:?}");
        }
    }

    #[test]
    fn only_what_the_other_server_took_is_taken() {
        for (code, taken) in [
            (250, true),
            (200, true),
            (354, false),
            (421, false),
            (451, false),
            (554, false),
        ] {
            let reply = Reply::new(code, None, "said");
            match relayed(reply.clone()) {
                Ok(proof) => assert!(taken && proof.reply("x.1") == reply),
                Err(refusal) => assert!(!taken && !refusal.is_positive()),
            }
        }
    }

    #[test]
    fn a_wrong_number_of_results_is_no_success() {
        assert_eq!(
            fold(&[copy(Disposition::Deliver)], Vec::new()).map_err(|reply| reply.code),
            Err(451)
        );
        assert_eq!(fold(&[], Vec::new()).map_err(|reply| reply.code), Err(451));
    }

    #[test]
    fn code_and_status_agree() {
        let odd = RecipientResult::Permanent {
            code: 250,
            status: [2, 0, 0],
            text: String::new(),
        };
        let Err(reply) = fold(&[copy(Disposition::Deliver)], vec![odd]) else {
            panic!("taken")
        };
        assert_eq!((reply.code, reply.status), (451, Some(Status(4, 3, 0))));
    }
}
