//! The configuration as files: what is shipped loads, what is wrong is named, what the original shipped still works.

use std::fs;
use std::path::{Path, PathBuf};

use rsmtpd::chain::{configured, registry};
use rsmtpd::config::{self, Agent, Configuration, Daemon, Delivery, Faults, Fingerprint, Lookup, Part, Worker};
use std::os::fd::AsFd;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn load(directory: &Path) -> Result<Configuration, Faults> {
    configured::load(directory, &[]).map(|(configuration, _)| configuration)
}

/// What a handler's file says for a key.
fn setting(file: &Part, key: &'static str) -> Option<String> {
    file.read(&mut Vec::new(), |field| field.section()?.get(key)?.scalar())
}

/// A copy of the shipped files with those of `over` laid upon them.
fn copy_with(over: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for directory in [package().join("config").as_path(), over] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

fn directories(below: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(below)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn shipped_files_say_the_defaults() {
    let shipped = load(&package().join("config")).unwrap();
    assert_eq!(shipped.daemon, Daemon::default());
    assert_eq!(shipped.worker, Worker::default());
    assert_eq!(shipped.delivery, Delivery::default());
    assert_eq!(shipped.notes, []);
    let chain = &shipped.chains["standard_server"];
    for handler in registry::HANDLERS {
        assert!(chain.uses(handler.facts.id), "{} stands in no chain", handler.facts.id);
    }
}

/// Every key that stands commented out is valid with the value shown, and in worker.yaml that is the default.
#[test]
fn commented_keys_are_valid() {
    let copy = copy_with(&package().join("config"));
    for name in ["worker.yaml", "delivery.yaml", "command_handler_standard_server.yaml"] {
        let text = fs::read_to_string(copy.path().join(name)).unwrap();
        let active: Vec<String> = text
            .lines()
            .map(|line| match line.split_once('#') {
                Some((indent, key))
                    if indent.trim().is_empty() && key.starts_with(|c: char| c.is_ascii_lowercase()) =>
                {
                    format!("{indent}{key}")
                }
                _ => line.to_owned(),
            })
            .collect();
        assert_ne!(active.join("\n"), text.trim_end(), "{name}");
        fs::write(copy.path().join(name), active.join("\n")).unwrap();
    }
    let loaded = load(copy.path()).unwrap();
    assert_eq!(loaded.worker, Worker::default());
    assert_eq!(loaded.delivery.timeout, Delivery::default().timeout);
    assert_eq!(loaded.delivery.give_up, Delivery::default().give_up);
}

/// Each directory below tests/bad_configs, laid over the shipped files, gives exactly the lines of its `expected`.
#[test]
fn bad_configurations_are_named_exactly() {
    let mut wrong = Vec::new();
    for case in directories(&package().join("tests/bad_configs")) {
        let faults = load(copy_with(&case).path()).err().map(|faults| faults.to_string());
        let found = faults.unwrap_or_else(|| "no fault".to_owned());
        if std::env::var_os("RSMTPD_WRITE_EXPECTED").is_some() {
            fs::write(case.join("expected"), format!("{found}\n")).unwrap();
        }
        let expected = fs::read_to_string(case.join("expected")).unwrap_or_default();
        if expected.trim_end() != found {
            wrong.push(format!("{}:\nexpected\n{expected}\nfound\n{found}\n", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_of_the_original_load() {
    let Some(originals) = std::env::var_os("RSMTPD_ORIGINAL_CONFIG").map(PathBuf::from) else {
        eprintln!("skipped: RSMTPD_ORIGINAL_CONFIG does not name the original's configuration");
        return;
    };
    for version in directories(&originals).iter().filter(|path| path.is_dir()) {
        let loaded = load(version).unwrap_or_else(|faults| panic!("{}:\n{faults}", version.display()));
        assert_eq!(loaded.delivery.agent, Agent::DovecotLda);
        let valid = |local: &str| Lookup::Valid {
            deliver_to: vec![("example.com".to_owned(), local.to_owned())],
        };
        assert_eq!(loaded.recipients.lookup("webmaster+x", "Example.COM"), valid("test"));
        assert_eq!(
            loaded.recipients.lookup("postmaster", "example.com"),
            valid("postmaster")
        );
        assert_eq!(loaded.recipients.lookup("postmaster+x", "example.com"), Lookup::Soft);
        let chain = &loaded.chains["standard_server"];
        assert_eq!(chain.entries("__DATA__").map(<[_]>::len), Some(1));
        assert_eq!(chain.entries("STARTTLS"), None);
        assert!(loaded.notes.iter().any(|note| note.message.contains("starttls")));
    }
}

#[test]
fn original_chain_form_is_understood() {
    let over = tempfile::tempdir().unwrap();
    let chain = "__OPEN__:\n  - module: rsmtpd.handlers.greeting\n    class: GreetingHandler\nVRFY:\n  - module: \
                 rsmtpd.handlers.verify_attempt_delivery\n    class: VerifyAttemptDelivery\n__DATA__:\n  - module: \
                 rsmtpd.handlers.data_file\n    class: DataToFileDataHandler\n  - module: rsmtpd.handlers.dovecot_delivery\n    \
                 class: DovecotDelivery\nSTARTTLS:\n  - module: rsmtpd.handlers.starttls\n    class: StartTLS\n";
    fs::write(over.path().join("command_handler_standard_server.yaml"), chain).unwrap();
    let loaded = load(copy_with(over.path()).path()).unwrap();
    let verbs = loaded.chains["standard_server"].verbs.iter();
    let names: Vec<(&str, Vec<&str>)> = verbs
        .map(|list| {
            (
                list.verb.as_str(),
                list.entries.iter().map(|entry| entry.handler).collect(),
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("__OPEN__", vec!["greeting"]),
            ("VRFY", vec!["verify"]),
            ("__DATA__", vec!["delivery"])
        ]
    );
    let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "command_handler_standard_server.yaml:8:13: __DATA__[0].module: data_file is not needed: delivery keeps the message \
             itself",
            "command_handler_standard_server.yaml:13:13: STARTTLS[0].module: starttls is not available yet and left out",
        ]
    );
}

#[test]
fn handler_files_have_three_names() {
    let names = ["rsmtpd.handlers.hello.yaml", "hello.yaml", "HelloHandler.yaml"];
    for (index, name) in names.iter().enumerate() {
        let copy = copy_with(&package().join("config"));
        fs::remove_file(copy.path().join("hello.yaml")).unwrap();
        // Of several the first counts.
        for later in names.iter().skip(index + 1) {
            fs::write(copy.path().join(later), "message: not this one\n").unwrap();
        }
        fs::write(copy.path().join(name), "message: this one\n").unwrap();
        let loaded = load(copy.path()).unwrap();
        let found = loaded
            .handler_files
            .get("hello")
            .and_then(|file| setting(file, "message"));
        assert_eq!(found.as_deref(), Some("this one"), "{name}");
        fs::write(copy.path().join(name), "mesage: x\n").unwrap();
        let faults = load(copy.path()).unwrap_err().to_string();
        let expected = "1:1: mesage: expected message or advertise_pipelining_extension, found an unknown key";
        assert_eq!(faults, format!("{name}:{expected}"), "once, though two entries read it");
    }
}

#[test]
fn recipients_file_aliases_and_catch_all() {
    let over = tempfile::tempdir().unwrap();
    fs::write(over.path().join("users.txt"), "# who\nZoe\nanna@example.org\nmüller\n").unwrap();
    let text = "allow_tagging: yes\ntagging_characters: '+-'\ndomains:\n  Example.org:\n    recipients_file: users.txt\n    \
                recipients:\n      - team: {deliver_to: [anna@example.org, zOe@Example.org]}\n      - gone:\n        enabled: no\n  \
                example.net:\n    recipients:\n      - '*':\n        deliver_to: anna@example.org\n";
    fs::write(over.path().join("simple_recipient_validator.yaml"), text).unwrap();
    let loaded = load(copy_with(over.path()).path()).unwrap();
    assert_eq!(loaded.notes, []);
    let to = |mailboxes: &[(&str, &str)]| Lookup::Valid {
        deliver_to: mailboxes
            .iter()
            .map(|(domain, local)| ((*domain).to_owned(), (*local).to_owned()))
            .collect(),
    };
    let recipients = &loaded.recipients;
    assert_eq!(recipients.lookup("ZOE", "EXAMPLE.ORG"), to(&[("example.org", "Zoe")]));
    assert_eq!(recipients.lookup("zoe-a", "example.org"), to(&[("example.org", "Zoe")]));
    assert_eq!(
        recipients.lookup("zoe+a-b", "example.org"),
        to(&[("example.org", "Zoe")])
    );
    assert_eq!(
        recipients.lookup("zoe-a+b", "example.org"),
        Lookup::Unknown,
        "the first character listed cuts"
    );
    assert_eq!(recipients.lookup("+a", "example.org"), Lookup::Unknown);
    assert_eq!(
        recipients.lookup("MÜLLER", "example.org"),
        to(&[("example.org", "müller")])
    );
    assert_eq!(
        recipients.lookup("Team", "example.org"),
        to(&[("example.org", "anna"), ("example.org", "Zoe")])
    );
    assert_eq!(recipients.lookup("gone", "example.org"), Lookup::Disabled);
    assert_eq!(recipients.lookup("nobody", "example.org"), Lookup::Unknown);
    assert_eq!(
        recipients.lookup("anybody", "example.net"),
        to(&[("example.org", "anna")])
    );
    assert_eq!(
        recipients.lookup("postmaster", "example.net"),
        to(&[("example.net", "postmaster")])
    );
    assert_eq!(
        recipients.lookup("Postmaster", ""),
        to(&[("example.org", "postmaster")])
    );
    assert_eq!(recipients.lookup("anna", ""), Lookup::ForeignDomain);
    assert_eq!(recipients.lookup("anna", "example.com"), Lookup::ForeignDomain);
}

#[test]
fn a_changed_file_changes_the_fingerprint() {
    let copy = copy_with(&package().join("config"));
    let loaded = load(copy.path()).unwrap();
    let directory = config::open_directory(copy.path()).unwrap();
    let print = || Fingerprint::of(directory.as_fd(), &loaded.files);
    let first = print();
    assert_eq!(loaded.fingerprint, first);
    assert_eq!(print(), first);
    assert_eq!(print().number(), first.number());
    fs::write(copy.path().join("rsmtpd.handlers.hello.yaml"), "message: Hi\n").unwrap();
    let second = print();
    assert_ne!(second, first, "a new file that goes before another counts");
    let (set, _) = configured::load_worker_set(directory.as_fd(), &loaded.listener_chains()).unwrap();
    assert_eq!(setting(&set.handler_files["hello"], "message").as_deref(), Some("Hi"));
    fs::remove_file(copy.path().join("rsmtpd.handlers.hello.yaml")).unwrap();
    assert_eq!(print(), first);
    fs::write(copy.path().join("worker.yaml"), "maximum_errors: none\n").unwrap();
    assert_ne!(print(), first);
    let faults = configured::load_worker_set(directory.as_fd(), &[]).err().unwrap();
    assert_eq!(
        faults.to_string(),
        "worker.yaml:1:17: maximum_errors: expected 1 to 10000, found \"none\""
    );
}
