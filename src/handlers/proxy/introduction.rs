//! Tells the back end who the client is, by XCLIENT where it takes that.
//!
//! The client's own EHLO asks for it, so that a back end without XCLIENT costs no round trip more; any other command has
//! to wait for an EHLO of ours. It may assume nothing about what the client said, and nothing about XCLIENT before
//! the back end has answered an EHLO: only then it must call a connection introduced.

use super::{failed, keyword};
use crate::chain::{Context, HandlerError};
use crate::smtp::reply::Reply;
use crate::smtp::xclient;

/// How the back end learned who the client is.
pub(super) enum Introduction {
    /// By XCLIENT; it has forgotten what it was told before.
    Made,
    /// It takes no XCLIENT: to it the client is who we are.
    None,
    /// It did not want to know now, and does not know.
    Later(Reply),
}

/// Tells the back end who the client is, before anything of the client's gets there.
pub(super) fn introduce(context: &mut Context<'_>) -> Result<Introduction, HandlerError> {
    let line = format!("EHLO {}", context.session().server_name);
    let reply = context.back_end().command(line.as_bytes()).map_err(failed)?;
    match reply.code {
        250 => introduce_after(context, &reply),
        // It has not said whether it takes XCLIENT.
        400..=499 => Ok(Introduction::Later(reply)),
        // It knows no EHLO, and so no XCLIENT (RFC 5321 §3.2).
        500 | 502 => {
            context.back_end().set_introduced();
            Ok(Introduction::None)
        }
        // It knows EHLO, and will not have it from us: who is served by XCLIENT all the same it has not said.
        code => Err(HandlerError::Failed(format!("back end: our EHLO was answered {code}"))),
    }
}

/// The same by what it answered to EHLO with 250.
fn introduce_after(context: &mut Context<'_>, hello: &Reply) -> Result<Introduction, HandlerError> {
    let Some(attributes) = attributes(hello) else {
        context.back_end().set_introduced();
        return Ok(Introduction::None);
    };
    let session = context.session();
    let line = xclient::write(session.peer, session.local, &attributes);
    let answer = context.back_end().command(line.as_bytes()).map_err(failed)?;
    match answer.code {
        200..=299 => {
            context.back_end().set_introduced();
            Ok(Introduction::Made)
        }
        // How much of it counts there now nobody knows: a new connection begins as nobody's.
        400..=499 => {
            context.back_end().give_up();
            Ok(Introduction::Later(answer))
        }
        // To go on as who we are would give the client the rights that we have there.
        code => Err(HandlerError::Failed(format!("back end: XCLIENT was answered {code}"))),
    }
}

/// What the client is answered to EHLO, which the back end has answered with `reply` before it knew of the client.
pub(super) fn hello(context: &mut Context<'_>, line: &[u8], reply: Reply) -> Result<Reply, HandlerError> {
    let introduction = match reply.code {
        250 => introduce_after(context, &reply)?,
        421 => return Ok(reply),
        // What the client calls itself, or calls itself here, may be wrong: that says nothing of XCLIENT.
        _ => introduce(context)?,
    };
    match introduction {
        Introduction::Made => context.back_end().command(line).map_err(failed),
        Introduction::None => Ok(reply),
        Introduction::Later(later) => Ok(later),
    }
}

/// The attributes that the back end takes with XCLIENT, in capitals; none where it takes no XCLIENT from us, or no address
/// by it, without which it knows no more than before.
fn attributes(hello: &Reply) -> Option<Vec<String>> {
    let line = hello.lines.iter().skip(1).find(|line| keyword(line) == "XCLIENT")?;
    let attributes: Vec<String> = line.split(' ').skip(1).map(str::to_ascii_uppercase).collect();
    attributes.iter().any(|name| name == "ADDR").then_some(attributes)
}
