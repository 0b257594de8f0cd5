//! Handlers whose whole work is one configured reply: a code, and a text that `message` in YAML says.
//!
//! Such a handler is a type without values that says its facts and its reply; [`Answering`] makes it a handler. What needs
//! to look at the session, or has more settings, is a [`Handler`] of its own.

use std::marker::PhantomData;
use std::sync::Arc;

use super::context::Context;
use super::directory::Directory;
use super::error::HandlerError;
use super::handler::{Facts, Handler, Kind};
use super::opinion::Outcome;
use super::settings::Settings;
use crate::config::{Field, Section};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;

/// A reply that is always the same but for its text.
pub trait Answer: 'static {
    /// Who gives it.
    const FACTS: &'static Facts;
    /// Its code and enhanced status code.
    const REPLY: (u16, Option<Status>);
    /// Its text, unless `message` says another.
    const MESSAGE: &'static str;

    /// Lines behind the first.
    fn more(context: &Context<'_>) -> Vec<String> {
        let _ = context;
        Vec::new()
    }
}

/// Settings of such a handler: the text.
#[derive(Debug, Clone)]
pub struct Text<A> {
    message: String,
    of: PhantomData<fn() -> A>,
}

impl<A: Answer> Default for Text<A> {
    fn default() -> Text<A> {
        Text {
            message: A::MESSAGE.to_owned(),
            of: PhantomData,
        }
    }
}

impl<A> PartialEq for Text<A> {
    fn eq(&self, other: &Text<A>) -> bool {
        self.message == other.message
    }
}

impl<A: Answer> Settings for Text<A> {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
    }
}

/// The handler that gives the answer `A`.
pub struct Answering<A>(Text<A>);

impl<A: Answer> Kind for Answering<A> {
    type Settings = Text<A>;
    const FACTS: &'static Facts = A::FACTS;

    fn new(text: Text<A>, _: &Arc<dyn Directory>) -> Answering<A> {
        Answering(text)
    }
}

impl<A: Answer> Handler for Answering<A> {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        let (code, status) = A::REPLY;
        let mut reply = Reply::new(code, status, context.expand(&self.0.message));
        reply.lines.extend(A::more(context));
        Ok(Outcome::accept(reply))
    }
}
