//! Settings of a handler, read key by key: what nobody asked for, or what is wrong, becomes a fault with its key.
//!
//! A wrong value leaves the default in place, so that one reading finds every fault.

/// A value of a settings file or of an entry's `with`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i128),
    /// Text, also the truth words of YAML 1.1.
    Text(String),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping in its order.
    Map(Vec<(String, Value)>),
}

/// Something wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingFault {
    /// The key, "" for the whole.
    pub key: String,
    /// `expected …, found …`.
    pub message: String,
}

/// A mapping being read: the file of the handler, and `with` of the entry over it.
#[derive(Debug)]
pub struct Settings {
    values: Vec<(String, Value)>,
    known: Vec<&'static str>,
    faults: Vec<SettingFault>,
}

impl Settings {
    /// `with` goes before `file`, key by key.
    pub fn new(file: Option<&Value>, with: Option<&Value>) -> Settings {
        let mut settings = Settings {
            values: Vec::new(),
            known: Vec::new(),
            faults: Vec::new(),
        };
        for source in [with, file].into_iter().flatten() {
            match source {
                Value::Null => {}
                Value::Map(entries) => {
                    for (key, value) in entries {
                        if !settings.values.iter().any(|(known, _)| known == key) {
                            settings.values.push((key.clone(), value.clone()));
                        }
                    }
                }
                other => settings.fault("", format!("expected keys with values, found {}", describe(other))),
            }
        }
        settings
    }

    fn get(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        let (_, value) = self.values.iter().find(|(name, _)| name == key)?;
        (*value != Value::Null).then(|| value.clone())
    }

    fn fault(&mut self, key: &str, message: String) {
        self.faults.push(SettingFault {
            key: key.to_owned(),
            message,
        });
    }

    /// A line of text.
    pub fn text(&mut self, key: &'static str, place: &mut String) {
        match self.get(key) {
            None => {}
            Some(Value::Text(text)) if !text.chars().any(char::is_control) => *place = text,
            Some(other) => self.fault(key, format!("expected a line of text, found {}", describe(&other))),
        }
    }

    /// One line of text, or several as a list.
    pub fn lines(&mut self, key: &'static str, place: &mut Vec<String>) {
        let items = match self.get(key) {
            None => return,
            Some(Value::List(items)) => items,
            Some(one) => vec![one],
        };
        let mut lines = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Value::Text(text) if !text.chars().any(char::is_control) => lines.push(text),
                other => return self.fault(key, format!("expected lines of text, found {}", describe(&other))),
            }
        }
        if lines.is_empty() {
            return self.fault(key, "expected at least one line of text, found an empty list".into());
        }
        *place = lines;
    }

    /// Yes or no.
    pub fn boolean(&mut self, key: &'static str, place: &mut bool) {
        let found = match self.get(key) {
            None => return,
            Some(Value::Boolean(value)) => Ok(value),
            Some(Value::Text(text)) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "y" => Ok(true),
                "no" | "off" | "false" | "n" => Ok(false),
                _ => Err(Value::Text(text)),
            },
            Some(other) => Err(other),
        };
        match found {
            Ok(value) => *place = value,
            Err(other) => self.fault(key, format!("expected yes or no, found {}", describe(&other))),
        }
    }

    /// The faults, with one for each key that nobody asked for.
    pub fn finish(mut self) -> Vec<SettingFault> {
        let expected = if self.known.is_empty() {
            "no settings".to_owned()
        } else {
            self.known.join(", ")
        };
        for (key, _) in &self.values {
            if !self.known.iter().any(|known| known == key) {
                let message = format!("expected {expected}, found an unknown key");
                self.faults.push(SettingFault {
                    key: key.clone(),
                    message,
                });
            }
        }
        self.faults
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a mapping".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_goes_before_the_file_and_every_fault_is_found() {
        let map = |entries: &[(&str, Value)]| {
            Value::Map(
                entries
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect(),
            )
        };
        let file = map(&[
            ("message", Value::Text("file".into())),
            ("flag", Value::Text("yes".into())),
        ]);
        let with = map(&[
            ("message", Value::Text("with".into())),
            ("odd", Value::Null),
            ("n", Value::Integer(1)),
        ]);
        let mut settings = Settings::new(Some(&file), Some(&with));
        let (mut message, mut flag, mut number) = (String::new(), false, false);
        settings.text("message", &mut message);
        settings.boolean("flag", &mut flag);
        settings.boolean("n", &mut number);
        assert_eq!((message.as_str(), flag), ("with", true));
        let faults = settings.finish();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["n", "odd"]);
        assert_eq!(faults[0].message, "expected yes or no, found 1");
    }
}
