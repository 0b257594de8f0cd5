//! Where the configuration directory is.

use std::path::{Path, PathBuf};

use super::fault::{Fault, Faults};

/// The directory named with `-c`, which must exist; without one the first that exists of `~/.rsmtpd`, `/etc/rsmtpd`, `./config`.
///
/// # Errors
/// One fault that names what was looked for.
pub fn discover(named: Option<&Path>) -> Result<PathBuf, Faults> {
    let home = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    choose(named, home.as_deref(), &|path| path.is_dir())
}

fn choose(named: Option<&Path>, home: Option<&Path>, exists: &dyn Fn(&Path) -> bool) -> Result<PathBuf, Faults> {
    if let Some(path) = named {
        return if exists(path) {
            Ok(path.to_owned())
        } else {
            Err(missing(
                path.display().to_string(),
                "expected a directory, found none".to_owned(),
            ))
        };
    }
    let mut candidates: Vec<PathBuf> = home.map(|home| home.join(".rsmtpd")).into_iter().collect();
    candidates.extend(["/etc/rsmtpd".into(), "./config".into()]);
    candidates.iter().find(|path| exists(path)).cloned().ok_or_else(|| {
        let names: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        missing(
            "configuration".to_owned(),
            format!("expected one of the directories {}, found none", names.join(", ")),
        )
    })
}

fn missing(file: String, message: String) -> Faults {
    Faults(vec![Fault {
        file,
        line: 0,
        column: 0,
        key: String::new(),
        message,
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_exists_is_taken() {
        let only = |names: &'static [&'static str]| move |path: &Path| names.iter().any(|name| path == Path::new(name));
        let home = Some(Path::new("/home/a"));
        assert_eq!(choose(None, home, &|_| true), Ok("/home/a/.rsmtpd".into()));
        assert_eq!(
            choose(None, home, &only(&["/etc/rsmtpd", "./config"])),
            Ok("/etc/rsmtpd".into())
        );
        assert_eq!(choose(None, None, &only(&["./config"])), Ok("./config".into()));
        assert_eq!(
            choose(None, None, &only(&[])).map_err(|faults| faults.to_string()),
            Err("configuration: expected one of the directories /etc/rsmtpd, ./config, found none".to_owned())
        );
    }

    #[test]
    fn a_named_directory_must_exist() {
        let named = Some(Path::new("/nowhere"));
        assert_eq!(
            choose(named, None, &|path| path != Path::new("/nowhere")).map_err(|faults| faults.to_string()),
            Err("/nowhere: expected a directory, found none".to_owned())
        );
    }
}
