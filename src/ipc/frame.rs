//! The codec of a frame: a version byte, then one `postcard` value, then nothing.
//!
//! Pure. Bytes come from a process that may be hostile. No input panics; a length that it claims is believed only as far
//! as there are bytes. What it holds may take more memory than it is long: a list of the shortest elements some tens of
//! times as much, and no more than [`MAXIMUM`] elements.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte of every frame. Both ends are one program, so another value means a broken peer.
pub const VERSION: u8 = 1;

/// The longest frame, version byte included.
pub const MAXIMUM: usize = 64 * 1024;

/// Why bytes are no frame, or a value cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No bytes at all.
    #[error("frame is empty")]
    Empty,
    /// The first byte is not [`VERSION`].
    #[error("frame has version {0}, not {VERSION}")]
    Version(u8),
    /// The rest is not one value of the expected type.
    #[error("frame is malformed")]
    Malformed,
    /// Bytes follow the value.
    #[error("frame has bytes behind its value")]
    Trailing,
    /// Longer than [`MAXIMUM`].
    #[error("frame is longer than 64 KiB")]
    TooLong,
}

/// The bytes of `value`.
///
/// # Errors
/// [`Fault::TooLong`] when they would exceed [`MAXIMUM`], [`Fault::Malformed`] when the value cannot be serialised.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    let bytes = postcard::to_extend(value, vec![VERSION]).map_err(|_| Fault::Malformed)?;
    if bytes.len() > MAXIMUM {
        return Err(Fault::TooLong);
    }
    Ok(bytes)
}

/// The value that `bytes` hold.
///
/// # Errors
/// Any [`Fault`]; the caller ends the channel.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    if bytes.len() > MAXIMUM {
        return Err(Fault::TooLong);
    }
    match bytes.split_first() {
        None => Err(Fault::Empty),
        Some((&VERSION, content)) => match postcard::take_from_bytes(content) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(Fault::Trailing),
            Err(_) => Err(Fault::Malformed),
        },
        Some((&version, _)) => Err(Fault::Version(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::delivery::{Body, Commit, Disposition, FromDelivery, Recipient, ToDelivery};
    use proptest::prelude::*;

    fn commit(body: Vec<u8>) -> ToDelivery {
        ToDelivery::Commit(Commit {
            id: "7f00".into(),
            reverse_path: String::new(),
            recipients: vec![Recipient {
                original: "A@Example.org".into(),
                domain: "example.org".into(),
                mailbox: "a".into(),
                disposition: Disposition::Deliver,
            }],
            fields: b"Received: x\r\n".to_vec(),
            removed: vec!["X-Spam".into()],
            body: Body::Inline(body),
            smtputf8: false,
            received_at: 1,
            peer: "192.0.2.1:25".into(),
            helo: "x".into(),
        })
    }

    #[test]
    fn a_commit_survives_the_way_there() {
        let sent = commit(b"\0\r\n.\r\n\xff".to_vec());
        assert_eq!(decode::<ToDelivery>(&encode(&sent).unwrap()).unwrap(), sent);
    }

    #[test]
    fn what_is_no_frame_has_a_name() {
        let good = encode(&FromDelivery::Full).unwrap();
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(decode::<FromDelivery>(&longer), Err(Fault::Trailing));
        assert_eq!(decode::<FromDelivery>(&[]), Err(Fault::Empty));
        assert_eq!(decode::<FromDelivery>(&[VERSION]), Err(Fault::Malformed));
        assert_eq!(decode::<FromDelivery>(&[VERSION, 200]), Err(Fault::Malformed));
        let mut other = good;
        other[0] = 9;
        assert_eq!(decode::<FromDelivery>(&other), Err(Fault::Version(9)));
        assert_eq!(encode(&commit(vec![b'x'; MAXIMUM])).map(|_| ()), Err(Fault::TooLong));
        assert!(encode(&commit(vec![b'x'; 48 * 1024])).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ToDelivery>(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend_from_slice(&bytes);
            if let Ok(value) = decode::<ToDelivery>(&versioned) {
                prop_assert!(encode(&value).is_ok());
            }
        }
    }
}
