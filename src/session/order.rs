//! The order of commands (RFC 5321 §4.1.4, RFC 3030 §2): a pure function of the session and the command.

use super::Session;
use crate::smtp::command::{Command, Verb};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// The reply that the protocol demands for a command that comes out of order or is malformed; order goes first.
pub fn order(session: &Session, command: &Command) -> Option<Reply> {
    out_of_order(session, &command.verb).or_else(|| {
        let fault = command.parsed.as_ref().err()?;
        Some(Reply::new(fault.code, Some(fault.status), fault.text))
    })
}

pub(crate) fn bad_sequence(text: &str) -> Option<Reply> {
    Some(Reply::new(503, Some(Status(5, 5, 1)), text))
}

fn out_of_order(session: &Session, verb: &Verb) -> Option<Reply> {
    let transaction = session.transaction.as_ref();
    let chunking = transaction.is_some_and(|transaction| transaction.is_chunking());
    match verb {
        Verb::Mail if session.hello.is_none() => bad_sequence("say HELO or EHLO first"),
        Verb::Mail if transaction.is_some() => bad_sequence("a transaction is under way already"),
        Verb::Rcpt | Verb::Data | Verb::Bdat if session.hello.is_none() => bad_sequence("say HELO or EHLO first"),
        Verb::Rcpt if chunking => bad_sequence("BDAT has begun, no more recipients"),
        Verb::Data if chunking => bad_sequence("BDAT has begun, no DATA"),
        Verb::Rcpt | Verb::Data | Verb::Bdat => match transaction {
            None => bad_sequence("MAIL first"),
            Some(_) if *verb == Verb::Rcpt => None,
            Some(transaction) if !transaction.recipients.is_empty() => None,
            Some(transaction) if transaction.refused > 0 => {
                Some(Reply::new(554, Some(Status(5, 5, 1)), "no valid recipients"))
            }
            Some(_) => bad_sequence("RCPT first"),
        },
        Verb::StartTls if session.tls.is_some() => bad_sequence("TLS is active already"),
        _ => None,
    }
}
