//! What a TLS server signs in a handshake, told from everything else: pure, over octets that may be hostile.
//!
//! A stolen door to the keeper must be no signing oracle: with it one can shake hands in our name while one holds it, and
//! sign nothing that outlives the handshake.

/// Octets of a random of client or server (RFC 5246 §7.4.1.2).
const RANDOM: usize = 32;
/// What stands before the hash in TLS 1.3, behind 64 spaces (RFC 8446 §4.4.3).
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";

/// Whether `message` is what a server signs in a CertificateVerify of TLS 1.3 or in a ServerKeyExchange of TLS 1.2.
pub fn is_of_a_handshake(message: &[u8]) -> bool {
    is_certificate_verify(message) || is_server_key_exchange(message)
}

/// RFC 8446 §4.4.3: 64 spaces, the context, a zero octet, the hash of the transcript.
fn is_certificate_verify(message: &[u8]) -> bool {
    let hash = message
        .strip_prefix(&[b' '; 64])
        .and_then(|rest| rest.strip_prefix(CONTEXT));
    hash.is_some_and(|hash| matches!(hash.len(), 32 | 48))
}

/// RFC 8422 §5.4: both randoms, then a named curve and a point on it.
fn is_server_key_exchange(message: &[u8]) -> bool {
    const NAMED_CURVE: u8 = 3;
    const UNCOMPRESSED: u8 = 4;
    let Some((_, [NAMED_CURVE, high, low, length, point @ ..])) = message.split_at_checked(2 * RANDOM) else {
        return false;
    };
    let fits = match u16::from_be_bytes([*high, *low]) {
        0x0017 => point.len() == 65 && point.first() == Some(&UNCOMPRESSED), // secp256r1
        0x0018 => point.len() == 97 && point.first() == Some(&UNCOMPRESSED), // secp384r1
        0x001d => point.len() == 32,                                         // x25519
        _ => false,
    };
    fits && usize::from(*length) == point.len()
}

#[cfg(test)]
mod tests {
    use super::is_of_a_handshake;

    fn verify(context: &[u8], hash: usize) -> Vec<u8> {
        [vec![b' '; 64], context.to_vec(), vec![0xa5; hash]].concat()
    }

    fn exchange(curve: u16, first: u8, length: usize) -> Vec<u8> {
        let [high, low] = curve.to_be_bytes();
        let mut point = vec![0xa5; length];
        point[0] = first;
        [vec![7; 64], vec![3, high, low, length as u8], point].concat()
    }

    #[test]
    fn what_a_handshake_signs_is_taken() {
        assert!(is_of_a_handshake(&verify(super::CONTEXT, 32)));
        assert!(is_of_a_handshake(&verify(super::CONTEXT, 48)));
        assert!(is_of_a_handshake(&exchange(0x17, 4, 65)));
        assert!(is_of_a_handshake(&exchange(0x18, 4, 97)));
        assert!(is_of_a_handshake(&exchange(0x1d, 9, 32)));
    }

    #[test]
    fn everything_else_is_not() {
        let client = b"TLS 1.3, client CertificateVerify\0";
        assert!(!is_of_a_handshake(&verify(client, 32)));
        assert!(!is_of_a_handshake(&verify(super::CONTEXT, 31)));
        assert!(!is_of_a_handshake(&verify(super::CONTEXT, 49)));
        assert!(!is_of_a_handshake(&verify(super::CONTEXT, 0)));
        assert!(!is_of_a_handshake(&verify(super::CONTEXT, 32)[1..]));
        assert!(!is_of_a_handshake(&exchange(0x17, 2, 65)));
        assert!(!is_of_a_handshake(&exchange(0x17, 4, 66)));
        assert!(!is_of_a_handshake(&exchange(0x19, 4, 133)));
        let mut lies = exchange(0x1d, 9, 32);
        lies[67] = 31;
        assert!(!is_of_a_handshake(&lies));
        assert!(!is_of_a_handshake(&[]));
        assert!(!is_of_a_handshake(b"-----BEGIN CERTIFICATE REQUEST-----"));
        assert!(!is_of_a_handshake(&[0x30; 300]));
    }
}
