//! What a handler says of one step: its outcome, or that it could not do its work.

use super::effect::Effect;
use crate::session::{At, Verdict};
use crate::smtp::reply::Reply;

/// A symbol with a value: what a handler found, whatever is decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Name of the symbol.
    pub symbol: &'static str,
    /// Its value, or the error.
    pub value: String,
    /// Weight for scoring.
    pub score: f64,
    /// Whether `value` says why nothing could be found out.
    pub error: bool,
}

/// What a handler returns.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// What it wants to become of the command.
    pub verdict: Verdict,
    /// When that may bite.
    pub at: At,
    /// The reply that goes with it.
    pub reply: Option<Reply>,
    /// What it found.
    pub evidence: Vec<Evidence>,
    /// What else is to happen.
    pub effects: Vec<Effect>,
}

impl Outcome {
    /// No opinion.
    pub fn none() -> Outcome {
        Outcome::default()
    }

    /// Go on, with this reply.
    pub fn accept(reply: Reply) -> Outcome {
        Outcome {
            verdict: Verdict::Accept,
            reply: Some(reply),
            ..Outcome::default()
        }
    }

    /// Refuse for good.
    pub fn reject(reply: Reply) -> Outcome {
        Outcome {
            verdict: Verdict::Reject,
            reply: Some(reply),
            ..Outcome::default()
        }
    }

    /// Refuse for now.
    pub fn defer(reply: Reply) -> Outcome {
        Outcome {
            verdict: Verdict::Defer,
            reply: Some(reply),
            ..Outcome::default()
        }
    }

    /// Adds an effect.
    #[must_use]
    pub fn with(mut self, effect: Effect) -> Outcome {
        self.effects.push(effect);
        self
    }

    /// Adds evidence.
    #[must_use]
    pub fn evidence(mut self, symbol: &'static str, value: impl Into<String>, score: f64) -> Outcome {
        self.evidence.push(Evidence {
            symbol,
            value: value.into(),
            score,
            error: false,
        });
        self
    }
}
