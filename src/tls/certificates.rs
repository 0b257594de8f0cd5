//! Which certificate a client is shown: by the labels of the name it asks for, and by what it can verify.

use std::ops::Deref;
use std::sync::Arc;

use crate::ipc::keeper::Certificate;

/// The certificates of one generation of the configuration, in its order. Workers borrow them: to count one more owner
/// they would have to write where they share a huge page with their master, and split it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates(Arc<[Certificate]>);

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates(Arc::new([]))
    }
}

impl From<Vec<Certificate>> for Certificates {
    fn from(all: Vec<Certificate>) -> Certificates {
        Certificates(all.into())
    }
}

impl Deref for Certificates {
    type Target = [Certificate];

    fn deref(&self) -> &[Certificate] {
        &self.0
    }
}

impl Certificates {
    /// The first certificate for `name` of those that fit the client, by its position. Where there is none for the name,
    /// or no name, it is one of the default: the first in the list, and others for the same domain and server.
    pub fn choose(&self, name: Option<&str>, fits: impl Fn(&Certificate) -> bool) -> Option<usize> {
        let default = self.first()?;
        let named = |one: &Certificate| name.is_some_and(|name| is_for(&one.domain_match, name));
        let is_default =
            |one: &Certificate| (&one.domain_match, &one.server_name) == (&default.domain_match, &default.server_name);
        let of_name = self.iter().position(|one| named(one) && fits(one));
        of_name.or_else(|| self.iter().position(|one| is_default(one) && fits(one)))
    }
}

/// Whether a `domain_match` covers `name`: label by label from the end. With a dot in front at least one more label is
/// needed.
fn is_for(domain: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let (domain, below) = match domain.strip_prefix('.') {
        Some(domain) => (domain, true),
        None => (domain, false),
    };
    let mut labels = name.rsplit('.');
    let covered = domain
        .rsplit('.')
        .all(|wanted| labels.next().is_some_and(|label| label.eq_ignore_ascii_case(wanted)));
    covered && (!below || labels.next().is_some_and(|label| !label.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(domain_match: &str, server_name: &str, algorithm: u8) -> Certificate {
        Certificate {
            domain_match: domain_match.into(),
            server_name: server_name.into(),
            key: [algorithm; 32],
            algorithm,
            schemes: Vec::new(),
            chain: Vec::new(),
        }
    }

    #[test]
    fn names_match_by_label() {
        for (domain, name, expected) in [
            (".example.net", "mail.example.net", true),
            (".example.net", "a.b.EXAMPLE.net", true),
            (".example.net", "mail.example.net.", true),
            (".example.net", "example.net", false),
            (".example.net", ".example.net", false),
            (".example.net", "evil.example.net.attacker.org", false),
            (".example.net", "badexample.net", false),
            (".example.net", "net", false),
            ("example.net", "example.net", true),
            ("example.net", "mail.example.net", true),
            ("example.net", "badexample.net", false),
            ("mail.example.net", "example.net", false),
            ("mail.example.net", "", false),
        ] {
            assert_eq!(is_for(domain, name), expected, "{domain} {name}");
        }
    }

    #[test]
    fn the_first_that_fits_is_shown_and_the_default_to_all_others() {
        let all = Certificates::from(vec![
            certificate(".example.com", "mail.example.com", 3),
            certificate(".example.net", "mail.example.net", 3),
            certificate(".example.com", "mail.example.com", 1),
            certificate(".example.net", "mail.example.net", 1),
        ]);
        let any = |_: &Certificate| true;
        let rsa = |one: &Certificate| one.algorithm == 1;
        assert_eq!(all.choose(None, any), Some(0));
        assert_eq!(all.choose(None, rsa), Some(2));
        assert_eq!(all.choose(Some("mx.example.net"), any), Some(1));
        assert_eq!(all.choose(Some("mx.example.net"), rsa), Some(3));
        assert_eq!(all.choose(Some("evil.example.net.attacker.org"), any), Some(0));
        assert_eq!(all.choose(Some("mx.example.org"), rsa), Some(2));
        assert_eq!(all.choose(None, |_| false), None);
        assert_eq!(Certificates::default().choose(None, any), None);
    }
}
