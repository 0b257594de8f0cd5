//! The handlers, one file each, named as in YAML.
//!
//! A handler may assume nothing about the order of commands: the conversation replaces its acceptance by the fault that
//! the protocol demands. It must reach the outside only through [`crate::chain::Context`], and it must never write to the
//! client. It reads any note of others and writes only its own.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod data;
pub mod delivery;
pub mod greeting;
pub mod hello;
pub mod help;
pub mod mail;
pub mod noop;
pub mod quit;
pub mod recipient;
pub mod reset;
pub mod unknown_command;
pub mod verify;
