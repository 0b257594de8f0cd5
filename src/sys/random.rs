//! Random numbers of the kernel, asked for by number: nothing is set up at the first use that every forked process would
//! have to share, and nothing is looked for at run time, which a static program could not find.

use std::io;

/// A number of 64 random bits.
///
/// # Errors
/// What getrandom(2) says.
pub fn number() -> io::Result<u64> {
    let mut octets = [0_u8; 8];
    let filled = super::uninterrupted(|| {
        // SAFETY: the array is writable, as long as said, and lives through the call.
        let returned = unsafe { libc::syscall(libc::SYS_getrandom, octets.as_mut_ptr(), octets.len(), 0) };
        usize::try_from(returned).map_err(|_| io::Error::last_os_error())
    })?;
    // Up to 256 octets come whole (getrandom(2)).
    if filled == octets.len() {
        Ok(u64::from_ne_bytes(octets))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_all_their_bits_and_differ() {
        let numbers: Vec<u64> = (0..64).map(|_| number().unwrap()).collect();
        assert_eq!(numbers.iter().fold(0, |bits, number| bits | number), u64::MAX);
        assert_eq!(numbers.iter().fold(u64::MAX, |bits, number| bits & number), 0);
        assert_ne!(numbers.first(), numbers.last());
    }
}
