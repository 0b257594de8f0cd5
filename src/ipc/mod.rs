//! What our processes say to each other: one file a boundary, frames of `postcard` on `SOCK_SEQPACKET`.
//!
//! A frame is a packet, so it is read whole or not at all, and a descriptor rides with exactly its frame.
//! The types here carry no behaviour; whoever receives one checks every field before it acts on it.

mod bytes;
pub mod channel;
pub mod control;
pub mod delivery;
pub mod frame;
pub mod link;
pub mod log;

pub use channel::Channel;
