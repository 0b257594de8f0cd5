//! What both sides of a connection do with plaintext, and with what rustls has to send: octets in memory, no socket.

use std::io::{self, BufRead as _, Read as _, Write as _};

use rustls::ConnectionCommon;

/// Plaintext of the peer; none when there is none, 0 when it has said that it sends no more.
///
/// # Errors
/// The connection ended without a word (RFC 8446 §6.1).
pub(super) fn read<D>(connection: &mut ConnectionCommon<D>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match connection.reader().read(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is plaintext of the peer.
pub(super) fn is_there<D>(connection: &mut ConnectionCommon<D>) -> bool {
    let mut reader = connection.reader();
    reader.fill_buf().is_ok_and(|octets| !octets.is_empty())
}

/// Takes plaintext for the peer, and puts what is to be sent behind `out`; how much of it.
///
/// # Errors
/// None that is known.
pub(super) fn write<D>(connection: &mut ConnectionCommon<D>, octets: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
    let taken = connection.writer().write(octets)?;
    collect(connection, out);
    Ok(taken)
}

/// Puts what is to be sent behind `out`.
pub(super) fn collect<D>(connection: &mut ConnectionCommon<D>, out: &mut Vec<u8>) {
    while connection.wants_write() {
        // Memory takes everything.
        if connection.write_tls(out).is_err() {
            return;
        }
    }
}
