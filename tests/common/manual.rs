//! What the manual says of the log.

use std::collections::BTreeMap;
use std::fs;

const LEVELS: [&str; 6] = ["critical", "error", "warning", "notice", "info", "debug"];

/// The events of rsmtpd(8) by name, each with its level and the other ones that its text names.
pub fn events() -> BTreeMap<String, Vec<String>> {
    let page = fs::read_to_string(super::root().join("man/rsmtpd.8")).expect("the manual");
    let section = page.split("\n.Ss Events\n").nth(1).expect("the section of events");
    let section = section.split("\n.Sh ").next().unwrap_or_default();
    let mut events = BTreeMap::new();
    for item in section.split("\n.It Cm ").skip(1) {
        let (head, text) = item.split_once('\n').unwrap_or((item, ""));
        let (name, level) = head.split_once(" Pq ").expect("an event and its level");
        assert!(LEVELS.contains(&level), "{name}: level {level}");
        let words = text.split(|c: char| !c.is_alphabetic());
        let named = words.filter(|word| LEVELS.contains(word));
        let levels = std::iter::once(level).chain(named).map(str::to_owned).collect();
        assert!(
            events.insert(name.to_owned(), levels).is_none(),
            "{name} stands there twice"
        );
    }
    events
}
