//! Users and groups of the system, without the C library's name service: that loads the libraries that nsswitch.conf names
//! into the process, where each later fork pays for them, and in a static program they crash.
//!
//! /etc/passwd and /etc/group come first, whatever nsswitch.conf says of their place; for what is not there getent(1) asks
//! all the services (LDAP, systemd), in a process of its own. Where there is no getent the files alone count.
//!
//! Assumes that programs may be started: before the sandbox. Must never wait without an end, nor take more than
//! a mebibyte of an answer.

use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

/// How long getent may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many octets an answer may have: a group's has all its members.
const ANSWER: usize = 1 << 20;

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its own group.
    pub gid: u32,
}

/// Where users and groups are found.
#[derive(Debug)]
pub struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
    getent: PathBuf,
    patience: Duration,
}

impl Accounts {
    /// Those of this system.
    #[must_use]
    pub fn of_system() -> Accounts {
        Accounts {
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            getent: "/usr/bin/getent".into(),
            patience: PATIENCE,
        }
    }

    /// The user of this name, none if there is no such user.
    ///
    /// # Errors
    /// What reading the file and running getent say; `TimedOut` when it does not answer.
    pub fn user(&self, name: &str) -> io::Result<Option<User>> {
        if let Some(user) = users(&read(&self.passwd)?).find(|user| user.name == name.as_bytes()) {
            return Ok(Some(user.to_user()));
        }
        let answer = self.ask_by_name("passwd", name)?;
        Ok(users(&answer).next().map(|user| user.to_user()))
    }

    /// The number of the group of this name, none if there is no such group.
    ///
    /// # Errors
    /// As [`Accounts::user`].
    pub fn group(&self, name: &str) -> io::Result<Option<u32>> {
        if let Some(group) = groups(&read(&self.group)?).find(|group| group.name == name.as_bytes()) {
            return Ok(Some(group.gid));
        }
        let answer = self.ask_by_name("group", name)?;
        Ok(groups(&answer).next().map(|group| group.gid))
    }

    /// Those of `numbers` that neither a user nor a group has, in their order.
    ///
    /// # Errors
    /// As [`Accounts::user`].
    pub fn free(&self, numbers: &[u32]) -> io::Result<Vec<u32>> {
        let mut free = numbers.to_vec();
        take_away(&mut free, &read(&self.passwd)?, &read(&self.group)?);
        if !free.is_empty() {
            let keys: Vec<String> = free.iter().map(u32::to_string).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            take_away(&mut free, &self.ask("passwd", &keys)?, &self.ask("group", &keys)?);
        }
        Ok(free)
    }

    /// What getent says of a name; nothing of what it would take for an option or for a number.
    fn ask_by_name(&self, database: &str, name: &str) -> io::Result<Vec<u8>> {
        let other = |first: char| matches!(first, '-' | '+' | '\0') || first.is_whitespace();
        if name.starts_with(other) || name.contains('\0') || name.bytes().all(|octet| octet.is_ascii_digit()) {
            return Ok(Vec::new());
        }
        self.ask(database, &[name])
    }

    /// What getent says of these keys, a line for each that it knows; nothing where there is no getent.
    fn ask(&self, database: &str, keys: &[&str]) -> io::Result<Vec<u8>> {
        let started = Command::new(&self.getent)
            .arg(database)
            .args(keys)
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let failed = |error: io::Error| {
            let program = self.getent.display();
            io::Error::new(
                error.kind(),
                format!("{program} {database} {}: {error}", keys.join(" ")),
            )
        };
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let answer = hear(&mut child, self.patience);
        if answer.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        match (answer, status.code()) {
            (Ok(answer), Some(0 | UNKNOWN)) => Ok(answer),
            (Ok(_), _) => Err(failed(io::Error::other(status.to_string()))),
            (Err(error), _) => Err(failed(error)),
        }
    }
}

/// What getent ends with when it does not know one of the keys.
const UNKNOWN: i32 = 2;

/// All that `child` says until it has ended, which it must have after `patience`.
fn hear(child: &mut Child, patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let ended = super::process::watched(child.id())?;
    let mut heard = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        let mut buffer = vec![0; 16 << 10];
        loop {
            wait(&output.as_fd(), end)?;
            let read = super::uninterrupted(|| output.read(&mut buffer))?;
            if read == 0 {
                break;
            }
            heard.extend_from_slice(buffer.get(..read).unwrap_or_default());
            if heard.len() > ANSWER {
                return Err(io::Error::new(ErrorKind::FileTooLarge, "the answer does not end"));
            }
        }
    }
    wait(&ended.as_fd(), end)?;
    Ok(heard)
}

/// Until `what` can be read, or `end`.
fn wait(what: &impl std::os::fd::AsFd, end: Instant) -> io::Result<()> {
    let ready = super::uninterrupted(|| {
        let left = end.saturating_duration_since(Instant::now());
        // In whole milliseconds, and not less than are left.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        Ok(nix::poll::poll(
            &mut [PollFd::new(what.as_fd(), PollFlags::POLLIN)],
            left,
        )?)
    })?;
    match ready {
        0 => Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")),
        _ => Ok(()),
    }
}

/// A file's content; nothing where there is no such file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        read => read,
    }
}

/// Takes the numbers of users and groups out of `free`.
fn take_away(free: &mut Vec<u32>, passwd: &[u8], group: &[u8]) {
    let taken: Vec<u32> = users(passwd)
        .map(|user| user.uid)
        .chain(groups(group).map(|group| group.gid))
        .collect();
    free.retain(|number| !taken.contains(number));
}

/// A line of passwd(5).
struct UserLine<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
}

impl UserLine<'_> {
    fn to_user(&self) -> User {
        User {
            name: String::from_utf8_lossy(self.name).into_owned(),
            uid: self.uid,
            gid: self.gid,
        }
    }
}

/// A line of group(5).
struct GroupLine<'a> {
    name: &'a [u8],
    gid: u32,
}

/// The users of a text in the form of passwd(5): `name:password:uid:gid:…`. Other lines are passed over.
fn users(text: &[u8]) -> impl Iterator<Item = UserLine<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|octet| *octet == b':');
        let name = fields.next()?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(UserLine { name, uid, gid })
    })
}

/// The groups of a text in the form of group(5): `name:password:gid:…`. Other lines are passed over.
fn groups(text: &[u8]) -> impl Iterator<Item = GroupLine<'_>> {
    lines(text).filter_map(|line| {
        let mut fields = line.split(|octet| *octet == b':');
        let name = fields.next()?;
        let gid = number(fields.nth(1)?)?;
        Some(GroupLine { name, gid })
    })
}

/// Lines that are entries: no comments, and none of those that include or exclude entries of the NIS.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| *octet == b'\n')
        .map(<[u8]>::trim_ascii_start)
        .filter(|line| !matches!(line.first(), None | Some(b'#' | b'+' | b'-')))
}

/// A number of a user or group; the last one of 32 bits stands for none in system calls.
fn number(field: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(field).ok()?;
    let number = digits.parse().ok().filter(|number| *number != u32::MAX)?;
    field.iter().all(u8::is_ascii_digit).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    /// Accounts of these two texts, with a getent that is this shell script.
    struct Place {
        directory: tempfile::TempDir,
        accounts: Accounts,
    }

    impl Place {
        fn new(passwd: &str, group: &str, script: &str) -> Place {
            let directory = tempfile::tempdir().unwrap();
            let file = |name: &str, text: &str| {
                let path = directory.path().join(name);
                fs::write(&path, text).unwrap();
                path
            };
            let accounts = Accounts {
                passwd: file("passwd", passwd),
                group: file("group", group),
                getent: directory.path().join("getent"),
                patience: Duration::from_secs(60),
            };
            let place = Place { directory, accounts };
            place.install(script);
            place
        }

        /// Has getent write down what it is asked.
        fn noting(passwd: &str, group: &str, script: &str) -> Place {
            let place = Place::new(passwd, group, "");
            let noted = place.directory.path().join("noted");
            place.install(&format!("echo \"$@\" >>'{}'\n{script}", noted.display()));
            place
        }

        /// Not written here: a child that another test forks meanwhile would have the program open for writing, and
        /// nobody could run it (ETXTBSY).
        fn install(&self, script: &str) {
            let text = self.directory.path().join("script");
            fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
            let install = Command::new("install").args([&text, &self.accounts.getent]).status();
            assert!(install.unwrap().success());
        }

        fn noted(&self) -> String {
            fs::read_to_string(self.directory.path().join("noted")).unwrap_or_default()
        }
    }

    fn user(name: &str, uid: u32, gid: u32) -> User {
        User {
            name: name.to_owned(),
            uid,
            gid,
        }
    }

    const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
  # a comment

short:x:1:2
no-group:x:3
no-number:x::4:::
signed:x:+5:5:::
below:x:-1:5:::
large:x:4294967296:5:::
none:x:4294967295:5:::
letters:x:5a:5:::
\tindented:x:6:7:::
+nis:x:8:8:::
-nis:x:8:8:::
twice:x:9:10:::
twice:x:11:12:::
last:x:13:14:a:b:c:d:e";

    #[test]
    fn lines_of_the_files() {
        let found: Vec<User> = users(PASSWD.as_bytes()).map(|user| user.to_user()).collect();
        let expected = [
            user("root", 0, 0),
            user("short", 1, 2),
            user("indented", 6, 7),
            user("twice", 9, 10),
            user("twice", 11, 12),
            user("last", 13, 14),
        ];
        assert_eq!(found, expected);
        let text = b"root:x:0:\nmail:x:8:a,b\nfew:x\nfew:\n#c:x:1:\nbad:x:8x:\nend:*:9";
        let found: Vec<_> = groups(text).map(|group| (group.name, group.gid)).collect();
        assert_eq!(found, [(&b"root"[..], 0), (b"mail", 8), (b"end", 9)]);
    }

    #[test]
    fn the_files_come_first_and_getent_is_not_asked() {
        let place = Place::noting(PASSWD, "mail:x:8:\n", "exit 1");
        assert_eq!(place.accounts.user("twice").unwrap(), Some(user("twice", 9, 10)));
        assert_eq!(place.accounts.group("mail").unwrap(), Some(8));
        assert_eq!(place.accounts.free(&[13, 8]).unwrap(), []);
        assert_eq!(place.noted(), "");
    }

    #[test]
    fn getent_knows_the_others() {
        let script = "test \"$(env | sed /^_=/d | sort)\" = 'LC_ALL=C\nPWD=/' || exit 1
            case $* in
            'passwd ldap') echo 'ldap:*:70:71::/:' ;;
            'group ldap') echo 'ldap:*:72:a' ;;
            passwd*) echo 'one:*:81:1:::'; exit 2 ;;
            group*) echo 'two:*:83:'; exit 2 ;;
            esac";
        let place = Place::noting(PASSWD, "mail:x:8:\n", script);
        assert_eq!(place.accounts.user("ldap").unwrap(), Some(user("ldap", 70, 71)));
        assert_eq!(place.accounts.group("ldap").unwrap(), Some(72));
        assert_eq!(place.accounts.free(&[13, 81, 84, 8, 83, 82]).unwrap(), [84, 82]);
        let asked = "passwd ldap\ngroup ldap\npasswd 81 84 83 82\ngroup 81 84 83 82\n";
        assert_eq!(place.noted(), asked);
    }

    #[test]
    fn who_is_unknown_is_none() {
        let place = Place::new("", "", "exit 2");
        assert_eq!(place.accounts.user("nobody-knows").unwrap(), None);
        assert_eq!(place.accounts.group("nobody-knows").unwrap(), None);
        fs::remove_file(&place.accounts.getent).unwrap();
        fs::remove_file(&place.accounts.passwd).unwrap();
        fs::remove_file(&place.accounts.group).unwrap();
        assert_eq!(place.accounts.user("nobody-knows").unwrap(), None);
        assert_eq!(place.accounts.group("nobody-knows").unwrap(), None);
        assert_eq!(place.accounts.free(&[7]).unwrap(), [7]);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let place = Place::noting("1000:x:5:5:::\n", "", "echo 'root:x:0:0:::'");
        for name in ["", "0", "-s", "+0", " 0", "\t0", "a\0b"] {
            assert_eq!(place.accounts.user(name).unwrap(), None, "{name:?}");
            assert_eq!(place.accounts.group(name).unwrap(), None, "{name:?}");
        }
        assert_eq!(place.noted(), "");
        assert_eq!(place.accounts.user("1000").unwrap(), Some(user("1000", 5, 5)));
    }

    #[test]
    fn a_getent_that_fails_is_an_error() {
        let place = Place::new("", "", "echo 'root:x:0:0:::'; exit 1");
        let error = place.accounts.user("ldap").unwrap_err().to_string();
        assert!(error.ends_with("/getent passwd ldap: exit status: 1"), "{error}");
        let place = Place::new("", "", "kill -9 $$");
        let error = place.accounts.group("ldap").unwrap_err().to_string();
        assert!(error.contains("/getent group ldap: signal: 9"), "{error}");
        let place = Place::new("", "", "");
        fs::set_permissions(&place.accounts.getent, fs::Permissions::from_mode(0o644)).unwrap();
        let error = place.accounts.free(&[7]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_getent_that_does_not_end_is_ended() {
        for script in ["exec sleep 600", "exec sleep 600 >/dev/null"] {
            let mut place = Place::new("", "", script);
            place.accounts.patience = Duration::from_millis(300);
            let error = place.accounts.user("ldap").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
        let place = Place::new("", "", "exec cat /dev/zero");
        let error = place.accounts.user("ldap").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{error}");
    }

    #[test]
    fn of_this_system() {
        let accounts = Accounts::of_system();
        assert_eq!(accounts.user("root").unwrap(), Some(user("root", 0, 0)));
        assert_eq!(accounts.group("root").unwrap(), Some(0));
        assert_eq!(accounts.user("no-such-user-here").unwrap(), None);
        assert_eq!(accounts.group("no-such-group-here").unwrap(), None);
        assert!(!accounts.free(&[0, 61_184]).unwrap().contains(&0));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a:0-9#+\\-\\n \\x00]{0,200}", octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            for text in [text.as_bytes(), &octets] {
                prop_assert!(users(text).all(|user| !user.name.contains(&b'\n') && user.uid != u32::MAX));
                prop_assert!(groups(text).all(|group| !group.name.contains(&b':') && group.gid != u32::MAX));
            }
        }

        #[test]
        fn what_is_written_is_found(name in "[a-z_][a-z0-9_-]{0,31}", uid in 0..u32::MAX, gid in 0..u32::MAX, rest in "(:[^\n]{0,20})?") {
            let line = format!("x:y\n{name}:x:{uid}:{gid}{rest}\n");
            let found: Vec<User> = users(line.as_bytes()).map(|user| user.to_user()).collect();
            prop_assert_eq!(found, [user(&name, uid, gid)]);
        }
    }
}
