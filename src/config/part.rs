//! Values out of configuration files that somebody else reads later, with what it takes to say where they stand.

use std::sync::Arc;

use super::fault::Fault;
use super::load::Node;
use super::place::Place;
use super::section::{Field, File};

/// A value out of a configuration file that is still to be read: the raw nodes, and where they stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Part {
    /// A whole file.
    ///
    /// # Errors
    /// It is no YAML document.
    pub fn parse(name: &str, text: &str) -> Result<Part, Fault> {
        let file = File::new(name, text.to_owned());
        let mut faults = Vec::new();
        match (file.parse(&mut faults), faults.pop()) {
            (_, Some(fault)) => Err(fault),
            (Some(node), None) => Ok(file.root(&node).part()),
            (None, None) => Err(file.root(&Node::default()).place().fault("expected valid YAML")),
        }
    }

    /// Reads the value; what is wrong with it goes to `faults`.
    pub fn read<T>(&self, faults: &mut Vec<Fault>, read: impl FnOnce(&Field<'_>) -> T) -> T {
        let file = File::over(Arc::clone(&self.place.source));
        let value = read(&file.field(self.place.path.clone(), &self.node));
        file.finish(faults, &mut Vec::new());
        value
    }
}

impl Field<'_> {
    /// The value, to be read later.
    pub fn part(&self) -> Part {
        Part {
            place: self.place(),
            node: self.node().clone(),
        }
    }
}
