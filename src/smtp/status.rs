//! Enhanced mail system status codes (RFC 3463, RFC 5248, RFC 7372). Values only.

use std::fmt;

/// Class, subject and detail, as in `5.1.3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u8, pub u16, pub u16);

macro_rules! statuses {
    ($($name:ident $class:literal $subject:literal $detail:literal $text:literal;)*) => {
        impl Status {
            $(#[doc = $text] pub const $name: Status = Status($class, $subject, $detail);)*
        }
    };
}

statuses! {
    OK 2 0 0 "Done.";
    SENDER_OK 2 1 0 "Sender accepted.";
    RECIPIENT_OK 2 1 5 "Recipient accepted.";
    CONTENT_OK 2 6 0 "Content accepted.";
    TEMPORARY 4 0 0 "Temporary failure without detail.";
    MAILBOX_FULL 4 2 2 "Mailbox full, try later.";
    SYSTEM_TEMPORARY 4 3 0 "Local error, try later.";
    SYSTEM_FULL 4 3 1 "No space on our system now.";
    NOT_ACCEPTING 4 3 2 "Not accepting messages now.";
    TIMED_OUT 4 4 2 "The connection took too long.";
    NAME_SERVER_TEMPORARY 4 4 3 "A name server did not answer.";
    TOO_MANY_RECIPIENTS 4 5 3 "Too many recipients in one transaction.";
    NO_TLS_NOW 4 7 0 "TLS not available for the moment, or other temporary policy.";
    GREYLISTED 4 7 1 "Greylisted.";
    PERMANENT 5 0 0 "Permanent failure without detail.";
    UNKNOWN_MAILBOX 5 1 1 "No such mailbox.";
    UNKNOWN_DOMAIN 5 1 2 "No such domain.";
    BAD_RECIPIENT_SYNTAX 5 1 3 "Recipient address is not syntactically valid.";
    BAD_SENDER_SYNTAX 5 1 7 "Sender address is not syntactically valid.";
    NULL_MX 5 1 10 "Recipient domain never accepts mail (RFC 7505).";
    MAILBOX_DISABLED 5 2 1 "Mailbox disabled.";
    OVER_QUOTA 5 2 2 "Mailbox over quota.";
    MAILBOX_TOO_BIG 5 2 3 "Message too big for the mailbox.";
    SYSTEM_REFUSES 5 3 2 "System does not accept mail.";
    TOO_BIG 5 3 4 "Message too big for the system.";
    LOOP 5 4 6 "Routing loop.";
    INVALID_COMMAND 5 5 1 "Command not valid, or not valid now.";
    SYNTAX 5 5 2 "Syntax error.";
    TOO_MANY 5 5 3 "Too many recipients or messages.";
    INVALID_ARGUMENTS 5 5 4 "Command arguments not valid.";
    CONTENT 5 6 0 "Content refused.";
    NON_ASCII_ADDRESS 5 6 7 "Non-ASCII address not permitted here.";
    POLICY 5 7 0 "Security or policy.";
    REFUSED 5 7 1 "Delivery not authorised.";
    NO_PASSING_DKIM 5 7 20 "No passing DKIM signature.";
    SPF_FAILED 5 7 23 "SPF validation failed.";
    SPF_ERROR 5 7 24 "SPF validation error.";
    REVERSE_DNS 5 7 25 "Reverse DNS validation failed.";
    AUTHENTICATION_FAILED 5 7 26 "Several authentication checks failed.";
    SENDER_NULL_MX 5 7 27 "Sender domain never accepts mail (RFC 7505).";
}

impl Status {
    /// Reads `class.subject.detail`; `None` for anything else (RFC 3463 §2).
    pub fn parse(text: &str) -> Option<Status> {
        let mut parts = text.split('.');
        let class = number(parts.next()?, 1)?;
        let subject = number(parts.next()?, 3)?;
        let detail = number(parts.next()?, 3)?;
        let known = matches!(class, 2 | 4 | 5) && parts.next().is_none();
        known.then_some(Status(u8::try_from(class).ok()?, subject, detail))
    }
}

fn number(text: &str, digits: usize) -> Option<u16> {
    let fits = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text.len() == 1 || !text.starts_with('0');
    if fits && canonical { text.parse().ok() } else { None }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for status in [Status::OK, Status::NULL_MX, Status(4, 7, 999)] {
            assert_eq!(Status::parse(&status.to_string()), Some(status));
        }
        for wrong in [
            "", "5", "5.1", "5.1.1.1", "3.0.0", "5.01.1", "5.1.1000", "5.a.1", "5..1",
        ] {
            assert_eq!(Status::parse(wrong), None, "{wrong}");
        }
    }
}
