//! Turning clients away when no worker can be had: 421, then the connection is closed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;

use crate::sys::socket;

/// Clients turned away in one go, so that the master's other duties have their turn.
const TURN: usize = 64;
const REPLY: &[u8] = b"421 4.3.2 Too many connections, try again later\r\n";

/// Refuses the clients that wait on `listener`; how many. Never waits for any of them.
pub fn all(listener: BorrowedFd<'_>) -> u64 {
    let mut count = 0;
    for _ in 0..TURN {
        let Ok((client, _)) = socket::accept(listener) else {
            break;
        };
        // Numbered as the sandbox allows it to be shut down; accepted without blocking.
        let Ok(client) = socket::move_fd_at_least(client, socket::FIRST_CONTROL) else {
            continue;
        };
        let mut client = TcpStream::from(client);
        let _ = client.write(REPLY);
        let _ = client.shutdown(Shutdown::Write);
        // What the client said already would make close(2) reset the connection and take the reply along.
        let _ = client.read(&mut [0; 1024]);
        count += 1;
    }
    count
}
