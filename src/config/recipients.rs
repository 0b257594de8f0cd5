//! Who receives mail here: a pure lookup, made from `simple_recipient_validator.yaml`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::watch::Stamp;
use crate::sys::memory::SealedOctets;

/// What a recipient is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Mail goes to these mailboxes, (domain in lower case, local part in the spelling of the configuration); never empty.
    Valid {
        /// One or, for an alias, several.
        deliver_to: Vec<(String, String)>,
    },
    /// Nobody, but taken for research and never delivered.
    Soft,
    /// Was somebody once.
    Disabled,
    /// Nobody, in a domain of ours.
    Unknown,
    /// Not a domain of ours.
    ForeignDomain,
}

/// All recipients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipients {
    /// Domains by their [`canonical`] form.
    pub(super) domains: BTreeMap<String, DomainRecipients>,
    /// The domain that stands first in the file, in its canonical form; `<Postmaster>` without a domain is its
    /// postmaster.
    pub(super) first_domain: Option<String>,
}

/// The recipients of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DomainRecipients {
    /// As configured, in lower case: the name in paths.
    pub(super) name: String,
    pub(super) allow_soft_delivery: bool,
    pub(super) tagging: Tagging,
    /// By local part in lower case.
    pub(super) recipients: HashMap<String, Recipient>,
    /// The entry `"*"`.
    pub(super) catch_all: Option<Recipient>,
    /// Of `recipients_file`.
    pub(super) list: Option<List>,
}

/// A list as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    /// The file's name.
    pub(super) file: String,
    /// The file as it was looked at before.
    pub(super) stamp: Option<Stamp>,
    pub(super) table: Table,
}

impl DomainRecipients {
    /// Of the list, the spelling of a local part in lower case.
    pub(super) fn listed(&self, local: &str) -> Option<&str> {
        self.list.as_ref()?.table.find(local)
    }
}

/// The lists that were read before, which those to read now may go on with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Earlier<'a> {
    /// Whose lists; those of files that have not changed are taken as they are.
    pub recipients: Option<&'a Recipients>,
    /// Whether large lists of files that have changed are as well. Reading a million names takes a quarter of a second:
    /// not each of many spares should do that for its one connection, while the master does it for all to come.
    pub may_be_old: bool,
}

/// Octets from which on a list is large.
const LARGE_LIST: i64 = 1 << 20;

impl Earlier<'_> {
    /// The list that may go on, if there is one, of this file for this domain; `stamp` is what the file is now.
    pub(super) fn list(&self, domain: &str, file: &str, stamp: Option<&Stamp>) -> Option<List> {
        let known = self.recipients?.domains.get(&canonical(domain))?.list.as_ref()?;
        let large = stamp.is_some_and(|stamp| stamp.size() >= LARGE_LIST);
        let goes_on = stamp.is_some() && (known.stamp.as_ref() == stamp || self.may_be_old && large);
        (known.file == file && goes_on).then(|| known.clone())
    }
}

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recipient {
    pub(super) enabled: bool,
    pub(super) tagging: Tagging,
    /// `deliver_to` was given.
    pub(super) alias: bool,
    pub(super) deliver_to: Vec<(String, String)>,
}

/// Whether and where a local part is cut (`user+tag`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tagging {
    pub(super) allow: bool,
    /// The first of these found in the local part cuts at its first occurrence.
    pub(super) characters: String,
}

impl Tagging {
    /// The local part without its tag, when there is one and something before it.
    fn cut<'a>(&self, local: &'a str) -> Option<&'a str> {
        if !self.allow {
            return None;
        }
        let at = self.characters.chars().find_map(|character| local.find(character))?;
        local.get(..at).filter(|rest| !rest.is_empty())
    }
}

/// The form in which domains are compared: lower case, A-labels in the place of U-labels (RFC 5890 2.3.2.1). What is no
/// internationalized domain stays as it is, in lower case.
pub(super) fn canonical(domain: &str) -> String {
    if domain.is_ascii() {
        return domain.to_ascii_lowercase();
    }
    idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_lowercase())
}

impl Recipients {
    /// Looks a recipient up: `local` unquoted, `domain` empty for `<Postmaster>` alone. Case does not count, nor
    /// whether the domain has U-labels or A-labels (RFC 6531).
    ///
    /// Postmaster is valid in every domain, named or not (RFC 5321 4.5.1).
    pub fn lookup(&self, local: &str, domain: &str) -> Lookup {
        let local = local.to_lowercase();
        let known = match &self.first_domain {
            Some(first) if domain.is_empty() && local == "postmaster" => self.domains.get(first),
            _ => self.domains.get(&canonical(domain)),
        };
        let Some(domain) = known else {
            return Lookup::ForeignDomain;
        };
        domain.lookup(&local)
    }

    /// The configured spelling, in lower case, of a domain of ours.
    pub fn spelling(&self, domain: &str) -> Option<&str> {
        self.domains.get(&canonical(domain)).map(|domain| domain.name.as_str())
    }

    /// Who receives mail, for people, in the order of domains and names: at most `most` of them, and how many more there
    /// are. A catch-all is `*@domain`, a list is one with the number of its names.
    pub fn summary(&self, most: usize) -> String {
        let mut said = Vec::new();
        let mut more = 0;
        for domain in self.domains.values() {
            for (text, count) in domain.receivers(most - said.len().min(most)) {
                if text.is_empty() || said.len() == most {
                    more += count;
                } else {
                    said.push(text);
                }
            }
        }
        if more > 0 {
            return format!("{} and {more} more", said.join(", "));
        }
        said.join(", ")
    }

    /// The domain of `<Postmaster>` without one, as configured.
    pub fn first_domain(&self) -> Option<&str> {
        self.spelling(self.first_domain.as_deref()?)
    }
}

impl DomainRecipients {
    /// Who receives mail here, as text and how many that are; text for the first `most` entries alone. A domain that names
    /// nobody has its postmaster.
    fn receivers(&self, most: usize) -> Vec<(String, usize)> {
        let enabled = self.recipients.iter().filter(|(_, entry)| entry.enabled);
        let mut names: Vec<&str> = enabled.map(|(name, _)| name.as_str()).collect();
        let catch_all = self.catch_all.as_ref().is_some_and(|all| all.enabled);
        if names.is_empty() && !catch_all && self.list.is_none() {
            names.push("postmaster");
        }
        names.sort_unstable();
        let beyond = names.len().saturating_sub(most);
        names.truncate(most);
        let mut all: Vec<(String, usize)> = names.iter().map(|name| (format!("{name}@{}", self.name), 1)).collect();
        if beyond > 0 {
            all.push((String::new(), beyond));
        }
        if catch_all {
            all.push((format!("*@{}", self.name), 1));
        }
        if let Some(list) = &self.list {
            let count = list.table.len();
            all.push((format!("{count} of {} in {}", self.name, list.file), count));
        }
        all
    }

    /// `local` in lower case.
    fn lookup(&self, local: &str) -> Lookup {
        if let Some(found) = self.named(local, None) {
            return found;
        }
        if let Some(found) = self.tagged(local) {
            return found;
        }
        if local == "postmaster" {
            return Lookup::Valid {
                deliver_to: vec![(self.name.clone(), "postmaster".to_owned())],
            };
        }
        match &self.catch_all {
            Some(all) if all.enabled => Lookup::Valid {
                deliver_to: all.deliver_to.clone(),
            },
            _ if self.allow_soft_delivery => Lookup::Soft,
            _ => Lookup::Unknown,
        }
    }

    /// The configured spelling of a mailbox of its own, `local` in lower case.
    pub(super) fn spelling(&self, local: &str) -> Option<String> {
        match self.recipients.get(local) {
            Some(entry) if entry.alias => None,
            Some(entry) => entry.deliver_to.first().map(|(_, spelling)| spelling.clone()),
            None => self.listed(local).map(str::to_owned),
        }
    }

    /// An entry of this very name; with `tagged` only if the entry itself cuts that local part so.
    fn named(&self, local: &str, tagged: Option<&str>) -> Option<Lookup> {
        if let Some(entry) = self.recipients.get(local) {
            if tagged.is_some_and(|whole| entry.tagging.cut(whole) != Some(local)) {
                return None;
            }
            if !entry.enabled {
                return Some(Lookup::Disabled);
            }
            return Some(Lookup::Valid {
                deliver_to: entry.deliver_to.clone(),
            });
        }
        let spelling = self.listed(local)?;
        if tagged.is_some_and(|whole| self.tagging.cut(whole) != Some(local)) {
            return None;
        }
        Some(Lookup::Valid {
            deliver_to: vec![(self.name.clone(), spelling.to_owned())],
        })
    }

    /// An entry that the local part names by a tag, by the domain's rule or by an entry's own.
    fn tagged(&self, local: &str) -> Option<Lookup> {
        let cuts = local
            .char_indices()
            .filter(|(_, character)| is_tagging_character(*character));
        cuts.filter_map(|(at, _)| local.get(..at))
            .find_map(|base| self.named(base, Some(local)))
    }
}

/// Characters a tag may begin with: the specials of RFC 5322 3.2.3 atext.
pub(super) fn is_tagging_character(character: char) -> bool {
    "!#$%&'*+-/=?^_`{|}~".contains(character)
}

/// Tables of so many octets and more are worth a mapping of their own.
const LARGE: usize = 64 * 1024;

/// The order of names in lower case, for which no copies are made: there may be millions.
fn folded(a: &str, b: &str) -> std::cmp::Ordering {
    if a.is_ascii() && b.is_ascii() {
        let lower = |byte: u8| byte.to_ascii_lowercase();
        a.bytes().map(lower).cmp(b.bytes().map(lower))
    } else {
        a.to_lowercase().cmp(&b.to_lowercase())
    }
}

/// Local parts, one a line, sorted without regard to case: flat bytes, so that they can lie in memory that processes share.
#[derive(Clone)]
pub struct Table {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

impl Table {
    /// Sorts local parts into a table; of two that differ in case only the first one stays. None may contain a line feed.
    /// A large table lies in memory that forked processes share.
    pub fn new(mut names: Vec<&str>) -> Table {
        names.sort_by(|a, b| folded(a, b));
        names.dedup_by(|b, a| folded(a, b).is_eq());
        let mut text = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names {
            text.extend_from_slice(name.as_bytes());
            text.push(b'\n');
        }
        if text.len() >= LARGE
            && let Ok(shared) = SealedOctets::new(&text)
        {
            return Table {
                bytes: Arc::new(shared),
            };
        }
        Table { bytes: Arc::new(text) }
    }

    fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bytes().iter().filter(|byte| **byte == b'\n').count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The spelling of the table for a local part in lower case.
    pub fn find(&self, local: &str) -> Option<&str> {
        let mut rest = self.bytes();
        while !rest.is_empty() {
            let middle = rest.len() / 2;
            let start = rest
                .get(..middle)?
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let length = rest.get(start..)?.iter().position(|byte| *byte == b'\n')?;
            let name = std::str::from_utf8(rest.get(start..start + length)?).ok()?;
            match local.cmp(name.to_lowercase().as_str()) {
                std::cmp::Ordering::Equal => return Some(name),
                std::cmp::Ordering::Less => rest = rest.get(..start)?,
                std::cmp::Ordering::Greater => rest = rest.get(start + length + 1..)?,
            }
        }
        None
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} octets)", self.bytes().len())
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Table {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_the_same_in_every_form_and_case() {
        for (one, other) in [
            ("Example.COM", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "XN--bcher-KVA.Example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("bu\u{308}cher.example", "bücher.example"), // composed or not
        ] {
            assert_eq!(canonical(one), canonical(other));
        }
        assert_ne!(canonical("straße.example"), canonical("strasse.example"));
        // what is no IDN is compared as it stands
        assert_eq!(canonical("_a.Example"), "_a.example");
    }

    #[test]
    fn a_table_finds_each_name_and_no_other() {
        for count in 0..40 {
            let names: Vec<String> = (0..count).map(|number| format!("User{}", number * 7 % 41)).collect();
            let table = Table::new(names.iter().map(String::as_str).collect());
            for name in &names {
                assert_eq!(table.find(&name.to_lowercase()), Some(name.as_str()), "{count}");
            }
            for other in ["", "a", "user", "user0a", "user99", "zzz"] {
                assert_eq!(table.find(other), None, "{count} {other}");
            }
        }
    }

    #[test]
    fn of_two_that_differ_in_case_the_first_stays() {
        let table = Table::new(vec!["b", "A", "a", "ß", "ΑΣ", "B"]);
        assert_eq!(table.bytes(), "A\nb\nß\nΑΣ\n".as_bytes());
        assert_eq!(table.find(&"ΑΣ".to_lowercase()), Some("ΑΣ"));
    }

    #[test]
    fn a_large_table_finds_each_name_as_a_small_one_does() {
        let names: Vec<String> = (0..20_000)
            .map(|number| format!("User.{:05}", number * 7919 % 20_011))
            .collect();
        let table = Table::new(names.iter().map(String::as_str).collect());
        assert!(table.bytes().len() > LARGE);
        assert!(names.iter().all(|name| table.find(&name.to_lowercase()) == Some(name)));
        assert_eq!(table.find("user.99999"), None);
    }

    #[test]
    fn a_table_of_any_bytes_never_panics() {
        for bytes in [&b"no line feed"[..], b"\n\n\n", b"\xff\xfe\n", b"a\n\xff\nz\n"] {
            let table = Table {
                bytes: Arc::new(bytes.to_vec()),
            };
            assert_eq!(table.find("m"), None);
        }
    }
}
