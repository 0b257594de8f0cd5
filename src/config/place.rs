//! Where something stands in a configuration file.

use std::sync::Arc;

use super::fault::Fault;
use super::load;

/// A file's name and its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// Where something stands in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub(super) source: Arc<Source>,
    pub(super) path: String,
    pub(super) serial: usize,
}

impl Place {
    /// A fault at this place; `message` says `expected …, found …`.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        let (line, column) = load::locate(&self.source.text, self.serial);
        Fault {
            file: self.source.name.clone(),
            line,
            column,
            key: self.path.clone(),
            message: message.into(),
        }
    }
}
