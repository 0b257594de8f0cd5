//! Handlers whose whole work is to record a part of the session: see [`super::record`].
//!
//! Such a handler is a type without values that says its facts and its part; [`Logging`] makes it a handler. It looks on
//! wherever it stands, and must never have an opinion, but where its records are required and lost.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use super::context::Context;
use super::directory::Directory;
use super::error::HandlerError;
use super::handler::{BodyReader, Facts, Handler, InVain, Kind};
use super::opinion::Outcome;
use super::record::{Config, Log, Which};
use crate::smtp::reply::Reply;

/// A part of every session that is recorded.
pub trait Logged: 'static {
    /// Who records it.
    const FACTS: &'static Facts;
    /// Which part.
    const WHICH: Which;
}

/// The handler that records the part `L`.
pub struct Logging<L> {
    log: Log,
    of: PhantomData<fn() -> L>,
}

impl<L: Logged> Kind for Logging<L> {
    type Settings = Config;
    const FACTS: &'static Facts = L::FACTS;

    fn new(config: Config, _: &Arc<dyn Directory>) -> Logging<L> {
        Logging {
            log: Log::new(L::WHICH, L::FACTS.id, config),
            of: PhantomData,
        }
    }
}

impl<L: Logged> Handler for Logging<L> {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        self.log.handle(context)
    }

    fn body(&self, context: &mut Context<'_>) -> Option<Box<dyn BodyReader>> {
        self.log.body(context)
    }

    fn concluded(&self, context: &mut Context<'_>, reply: Option<&Reply>) {
        self.log.concluded(context, reply);
    }

    fn shaken(&self, context: &mut Context<'_>) {
        self.log.shaken(context);
    }

    fn in_vain(&self) -> Option<InVain<'_>> {
        self.log.in_vain()
    }

    fn records(&self) -> Option<&Path> {
        self.log.directory()
    }
}
