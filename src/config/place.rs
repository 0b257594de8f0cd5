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
    /// That of an option of the command line, `--user` say: no file has it.
    pub(super) fn option(name: &str) -> Place {
        let (name, path) = ("command line".to_owned(), name.to_owned());
        let (source, serial) = (
            Arc::new(Source {
                name,
                text: String::new(),
            }),
            0,
        );
        Place { source, path, serial }
    }

    /// A fault at this place; `message` says `expected …, found …`.
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        let (line, column) = if self.source.text.is_empty() {
            (0, 0)
        } else {
            load::locate(&self.source.text, self.serial)
        };
        Fault {
            file: self.source.name.clone(),
            line,
            column,
            key: self.path.clone(),
            message: message.into(),
        }
    }
}
