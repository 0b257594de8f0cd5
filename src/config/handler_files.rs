//! `greeting.yaml`, `hello.yaml`: settings of single handlers, under the file names of the Python original.

use super::section::Field;

/// The settings of one entry of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// The handler has none; `recipient` reads [`Configuration::recipients`](super::Configuration::recipients).
    None,
    /// Of `greeting`.
    Greeting(Greeting),
    /// Of `hello`.
    Hello(Hello),
}

/// `greeting.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// `message`: text after 220, with response variables. Default `<server_name> RSMTPD v<version> service ready`.
    pub message: String,
}

impl Default for Greeting {
    fn default() -> Greeting {
        Greeting {
            message: "<server_name> RSMTPD v<version> service ready".to_owned(),
        }
    }
}

impl Greeting {
    /// Puts what the mapping says over what is there.
    pub(super) fn read(&mut self, root: &Field<'_>) {
        let Some(section) = root.section() else {
            return;
        };
        section.read("message", &mut self.message, message);
        section.finish();
    }
}

/// `hello.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// `message`: text of the first line after 250, with response variables. Default
    /// `Hello <client.advertised_name> (<client.ip> port <client.port>)`.
    pub message: String,
    /// `advertise_pipelining_extension`: offer PIPELINING (RFC 2920); it is understood anyway. Default yes.
    pub advertise_pipelining_extension: bool,
}

impl Default for Hello {
    fn default() -> Hello {
        Hello {
            message: "<server_name> Hello <client.advertised_name> (<client.ip> port <client.port>)".to_owned(),
            advertise_pipelining_extension: true,
        }
    }
}

impl Hello {
    /// Puts what the mapping says over what is there.
    pub(super) fn read(&mut self, root: &Field<'_>) {
        let Some(section) = root.section() else {
            return;
        };
        section.read("message", &mut self.message, message);
        section.read(
            "advertise_pipelining_extension",
            &mut self.advertise_pipelining_extension,
            Field::boolean,
        );
        section.finish();
    }
}

/// Reply text: one line that leaves room for variables within 512 octets (RFC 5321 4.5.3.1.5).
fn message(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if text.len() > 400 {
        field.fault(format!("expected at most 400 octets, found {}", text.len()));
        return None;
    }
    Some(text)
}
