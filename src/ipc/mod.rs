//! What our processes say to each other: one file a boundary, frames of `postcard` on `SOCK_SEQPACKET`.
//!
//! A frame is a packet, so it is read whole or not at all, and a descriptor rides with exactly its frame.
//! The types of frames carry no behaviour; whoever receives one checks every field before it acts on it. One
//! boundary is no channel but a table in memory: [`sources`].

pub mod broker;
mod bytes;
pub mod channel;
pub mod control;
pub mod delivery;
pub mod frame;
pub mod keeper;
pub mod link;
pub mod log;
pub mod numbered;
pub mod record;
pub mod sources;

pub use channel::Channel;
