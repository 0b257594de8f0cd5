//! The check of what a worker wants delivered. Pure; assumes nothing about who sent it.

use crate::ipc::delivery::{Body, Commit, INLINE_BODY, RECIPIENTS};

use super::names;

const ADDRESS: usize = 1024;
const FIELDS: usize = 48 * 1024;
const REMOVED: usize = 256;

/// RFC 5322 3.6.8; trace fields are never removed (RFC 5321 4.4).
fn is_field_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.bytes().all(|byte| (33..=126).contains(&byte) && byte != b':')
        && !name.eq_ignore_ascii_case("received")
}

fn clean(what: &str, text: &str, longest: usize) -> Result<(), String> {
    if text.len() > longest {
        return Err(format!("{what} is longer than {longest} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has control characters"));
    }
    Ok(())
}

/// Whether `fields` are whole header fields (RFC 5322 2.2), CRLF each, and no blank line that would end the header.
fn are_fields(fields: &[u8]) -> bool {
    if fields.is_empty() {
        return true;
    }
    let Some(lines) = fields.strip_suffix(b"\r\n") else {
        return false;
    };
    let mut first = true;
    let mut rest = lines;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        let folded = matches!(line.first(), Some(b' ' | b'\t')) && !first;
        let name = line
            .iter()
            .position(|&byte| byte == b':')
            .and_then(|colon| line.get(..colon));
        let named = name.is_some_and(|name| !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte)));
        let blank = line.iter().all(|byte| matches!(byte, b' ' | b'\t'));
        if blank || !(folded || named) || line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return false;
        }
        first = false;
        match after.strip_prefix(b"\r\n") {
            Some(next) => rest = next,
            None => return true,
        }
    }
}

/// Checks every field of `commit` but a staged body's length, which needs the file.
///
/// # Errors
/// The first broken rule, as text for the log.
pub fn check(commit: &Commit) -> Result<(), String> {
    if !names::is_id(&commit.id) {
        return Err("identifier cannot name a file".to_owned());
    }
    clean("reverse-path", &commit.reverse_path, ADDRESS)?;
    clean("peer", &commit.peer, ADDRESS)?;
    if commit.helo.len() > ADDRESS {
        return Err("HELO name is too long".to_owned());
    }
    if commit.recipients.is_empty() || commit.recipients.len() > RECIPIENTS {
        return Err(format!(
            "{} recipients instead of 1 to {RECIPIENTS}",
            commit.recipients.len()
        ));
    }
    for recipient in &commit.recipients {
        clean("recipient", &recipient.original, ADDRESS)?;
        clean("recipient's domain", &recipient.domain, 255)?;
        clean("recipient's mailbox", &recipient.mailbox, 320)?;
        if recipient.domain.is_empty() || recipient.mailbox.is_empty() {
            return Err("recipient without domain or mailbox".to_owned());
        }
    }
    if commit.fields.len() > FIELDS || !are_fields(&commit.fields) {
        return Err("added header fields are malformed".to_owned());
    }
    if commit.removed.len() > REMOVED || !commit.removed.iter().all(|name| is_field_name(name)) {
        return Err("names of removed header fields are malformed".to_owned());
    }
    match &commit.body {
        Body::Inline(bytes) if bytes.len() > INLINE_BODY => Err("inline body is too long".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ipc::delivery::{Disposition, Recipient};

    pub(crate) fn recipient(mailbox: &str, disposition: Disposition) -> Recipient {
        Recipient {
            original: format!("{mailbox}@Example.org"),
            domain: "example.org".into(),
            mailbox: mailbox.into(),
            disposition,
        }
    }

    pub(crate) fn commit(id: &str, mailboxes: &[&str], body: &[u8]) -> Commit {
        Commit {
            id: id.into(),
            reverse_path: "sender@example.net".into(),
            recipients: mailboxes
                .iter()
                .map(|name| recipient(name, Disposition::Deliver))
                .collect(),
            fields: b"Received: from x\r\n\tby y\r\n".to_vec(),
            removed: Vec::new(),
            body: Body::Inline(body.to_vec()),
            smtputf8: false,
            received_at: 1_700_000_000,
            peer: "192.0.2.1:4711".into(),
            helo: "x".into(),
        }
    }

    #[test]
    fn a_proper_envelope_passes() {
        assert_eq!(check(&commit("a1", &["bob"], b"x")), Ok(()));
    }

    #[test]
    fn each_broken_field_is_named() {
        type Break = fn(&mut Commit);
        let broken: Vec<(&str, Break)> = vec![
            ("identifier", |c| c.id = "../x".into()),
            ("reverse-path", |c| c.reverse_path = "a\r\nBcc: b".into()),
            ("reverse-path", |c| c.reverse_path = "a".repeat(2000)),
            ("recipients", |c| c.recipients.clear()),
            ("recipients", |c| {
                c.recipients = vec![recipient("x", Disposition::Deliver); 1001]
            }),
            ("control", |c| c.recipients[0].mailbox = "a\0".into()),
            ("without", |c| c.recipients[0].domain = String::new()),
            ("fields", |c| c.fields = b"A: b\r\n\r\n".to_vec()),
            ("fields", |c| c.fields = b"A: b\r\n \r\n".to_vec()),
            ("fields", |c| c.fields = b"A: b\nC: d\r\n".to_vec()),
            ("fields", |c| c.fields = b" A: b\r\n".to_vec()),
            ("fields", |c| c.fields = b"A: b".to_vec()),
            ("fields", |c| c.fields = b"no colon\r\n".to_vec()),
            ("removed", |c| c.removed = vec!["Received".into()]),
            ("removed", |c| c.removed = vec!["a:".into()]),
            ("removed", |c| c.removed = vec!["A".into(); 257]),
            ("inline", |c| c.body = Body::Inline(vec![0; INLINE_BODY + 1])),
        ];
        for (word, breaks) in broken {
            let mut commit = commit("a1", &["bob"], b"x");
            breaks(&mut commit);
            let fault = check(&commit).unwrap_err();
            assert!(fault.contains(word), "{word}: {fault}");
        }
    }
}
