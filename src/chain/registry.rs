//! The one list of handlers. Only this file names them.

use std::sync::Arc;

use super::directory::Directory;
use super::handler::{Facts, Handler};
use super::settings::Settings;
use crate::handlers;

/// What a handler is made of.
pub struct Material {
    /// Its settings; it asks for every key it knows.
    pub settings: Settings,
    /// Who exists.
    pub directory: Arc<dyn Directory>,
}

/// One handler that can be named in a chain.
#[derive(Clone, Copy)]
pub struct Registered {
    /// Who it is.
    pub facts: &'static Facts,
    /// Makes one; wrong settings are noted in the material.
    pub make: fn(&mut Material) -> Box<dyn Handler>,
}

macro_rules! registered {
    ($($module:ident)*) => {
        &[$(Registered { facts: &handlers::$module::FACTS, make: handlers::$module::make }),*]
    };
}

/// Every handler.
pub const HANDLERS: &[Registered] =
    registered![greeting hello mail recipient data delivery reset noop help verify quit unknown_command];

/// The handler with this id, class name, or `rsmtpd.handlers.` module name of the original.
pub fn find(name: &str) -> Option<&'static Registered> {
    let id = name.strip_prefix("rsmtpd.handlers.").unwrap_or(name);
    // The original's names for what is called otherwise here.
    let id = match id {
        "verify_attempt_delivery" | "VerifyAttemptDeliveryHandler" => "verify",
        "dovecot_delivery" | "DovecotDelivery" => "delivery",
        other => other,
    };
    HANDLERS.iter().find(|one| one.facts.id == id || one.facts.class == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for one in HANDLERS {
            assert_eq!(find(one.facts.id).map(|found| found.facts.id), Some(one.facts.id));
            assert_eq!(find(one.facts.class).map(|found| found.facts.id), Some(one.facts.id));
            assert_eq!(
                HANDLERS.iter().filter(|other| other.facts.id == one.facts.id).count(),
                1
            );
            assert!(!one.facts.about.is_empty() && !one.facts.decides.is_empty());
        }
        assert!(find("rsmtpd.handlers.greeting").is_some());
        assert!(find("nothing").is_none());
    }
}
