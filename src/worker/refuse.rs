//! Turning a client away before the greeting: 421, then the connection is closed. Never waits for it.
//!
//! Nothing that the client says is looked at.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

/// The daemon has no room (RFC 3463: 4.3.2, system not accepting network messages).
pub const FULL: &[u8] = b"421 4.3.2 Too many connections, try again later\r\n";
/// The client's source has reached one of its limits.
pub const SOURCE: &[u8] = b"421 4.3.2 Too many connections from your network, try again later\r\n";
/// The listener is for proxies, and the client is none. Not for good: it may be the configuration that is wrong.
pub const NO_PROXY: &[u8] = b"421 4.3.2 This port serves proxies only\r\n";

/// Says `reply` to a client whose socket does not block and is numbered as the sandbox allows it to be shut down.
pub fn client(client: OwnedFd, reply: &[u8]) {
    let mut client = TcpStream::from(client);
    // A few octets always fit into the buffer of a new connection.
    let _ = client.write(reply);
    let _ = client.shutdown(Shutdown::Write);
    // What the client said already would make close(2) reset the connection and take the reply along.
    let _ = client.read(&mut [0; 1024]);
}
