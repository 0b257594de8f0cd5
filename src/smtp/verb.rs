//! The verbs of SMTP (RFC 5321 §4.1.1 and extensions): a word to a value, in any case.

use std::fmt;

/// The word that begins a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth,
    Etrn,
    Turn,
    Xclient,
    /// Any other, in capitals, at most 64 characters.
    Other(String),
}

pub(super) const VERBS: [(Verb, &str); 17] = [
    (Verb::Helo, "HELO"),
    (Verb::Ehlo, "EHLO"),
    (Verb::Mail, "MAIL"),
    (Verb::Rcpt, "RCPT"),
    (Verb::Data, "DATA"),
    (Verb::Bdat, "BDAT"),
    (Verb::Rset, "RSET"),
    (Verb::Noop, "NOOP"),
    (Verb::Quit, "QUIT"),
    (Verb::Vrfy, "VRFY"),
    (Verb::Expn, "EXPN"),
    (Verb::Help, "HELP"),
    (Verb::StartTls, "STARTTLS"),
    (Verb::Auth, "AUTH"),
    (Verb::Etrn, "ETRN"),
    (Verb::Turn, "TURN"),
    (Verb::Xclient, "XCLIENT"),
];

impl Verb {
    /// The verb in capitals.
    pub fn name(&self) -> &str {
        match self {
            Verb::Other(name) => name,
            known => VERBS
                .iter()
                .find(|(verb, _)| verb == known)
                .map_or("", |(_, name)| name),
        }
    }

    pub(super) fn read(word: &[u8]) -> Verb {
        for (verb, name) in &VERBS {
            if word.eq_ignore_ascii_case(name.as_bytes()) {
                return verb.clone();
            }
        }
        let shown = word.get(..64).unwrap_or(word);
        Verb::Other(String::from_utf8_lossy(shown).to_ascii_uppercase())
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
