//! Settings of a handler: each keeps them in a struct of its own, whose defaults its YAML file and `with` override.

use crate::config::{Fault, Field, Part, Section};

/// The settings of one kind of handler. [`Default`] says the defaults, which its file in `config/` shows.
pub trait Settings: Default + PartialEq + 'static {
    /// Asks for every key there is; what is absent or wrong leaves its place as it was.
    fn read(&mut self, section: &Section<'_>);

    /// In a chain in the original's form: what the original did without being asked, where the default is otherwise.
    fn as_original(&mut self) {}
}

/// No settings, and so no file.
impl Settings for () {
    fn read(&mut self, _: &Section<'_>) {}
}

/// Lays what `part` says over `settings`; the keys it could have said.
pub(super) fn overlay<S: Settings>(settings: &mut S, part: &Part, faults: &mut Vec<Fault>) -> Vec<&'static str> {
    part.read(faults, |field: &Field<'_>| {
        let Some(section) = field.section() else {
            return Vec::new();
        };
        settings.read(&section);
        let known = section.known();
        section.finish();
        known
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Example {
        message: String,
        flag: bool,
    }

    impl Settings for Example {
        fn read(&mut self, section: &Section<'_>) {
            section.read("message", &mut self.message, Field::reply);
            section.read("flag", &mut self.flag, Field::boolean);
        }
    }

    #[test]
    fn later_parts_go_over_earlier_ones_and_every_fault_is_found() {
        let (mut settings, mut faults) = (Example::default(), Vec::new());
        let file = Part::parse("a.yaml", "message: file\nflag: yes\n").unwrap();
        let with = Part::parse("b.yaml", "message: with\nodd: 1\nflag: perhaps\n").unwrap();
        assert_eq!(overlay(&mut settings, &file, &mut faults), ["message", "flag"]);
        assert_eq!(faults, []);
        overlay(&mut settings, &with, &mut faults);
        let expected = Example {
            message: "with".into(),
            flag: true,
        };
        assert_eq!(settings, expected);
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "b.yaml:2:1: odd: expected message or flag, found an unknown key",
                "b.yaml:3:7: flag: expected yes or no, found \"perhaps\""
            ]
        );
    }

    #[test]
    fn replies_are_short_lines_of_ascii() {
        for bad in ["\"a\\nb\"", "grüß", &"x".repeat(401), "[a]"] {
            let (mut settings, mut faults) = (Example::default(), Vec::new());
            let part = Part::parse("a.yaml", &format!("message: {bad}\n")).unwrap();
            overlay(&mut settings, &part, &mut faults);
            assert_eq!((settings, faults.len()), (Example::default(), 1), "{bad}");
        }
    }
}
