//! One JSON object (RFC 8259) an event, on one line of ASCII. Octets that are no UTF-8 are in base64 (RFC 4648 §4).

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::chain::context::Context;
use crate::chain::decision::Finding;
use crate::chain::opinion::Evidence;
use crate::chain::ports::BackEndTls;
use crate::session::{At, Exchange, Session};
use crate::smtp::line::LineEnding;
use crate::smtp::proxy_header::{Header, Subject, Version};
use crate::smtp::reply::Reply;

/// What every event of a session says of it.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    session: String,
    peer: String,
    /// Who is at the other end of the connection, where that is not the client.
    via: Option<String>,
    /// Whether XCLIENT said who the client is.
    xclient: bool,
    transaction: u32,
    /// Version, cipher suite and the name that the client asked for.
    tls: Option<(&'static str, String, Option<String>)>,
    /// Towards the server behind a proxy.
    back_end: Option<BackEndTls>,
}

impl Facts {
    pub(super) fn of(context: &Context<'_>) -> Facts {
        let session = context.session();
        Facts {
            session: session.id.clone(),
            peer: session.peer.to_string(),
            via: session.is_introduced().then(|| session.introduced.via.to_string()),
            xclient: session.introduced.attributes.is_some(),
            transaction: session.transaction.as_ref().map_or(0, |transaction| transaction.number),
            tls: session
                .tls
                .as_ref()
                .map(|tls| (tls.version, tls.cipher.clone(), tls.sni.clone())),
            back_end: context.back_end_tls().cloned(),
        }
    }
}

/// An object under construction.
struct Object(String);

impl Object {
    fn event(name: &str, facts: &Facts, at: i64) -> Object {
        let time = Timestamp::from_microsecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut object = Object::new();
        object.text("time", &time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
        object.text("event", name);
        object.text("session", &facts.session);
        object.text("peer", &facts.peer);
        if let Some(via) = &facts.via {
            object.text("via", via);
        }
        if facts.xclient {
            object.boolean("xclient", true);
        }
        if facts.transaction > 0 {
            object.number("tx", u64::from(facts.transaction));
        }
        if let Some((version, cipher, sni)) = &facts.tls {
            let mut tls = Object::new();
            tls.text("version", version);
            tls.text("cipher", cipher);
            tls.option("sni", sni.as_deref());
            object.raw("tls", &tls.end());
        }
        if let Some(agreed) = &facts.back_end {
            let mut tls = Object::new();
            tls.text("version", agreed.version);
            tls.text("cipher", &agreed.cipher);
            tls.option("group", agreed.group);
            tls.text("verified", agreed.verified);
            object.raw("back_end_tls", &tls.end());
        }
        object
    }

    fn new() -> Object {
        Object(String::from("{"))
    }

    fn key(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":");
    }

    fn raw(&mut self, name: &str, value: &str) {
        self.key(name);
        self.0.push_str(value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.raw(name, &value.to_string());
    }

    fn boolean(&mut self, name: &str, value: bool) {
        self.raw(name, if value { "true" } else { "false" });
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name);
        quote(&mut self.0, value);
    }

    fn option(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.raw(name, "null"),
        }
    }

    /// Under its name as text, or under `NAME_base64`.
    fn octets(&mut self, name: &str, value: &[u8]) {
        match std::str::from_utf8(value) {
            Ok(text) => self.text(name, text),
            Err(_) => self.base64(name, value),
        }
    }

    fn base64(&mut self, name: &str, value: &[u8]) {
        self.key(&format!("{name}_base64"));
        self.0.push('"');
        base64(&mut self.0, value);
        self.0.push('"');
    }

    fn list(&mut self, name: &str, values: impl Iterator<Item = String>) {
        self.raw(name, &format!("[{}]", values.collect::<Vec<_>>().join(",")));
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }

    fn line(self) -> Vec<u8> {
        let mut line = self.end();
        line.push('\n');
        line.into_bytes()
    }
}

fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len().saturating_add(2));
    quote(&mut out, value);
    out
}

fn quote(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

fn base64(out: &mut String, octets: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in octets.chunks(3) {
        let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for place in 0..4_usize {
            let digit = DIGITS.get((bits >> (18 - 6 * place)) as usize & 63).copied();
            out.push(if place > group.len() {
                '='
            } else {
                char::from(digit.unwrap_or(b'='))
            });
        }
    }
}

fn buffer(is_full: bool) -> &'static str {
    if is_full { "full" } else { "empty" }
}

/// The connection.
pub(super) fn open(facts: &Facts, context: &Context<'_>) -> Vec<u8> {
    let session = context.session();
    let mut object = Object::event("open", facts, context.now());
    object.text("local", &session.local.to_string());
    object.text("server_name", &session.server_name);
    object.text("buffer", buffer(super::talks_early(session)));
    if let Some(header) = &session.introduced.header {
        object.raw("proxy", &proxy(header));
    }
    object.line()
}

/// What came of a handshake, with the ClientHello as it came.
pub(super) fn tls(facts: &Facts, at: i64, session: &Session) -> Vec<u8> {
    let object = match (&session.tls, &session.tls_failure) {
        (Some(tls), None) => {
            let mut object = Object::event("tls", facts, at);
            object.option("group", tls.group);
            object.text("server_name", &tls.server_name);
            object.base64("hello", &tls.hello);
            object
        }
        (_, failure) => {
            let mut object = Object::event("tls_failed", facts, at);
            if let Some(failure) = failure {
                object.text("alert", &failure.alert);
                object.text("error", &failure.error);
                object.option("sni", failure.sni.as_deref());
                object.base64("hello", &failure.hello);
            }
            object
        }
    };
    object.line()
}

/// A PROXY header: its version, for whom it speaks, and what it says beside the addresses, in base64.
fn proxy(header: &Header) -> String {
    let mut object = Object::new();
    object.number("version", if header.version == Version::V1 { 1 } else { 2 });
    object.text(
        "for",
        match header.subject {
            Subject::Itself => "itself",
            Subject::Unknown => "unknown",
            Subject::Client { .. } => "client",
        },
    );
    if !header.values.is_empty() {
        object.base64("values", &header.values);
    }
    object.end()
}

/// A command.
pub(super) fn command(facts: &Facts, at: i64, exchange: &Exchange) -> Vec<u8> {
    let mut object = Object::event("command", facts, at);
    object.text("verb", exchange.command.verb.name());
    object.octets("line", &exchange.line);
    object.text(
        "ending",
        match exchange.ending {
            LineEnding::CrLf => "crlf",
            LineEnding::Lf => "lf",
        },
    );
    object.text("buffer", buffer(exchange.pipelined));
    if let Some(fault) = &exchange.fault {
        object.number("fault", u64::from(fault.code));
    }
    let oddities = exchange.command.oddities.iter();
    object.list("odd", oddities.map(|oddity| quoted(oddity.name())));
    object.line()
}

/// A reply, and what each handler found.
pub(super) fn reply(facts: &Facts, at: i64, context: &Context<'_>, reply: Option<&Reply>) -> Vec<u8> {
    let mut object = Object::event("reply", facts, at);
    if let Some(exchange) = context.exchange() {
        object.text("verb", exchange.command.verb.name());
    }
    match reply {
        Some(reply) => {
            object.number("code", u64::from(reply.code));
            if let Some(status) = reply.status {
                object.text("status", &status.to_string());
            }
            object.list("lines", reply.lines.iter().map(|line| quoted(line)));
        }
        None => object.raw("code", "null"),
    }
    object.list("findings", context.findings().iter().map(finding));
    object.line()
}

fn finding(finding: &Finding) -> String {
    let outcome = &finding.outcome;
    let mut object = Object::new();
    object.text("by", &finding.by);
    object.text("verdict", outcome.verdict.name());
    object.text(
        "at",
        match outcome.at {
            At::Now => "now",
            At::Mail => "mail",
            At::Rcpt => "rcpt",
            At::Data => "data",
            At::EndOfData => "end_of_data",
            At::Never => "never",
        },
    );
    object.boolean("enforced", finding.enforced);
    object.boolean("failed", finding.failed);
    object.list("evidence", outcome.evidence.iter().map(evidence));
    object.end()
}

fn evidence(evidence: &Evidence) -> String {
    let mut object = Object::new();
    object.text("symbol", evidence.symbol);
    object.text("value", &evidence.value);
    let score = if evidence.score.is_finite() {
        evidence.score
    } else {
        0.0
    };
    object.raw("score", &score.to_string());
    object.boolean("error", evidence.error);
    object.end()
}

/// A piece of a text as the client sent it, behind so many octets of it.
pub(super) fn data(facts: &Facts, at: i64, offset: u64, octets: &[u8]) -> Vec<u8> {
    let mut object = Object::event("data", facts, at);
    object.number("offset", offset);
    object.octets("text", octets);
    object.line()
}

/// The end of a text.
pub(super) fn end_of_data(facts: &Facts, context: &Context<'_>) -> Vec<u8> {
    let session = context.session();
    let mut object = Object::event("end_of_data", facts, context.now());
    let body = session
        .transaction
        .as_ref()
        .and_then(|transaction| transaction.body.as_ref());
    if let Some(body) = body {
        object.number("octets", body.octets);
        object.number("bare_lf", body.bare_lf);
        object.number("bare_cr", body.bare_cr);
        object.boolean("chunked", body.chunked);
    }
    object.line()
}

/// The end of the connection, with all that was odd about it.
pub(super) fn close(facts: &Facts, at: i64, context: &Context<'_>, reason: &str) -> Vec<u8> {
    let session: &Session = context.session();
    let counters = session.counters;
    let mut object = Object::event("close", facts, at);
    object.text("reason", reason);
    object.number("commands", u64::from(counters.commands));
    object.number("messages", u64::from(counters.messages));
    object.number("octets", counters.octets);
    object.number("errors", u64::from(counters.errors));
    let anomalies = session.anomalies.iter().map(|seen| {
        let mut object = Object::new();
        object.text("odd", seen.anomaly.name());
        object.number("command", u64::from(seen.command));
        object.number("tx", u64::from(seen.transaction));
        object.end()
    });
    object.list("anomalies", anomalies);
    object.line()
}
