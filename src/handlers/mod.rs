//! The handlers, one file each, named as in YAML.
//!
//! A handler may assume nothing about the order of commands: the conversation replaces its acceptance by the fault that
//! the protocol demands. It must reach the outside only through [`crate::chain::Context`], and it must never write to the
//! client. It reads any note of others and writes only its own.
//!
//! A new handler is one file here (what it is for, notes, RFC; its settings with their defaults; the handler, or a
//! [`crate::chain::Answer`] where one reply is its whole work; its tests),
//! one line in [`crate::chain::registry`], one `config/NAME.yaml` that shows every default, and one section in
//! rsmtpd-handlers(7). `tests/handlers.rs` walks the registry and fails where one is missing or they differ.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod command_log;
pub mod data;
pub mod data_file;
pub mod delivery;
pub mod greeting;
pub mod hello;
pub mod help;
pub mod mail;
pub mod noop;
pub mod post_data_reset;
pub mod proxy;
pub mod quit;
pub mod recipient;
pub mod reject_all;
pub mod reset;
pub mod response_log;
pub mod starttls;
pub mod transaction_log;
pub mod undeliverable_notification_validator;
pub mod unknown_command;
pub mod verify;
