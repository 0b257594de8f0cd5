//! The one list of handlers. Only this file names them.

use std::sync::Arc;

use super::answer::Answering;
use super::directory::Directory;
use super::handler::{Facts, Handler, Kind};
use super::logging::Logging;
use super::settings::{Settings, overlay};
use crate::config::{Fault, HandlerName, Part};
use crate::handlers;

/// Every handler, in the order of the manual.
pub const HANDLERS: &[Registered] = &[
    registered::<Answering<handlers::greeting::Greeting>>(),
    registered::<handlers::hello::Hello>(),
    registered::<Answering<handlers::mail::Mail>>(),
    registered::<handlers::recipient::Recipient>(),
    registered::<Answering<handlers::data::Data>>(),
    registered::<handlers::delivery::Delivery>(),
    registered::<Answering<handlers::reset::Reset>>(),
    registered::<Answering<handlers::noop::Noop>>(),
    registered::<Answering<handlers::help::Help>>(),
    registered::<Answering<handlers::verify::Verify>>(),
    registered::<Answering<handlers::quit::Quit>>(),
    registered::<Answering<handlers::starttls::StartTls>>(),
    registered::<handlers::proxy::Proxy>(),
    registered::<handlers::unknown_command::UnknownCommand>(),
    registered::<handlers::reject_all::RejectAll>(),
    registered::<handlers::data_file::DataFile>(),
    registered::<handlers::post_data_reset::PostDataReset>(),
    registered::<Logging<handlers::transaction_log::TransactionLog>>(),
    registered::<Logging<handlers::command_log::CommandLog>>(),
    registered::<Logging<handlers::response_log::ResponseLog>>(),
    registered::<handlers::undeliverable_notification_validator::UndeliverableNotificationValidator>(),
];

/// One handler that can be named in a chain.
#[derive(Clone, Copy)]
pub struct Registered {
    /// Who it is.
    pub facts: &'static Facts,
    make: fn(&Material<'_>, &mut Vec<Fault>) -> Box<dyn Handler>,
    keys: fn() -> Vec<&'static str>,
    says_default: fn(&Part, &mut Vec<Fault>) -> bool,
}

/// What a handler is made of.
pub struct Material<'a> {
    /// Its file.
    pub file: Option<&'a Part>,
    /// Settings of the entry, over those of the file.
    pub with: Option<&'a Part>,
    /// Whether the chain has the original's form.
    pub original: bool,
    /// Who exists.
    pub directory: &'a Arc<dyn Directory>,
}

const fn registered<K: Kind>() -> Registered {
    Registered {
        facts: K::FACTS,
        make: make::<K>,
        keys: keys::<K::Settings>,
        says_default: says_default::<K::Settings>,
    }
}

fn make<K: Kind>(material: &Material<'_>, faults: &mut Vec<Fault>) -> Box<dyn Handler> {
    let mut settings = K::Settings::default();
    if material.original {
        settings.as_original();
    }
    for part in [material.file, material.with].into_iter().flatten() {
        overlay(&mut settings, part, faults);
    }
    Box::new(K::new(settings, material.directory))
}

fn keys<S: Settings>() -> Vec<&'static str> {
    match Part::parse("", "") {
        Ok(empty) => overlay(&mut S::default(), &empty, &mut Vec::new()),
        Err(_) => Vec::new(),
    }
}

fn says_default<S: Settings>(part: &Part, faults: &mut Vec<Fault>) -> bool {
    let mut settings = S::default();
    overlay(&mut settings, part, faults);
    settings == S::default()
}

impl Registered {
    /// Makes one; what is wrong with its settings goes to `faults`.
    pub fn make(&self, material: &Material<'_>, faults: &mut Vec<Fault>) -> Box<dyn Handler> {
        (self.make)(material, faults)
    }

    /// The keys of its settings; none for a handler without any.
    pub fn keys(&self) -> Vec<&'static str> {
        (self.keys)()
    }

    /// Whether a settings file says nothing but the defaults; what is wrong with it goes to `faults`.
    pub fn says_default(&self, part: &Part, faults: &mut Vec<Fault>) -> bool {
        (self.says_default)(part, faults)
    }
}

/// What the configuration must know of each handler, in the order of the list.
pub fn names() -> Vec<HandlerName> {
    HANDLERS
        .iter()
        .map(|one| HandlerName {
            id: one.facts.id,
            module: one.facts.module,
            class: one.facts.class,
            has_settings: !one.keys().is_empty(),
        })
        .collect()
}

/// The handler with this id.
pub fn find(id: &str) -> Option<&'static Registered> {
    HANDLERS.iter().find(|one| one.facts.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for one in HANDLERS {
            let facts = one.facts;
            assert_eq!(find(facts.id).map(|found| found.facts.id), Some(facts.id));
            let same = |other: &&Registered| {
                let other = other.facts;
                other.id == facts.id || other.class == facts.class
            };
            assert_eq!(HANDLERS.iter().filter(same).count(), 1, "{}", facts.id);
            assert!(!facts.about.is_empty() && !facts.decides.is_empty());
        }
        assert!(find("nothing").is_none());
    }

    #[test]
    fn keys_are_those_that_are_read() {
        let keys = |id| find(id).map(Registered::keys);
        assert_eq!(
            keys("hello"),
            Some(vec!["message", "advertise_pipelining_extension", "look_up"])
        );
        assert_eq!(keys("delivery"), Some(vec![]));
    }

    /// Module, class and ours; none for those that there is no handler for yet.
    const ORIGINAL: &[(&str, &str, Option<&str>)] = &[
        ("greeting", "GreetingHandler", Some("greeting")),
        ("hello", "HelloHandler", Some("hello")),
        ("starttls", "StartTLS", Some("starttls")),
        ("mail", "MailHandler", Some("mail")),
        ("recipient", "RecipientHandler", Some("recipient")),
        (
            "verify_attempt_delivery",
            "VerifyAttemptDeliveryHandler",
            Some("verify"),
        ),
        ("verify_attempt_delivery", "VerifyAttemptDelivery", Some("verify")),
        ("data", "DataHandler", Some("data")),
        ("data_file", "DataToFileDataHandler", Some("data_file")),
        ("dovecot_delivery", "DovecotDelivery", Some("delivery")),
        ("post_data_reset", "PostDataResetDataHandler", Some("post_data_reset")),
        ("reset", "ResetHandler", Some("reset")),
        ("quit", "Quit", Some("quit")),
        ("unknown_command", "UnknownCommand", Some("unknown_command")),
        ("reject_all", "RejectAll", Some("reject_all")),
        ("proxy", "Proxy", Some("proxy")),
        ("transaction_log", "TransactionLog", Some("transaction_log")),
        ("transaction_log", "CommandLog", Some("command_log")),
        ("transaction_log", "ResponseLog", Some("response_log")),
        (
            "undeliverable_notification_validator",
            "UndeliverableNotificationValidator",
            Some("undeliverable_notification_validator"),
        ),
        ("spf_validator", "SpfValidator", None),
        ("domain_validator", "DomainValidator", None),
        ("external_content_filter", "ExternalContentFilter", None),
    ];

    #[test]
    fn every_handler_of_the_original_is_known_by_its_name_there() {
        for (module, class, ours) in ORIGINAL {
            let text = format!("NOOP:\n  - module: rsmtpd.handlers.{module}\n    class: {class}\n");
            let mut faults = Vec::new();
            let file = crate::config::ChainFile::parse("c.yaml", &text, &names(), &mut faults).expect("YAML");
            let known = file.entries("NOOP").and_then(|entries| entries.first());
            assert_eq!(known.map(|entry| entry.handler), *ours, "{module} {class}");
            assert_eq!(faults, [], "{module} {class}");
        }
    }
}
