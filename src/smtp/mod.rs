//! The Simple Mail Transfer Protocol of RFC 5321, seen from the receiving side.
//!
//! Everything in here is pure: bytes go in, events and values come out. It may assume
//! nothing about its input, and it must never read a clock, a file, a socket or a
//! configuration, never panic on what a client sends, and never end a message anywhere
//! but at CRLF.CRLF or at the last octet of a chunk.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod address;
mod chunk;
pub mod command;
mod data;
mod fault;
mod limits;
pub mod line;
pub mod params;
pub mod proxy_header;
pub mod receiver;
pub mod reply;
pub mod status;
pub mod trace;
pub mod transparency;
mod verb;
pub mod xclient;

pub use address::{AddressFault, Domain, ForwardPath, Mailbox, ReversePath};
pub use command::{Advertised, Arguments, Command, Fault, HelloKind, HelloName, Oddity, Verb, parse};
pub use data::BodyEnd;
pub use line::{CommandLine, LineEnding};
pub use params::{Body, MailParameters, Parameter};
pub use receiver::{Event, Limits, LineEndings, Receiver};
pub use reply::{Reply, ReplyFault};
pub use status::Status;
pub use trace::{Trace, With, received, return_path};
pub use transparency::Transparency;
