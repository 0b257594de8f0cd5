//! Trace fields (RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3): text only, made of values that
//! a client chose. Nothing it chose can end the field or forge a part of it.

use super::address::{Domain, Mailbox, ReversePath};
use std::net::IpAddr;

/// How the message came, for the `with` clause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// The client said EHLO.
    pub extended: bool,
    /// Under TLS.
    pub tls: bool,
    /// After AUTH.
    pub authenticated: bool,
    /// With SMTPUTF8.
    pub utf8: bool,
}

impl With {
    /// The registered keyword.
    pub fn keyword(self) -> &'static str {
        match (self.extended, self.utf8, self.tls, self.authenticated) {
            (_, true, false, false) => "UTF8SMTP",
            (_, true, false, true) => "UTF8SMTPA",
            (_, true, true, false) => "UTF8SMTPS",
            (_, true, true, true) => "UTF8SMTPSA",
            (false, false, false, false) => "SMTP",
            (true, false, false, false) => "ESMTP",
            (_, false, false, true) => "ESMTPA",
            (_, false, true, false) => "ESMTPS",
            (_, false, true, true) => "ESMTPSA",
        }
    }
}

/// The TLS that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// The version, in a comment.
    pub version: &'a str,
    /// The cipher suite by its registered name.
    pub cipher: &'a str,
    /// The group of the key exchange by its registered name.
    pub group: Option<&'a str>,
}

/// What our `Received` field says.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// What the client called itself.
    pub helo: &'a str,
    /// Its name by the DNS, when verified.
    pub peer_name: Option<&'a str>,
    /// Its address.
    pub peer: IpAddr,
    /// Our name.
    pub by: &'a str,
    /// How it came.
    pub with: With,
    /// The message's id.
    pub id: &'a str,
    /// The recipient, only where there is a single one.
    pub recipient: Option<&'a Mailbox>,
    /// The TLS (RFC 8314 §4.3).
    pub tls: Option<Tls<'a>>,
    /// The time in the form of RFC 5322 §3.3.
    pub date: &'a str,
}

/// The `Received` field, folded, with CRLF at its end.
pub fn received(trace: &Trace<'_>) -> String {
    let helo = word(trace.helo);
    let address = Domain::Literal(trace.peer);
    let peer = match trace.peer_name {
        Some(name) => format!("{} {address}", word(name)),
        None => address.to_string(),
    };
    let (by, with, id) = (word(trace.by), trace.with.keyword(), word(trace.id));
    let mut field = format!("Received: from {helo} ({peer})\r\n\tby {by} with {with} id {id}");
    if let Some(recipient) = trace.recipient {
        field.push_str(&format!("\r\n\tfor <{recipient}>"));
    }
    if let Some(tls) = &trace.tls {
        field.push_str(&format!("\r\n\ttls {}", word(tls.cipher)));
        if let Some(group) = tls.group {
            field.push_str(&format!(" group {}", word(group)));
        }
        field.push_str(&format!(" ({})", word(tls.version)));
    }
    let date: String = trace.date.chars().filter(|c| !c.is_control()).collect();
    field.push_str(&format!(";\r\n\t{date}\r\n"));
    field
}

/// The `Return-Path` field with CRLF; only final delivery adds it.
pub fn return_path(path: &ReversePath) -> String {
    format!("Return-Path: {path}\r\n")
}

/// A word that cannot be taken for syntax of the field; at most 255 characters.
fn word(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]+=/!#$%&'*^`{|}~".contains(c);
    let clean = |c| if allowed(c) { c } else { '?' };
    let word: String = text.chars().take(255).map(clean).collect();
    if word.is_empty() { "unknown".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace<'a>(helo: &'a str, recipient: Option<&'a Mailbox>) -> Trace<'a> {
        Trace {
            helo,
            peer_name: None,
            peer: "2001:db8::1".parse().unwrap(),
            by: "mx.example.org",
            with: With {
                extended: true,
                ..With::default()
            },
            id: "abc",
            recipient,
            tls: None,
            date: "Mon, 1 Jan 2024 00:00:00 +0000",
        }
    }

    #[test]
    fn names_all_parts() {
        let rcpt = "a b@example.org".parse::<Mailbox>();
        assert!(rcpt.is_err());
        let rcpt = "\"a b\"@example.org".parse::<Mailbox>().unwrap();
        assert_eq!(
            received(&trace("client.example", Some(&rcpt))),
            "Received: from client.example ([IPv6:2001:db8::1])\r\n\
             \tby mx.example.org with ESMTP id abc\r\n\
             \tfor <\"a b\"@example.org>;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
        );
        let mut named = trace("x", None);
        named.peer = "192.0.2.1".parse().unwrap();
        named.peer_name = Some("ptr.example");
        assert!(received(&named).starts_with("Received: from x (ptr.example [192.0.2.1])\r\n\tby"));
        assert!(!received(&named).contains("for <"));
    }

    #[test]
    fn tls_has_its_clause() {
        let mut trace = trace("x", None);
        trace.with.tls = true;
        trace.tls = Some(Tls {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            group: Some("x25519"),
        });
        assert!(
            received(&trace).ends_with(
                " with ESMTPS id abc\r\n\ttls TLS_AES_256_GCM_SHA384 group x25519 (TLSv1.3);\r\n\t\
                 Mon, 1 Jan 2024 00:00:00 +0000\r\n"
            ),
            "{}",
            received(&trace)
        );
    }

    #[test]
    fn a_client_cannot_forge_parts() {
        let field = received(&trace("x (y) by z;\r\nSubject: a", None));
        assert!(
            field.starts_with("Received: from x??y??by?z???Subject:?a (["),
            "{field}"
        );
        assert_eq!(field.matches("\r\n").count(), field.matches('\n').count());
    }

    #[test]
    fn keywords_are_the_registered_ones() {
        let with = |extended, tls, authenticated, utf8| {
            With {
                extended,
                tls,
                authenticated,
                utf8,
            }
            .keyword()
        };
        assert_eq!(with(false, false, false, false), "SMTP");
        assert_eq!(with(true, false, false, false), "ESMTP");
        assert_eq!(with(true, true, false, false), "ESMTPS");
        assert_eq!(with(true, true, true, false), "ESMTPSA");
        assert_eq!(with(true, true, false, true), "UTF8SMTPS");
    }

    #[test]
    fn return_path_of_bounces_is_empty() {
        assert_eq!(return_path(&ReversePath::Null), "Return-Path: <>\r\n");
    }
}
