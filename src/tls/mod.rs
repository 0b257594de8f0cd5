//! TLS towards clients (RFC 3207, RFC 8314): versions 1.2 and 1.3, without session tickets, with keys that the keeper has.
//!
//! Everything here is octets in, octets out: the socket is the owner's. It may assume that certificates come from the
//! keeper. It must never hold a private key, and never show a certificate for a name that is not its own but the default.

pub mod certificates;
mod key;
pub mod server;

pub use certificates::Certificates;
pub use server::{Failure, Server};

/// Has the library look at the processor, which is slow, once for all processes that are forked from this one.
pub fn prepare() {
    ring::digest::digest(&ring::digest::SHA256, b"");
}
