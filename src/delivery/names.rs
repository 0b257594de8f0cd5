//! Names of directories and files from words that a client chose. Pure.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The longest path part in bytes.
pub const LONGEST: usize = 100;

/// One safe path part: lower case; anything but `a-z0-9._+=-` and a leading dot as `%XX`; what is longer than
/// [`LONGEST`] bytes then keeps its beginning and ends in `%h` and a hash (`%h` is no `%XX`, so the two never meet).
pub fn part(text: &str) -> String {
    let lower = text.to_lowercase();
    let mut encoded = String::with_capacity(lower.len());
    for (at, byte) in lower.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => encoded.push_str("%2E"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'=' | b'-' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if encoded.is_empty() {
        return "%".to_owned();
    }
    if encoded.len() <= LONGEST {
        return encoded;
    }
    let kept: String = encoded.chars().take(64).collect();
    format!(
        "{kept}%h{:016x}{:016x}",
        checksum_with(1, lower.as_bytes()),
        checksum_with(2, lower.as_bytes())
    )
}

/// Whether `id` may name a file: 1 to 80 letters, digits, `.`, `-`, `_`, no dot in front, not ending in `.body`.
pub fn is_id(id: &str) -> bool {
    (1..=80).contains(&id.len())
        && !id.starts_with('.')
        && !id.ends_with(".body")
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// The name of entry `number` of the same id, from 0.
pub fn entry(id: &str, number: u8) -> String {
    match number {
        0 => id.to_owned(),
        _ => format!("{id}.{number}"),
    }
}

/// Whether an entry may be called so: by an id, or by one and up to two digits, as [`entry`] names it.
pub fn is_entry(name: &str) -> bool {
    let digits = |digits: &str| (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_id(name)
        || name
            .rsplit_once('.')
            .is_some_and(|(id, number)| is_id(id) && digits(number))
}

/// Recognises damaged files; no defence against forgery.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    checksum_with(0, bytes)
}

fn checksum_with(key: u64, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key, 0x7273_6d74_7064);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_name_has_its_form() {
        for (text, expected) in [
            ("Alice", "alice"),
            ("a.b_c+d=e-f9", "a.b_c+d=e-f9"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../etc", "%2E.%2Fetc"),
            (".hidden", "%2Ehidden"),
            ("a/b", "a%2Fb"),
            ("a b", "a%20b"),
            ("a\0b\n", "a%00b%0A"),
            ("100%", "100%25"),
            ("%h", "%25h"),
            ("Ä", "%C3%A4"),
            ("[192.0.2.1]", "%5B192.0.2.1%5D"),
        ] {
            assert_eq!(part(text), expected, "{text:?}");
        }
        assert_eq!(part(&"x".repeat(100)), "x".repeat(100));
        assert_eq!(part(&"x".repeat(101)).len(), 64 + 2 + 32);
        assert_ne!(part(&"x".repeat(101)), part(&"x".repeat(102)));
    }

    #[test]
    fn only_tame_identifiers_name_files() {
        for good in ["a", "7F00-1.b_", &"x".repeat(80)] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &"x".repeat(81), "x.body"] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn entries_of_the_longest_id_have_names() {
        let id = "x".repeat(80);
        for number in 0..100 {
            assert!(is_entry(&entry(&id, number)), "{number}");
        }
        for bad in [
            ".1",
            "x.body",
            &format!("{id}."),
            &format!("{id}.100"),
            &format!("{id}.x"),
            &format!("{id}x.1"),
        ] {
            assert!(!is_entry(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_directory(text in any::<String>()) {
            let part = part(&text);
            prop_assert!(!part.is_empty() && part.len() <= LONGEST && !part.starts_with('.'));
            prop_assert!(part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
        }
    }
}
