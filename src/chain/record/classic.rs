//! The original's form: `> TIME [buffer: empty|full] COMMAND` and `< REPLY`, lines ended by CRLF, texts as they are.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::chain::context::Context;
use crate::session::{Exchange, Session};
use crate::smtp::reply::Reply;

/// `YYYYMMDDTHHMMSS-ADDRESS-SESSION.log`, in local time.
pub(super) fn file_name(session: &Session, zone: &TimeZone) -> String {
    let began = timestamp(session.began).to_zoned(zone.clone());
    let (time, address) = (began.strftime("%Y%m%dT%H%M%S"), session.peer.ip());
    format!("{time}-{address}-{}.log", session.id)
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// UTC with microseconds and without a zone.
fn time(micros: i64) -> String {
    timestamp(micros).strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

fn buffer(is_full: bool) -> &'static str {
    if is_full { "full" } else { "empty" }
}

/// The connection, as the pseudo command that it is in chains.
pub(super) fn open(text: &mut Vec<u8>, context: &Context<'_>) {
    let early = super::talks_early(context.session());
    let (time, buffer) = (time(context.now()), buffer(early));
    text.extend(format!("> {time} [buffer: {buffer}] __OPEN__\r\n").as_bytes());
}

/// A command, octet by octet as it came.
pub(super) fn command(text: &mut Vec<u8>, at: i64, exchange: &Exchange) {
    let (time, buffer) = (time(at), buffer(exchange.pipelined));
    text.extend(format!("> {time} [buffer: {buffer}] ").as_bytes());
    let mut words = exchange.line.splitn(2, |octet| *octet == b' ');
    let verb = words.next().unwrap_or_default().trim_ascii();
    let argument = words.next().unwrap_or_default().trim_ascii();
    text.extend_from_slice(verb);
    if !argument.is_empty() {
        text.push(b' ');
        text.extend_from_slice(argument);
    }
    text.extend_from_slice(b"\r\n");
}

/// A reply as it was sent, with a time where it has one of its own.
pub(super) fn reply(text: &mut Vec<u8>, at: Option<i64>, reply: Option<&Reply>) {
    text.extend_from_slice(b"< ");
    if let Some(at) = at {
        text.extend(format!("{} ", time(at)).as_bytes());
    }
    match reply {
        Some(reply) => reply.to_wire(text),
        None => text.extend_from_slice(b"(No response)\r\n"),
    }
}

/// Behind the text of a message.
pub(super) fn end_of_data(text: &mut Vec<u8>, at: i64) {
    text.extend(format!("\r\n< {} End of DATA\r\n", time(at)).as_bytes());
}
