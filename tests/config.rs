//! The configuration as files: what is shipped loads, what is wrong is named, what the original shipped still works.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rsmtpd::chain::{configured, registry};
use rsmtpd::config::{
    self, Agent, Configuration, Daemon, Delivery, Earlier, Faults, Fingerprint, Lookup, Part, Worker,
};
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
    let every = Configuration::chain_names(&package().join("config"));
    let (shipped, _) = configured::load(&package().join("config"), &every).unwrap();
    let file = |name: &String| package().join(format!("config/command_handler_{name}.yaml"));
    let texts: String = every
        .iter()
        .map(|name| fs::read_to_string(file(name)).unwrap())
        .collect();
    for handler in registry::HANDLERS {
        let id = handler.facts.id;
        let entry = format!("- handler: {id}\n");
        let used = shipped.chains.values().any(|chain| chain.uses(id));
        assert!(
            used || texts.contains(&entry),
            "{id} stands in no chain, not even commented out"
        );
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

/// Files that nobody writes by hand: each gives a fault, soon, and never takes the reader down.
#[test]
fn hostile_files_are_faults() {
    let laughs: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(9)))
        .collect();
    let keys: String = (0..50_000).map(|n| format!("k{n}: 1\n")).collect();
    let entries = "  - handler: noop\n".repeat(20_000);
    let cases: [(&str, Vec<u8>, &str); 16] = [
        (
            "worker.yaml",
            vec![0; 1000],
            "worker.yaml:1:1: expected valid YAML, found: control",
        ),
        (
            "worker.yaml",
            b"# ok\ncommand_handler: \"\xff\"\n".to_vec(),
            "worker.yaml:2:19: expected UTF-8 text, found octet 0xff",
        ),
        (
            "worker.yaml",
            b"\xff\xfec\0o\0".to_vec(),
            "worker.yaml:1:1: expected UTF-8 text, found octet 0xff",
        ),
        (
            "worker.yaml",
            (0..=255).cycle().take(100_000).collect(),
            "worker.yaml:2:118: expected UTF-8 text",
        ),
        (
            "worker.yaml",
            format!("a0: &a0 [x,x,x]\n{laughs}").into(),
            "worker.yaml: expected valid YAML, found: repetition limit",
        ),
        (
            "worker.yaml",
            "[".repeat(100_000).into(),
            "worker.yaml:1:1001: expected valid YAML, found: more than 1000 open",
        ),
        (
            "worker.yaml",
            "{a: ".repeat(100_000).into(),
            "worker.yaml:1:4001: expected valid YAML, found: more than 1000 open",
        ),
        (
            "worker.yaml",
            "- ".repeat(20_000).into(),
            "worker.yaml:1:257: expected valid YAML, found: recursion limit",
        ),
        (
            "worker.yaml",
            b"a: &a [*a]\n".to_vec(),
            "worker.yaml:1:4: expected valid YAML, found: recursion limit",
        ),
        (
            "worker.yaml",
            b"a: *nowhere\n".to_vec(),
            "worker.yaml:1:4: expected valid YAML, found: unknown anchor",
        ),
        (
            "worker.yaml",
            keys.into(),
            "worker.yaml:1:1: k0: expected command_handler",
        ),
        (
            "worker.yaml",
            format!("command_handler: {}\n", "x".repeat(1_000_000)).into(),
            "worker.yaml:1:18: command_handler: expected",
        ),
        (
            "worker.yaml",
            b"1: 2\n? [a]\n: 3\n~: 4\n".to_vec(),
            "worker.yaml:1:1: 1: expected",
        ),
        (
            "worker.yaml",
            b"%YAML 9.9\n---\na".to_vec(),
            "worker.yaml:1:1: expected valid YAML",
        ),
        (
            "hello.yaml",
            b"message: hello\n\tmessage: x\n".to_vec(),
            "hello.yaml:2:1: expected valid YAML",
        ),
        (
            "command_handler_standard_server.yaml",
            format!("NOOP:\n{entries}").into(),
            "command_handler_standard_server.yaml:2:3: NOOP: expected at most 500 entries in all lists, found 20000 more here",
        ),
    ];
    for (name, content, expected) in cases {
        let copy = copy_with(&package().join("config"));
        fs::write(copy.path().join(name), content).unwrap();
        let began = Instant::now();
        let faults = load(copy.path()).expect_err(expected).to_string();
        let first = faults.lines().next().unwrap_or_default();
        assert!(first.starts_with(expected), "expected {expected}\nfound {first}");
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{expected}: {:?}",
            began.elapsed()
        );
        assert!(faults.len() < 200_000, "{expected}: {} octets", faults.len());
    }
}

#[test]
fn files_that_are_none_are_faults() {
    type Make = fn(&Path);
    let cases: [(Make, &str); 5] = [
        (
            |path| fs::create_dir(path).unwrap(),
            "worker.yaml: expected a regular file, found another kind",
        ),
        (
            |path| symlink("nowhere", path).unwrap(),
            "worker.yaml: expected a file, found a link to nothing",
        ),
        (
            |path| symlink("worker.yaml", path).unwrap(),
            "worker.yaml: expected a readable file, found: Too many levels of symbolic links (os error 40)",
        ),
        (
            |path| symlink("/dev/zero", path).unwrap(),
            "worker.yaml: expected a readable file in the directory itself, found a link that leads out of it",
        ),
        (
            |path| fs::File::create(path).unwrap().set_len(65 << 20).unwrap(),
            "worker.yaml: expected at most 64 MiB, found more",
        ),
    ];
    for (make, expected) in cases {
        let copy = copy_with(&package().join("config"));
        fs::remove_file(copy.path().join("worker.yaml")).unwrap();
        make(&copy.path().join("worker.yaml"));
        let faults = load(copy.path()).expect_err(expected).to_string();
        assert_eq!(faults, expected);
    }
}

#[test]
fn what_editors_do_to_files_is_no_fault() {
    let empty: [&[u8]; 5] = [b"", b"\n\n", b"# nothing\n", b"---\n", b"\xef\xbb\xbf# x\r\n"];
    for content in empty {
        let copy = copy_with(&package().join("config"));
        fs::write(copy.path().join("worker.yaml"), content).unwrap();
        assert_eq!(load(copy.path()).unwrap().worker, Worker::default());
    }
    let copy = copy_with(&package().join("config"));
    let text = b"\xef\xbb\xbfmaximum_errors: 7\r\nmaximum_recipients: 200\r\n";
    fs::write(copy.path().join("elsewhere"), text).unwrap();
    fs::remove_file(copy.path().join("worker.yaml")).unwrap();
    symlink("elsewhere", copy.path().join("worker.yaml")).unwrap();
    let worker = load(copy.path()).unwrap().worker;
    assert_eq!((worker.maximum_errors, worker.maximum_recipients), (7, 200));
}

#[test]
fn files_of_the_original_load() {
    let Some(originals) = std::env::var_os("RSMTPD_ORIGINAL_CONFIG").map(PathBuf::from) else {
        let why = "RSMTPD_ORIGINAL_CONFIG does not name the original's configuration";
        let _ = writeln!(io::stderr(), "skipped: config::files_of_the_original_load: {why}");
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
        assert_eq!(chain.combine, config::Combine::Last);
        let data: Vec<&str> = chain
            .entries("__DATA__")
            .unwrap()
            .iter()
            .map(|entry| entry.handler)
            .collect();
        let mut expected = vec!["data_file", "delivery", "post_data_reset"];
        if version.ends_with("0.6.0") {
            expected.insert(1, "undeliverable_notification_validator");
        }
        assert_eq!(data, expected);
        let not_yet = |name: &str| format!("{name}: not yet available, accepted without an opinion");
        let notes: Vec<&String> = loaded.notes.iter().map(|note| &note.message).collect();
        let has_spf = version.ends_with("0.6.0");
        assert_eq!(notes.contains(&&not_yet("spf_validator")), has_spf, "{notes:?}");
        assert_eq!(chain.entries("STARTTLS").map(<[_]>::len), Some(1));
        assert_eq!(
            loaded.daemon.certificates().len(),
            0,
            "TLS is off in the original's files"
        );
        assert_eq!(loaded.daemon.tls.certificates.len(), 2);
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
            ("__DATA__", vec!["data_file", "delivery"]),
            ("STARTTLS", vec!["starttls"])
        ]
    );
    let notes: Vec<String> = loaded.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes, [""; 0]);
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
        let expected = "1:1: mesage: expected message, advertise_pipelining_extension or look_up, found an unknown key";
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
    let all = "*@example.net, team@example.org, 3 of example.org in users.txt";
    assert_eq!(recipients.summary(3), all);
    assert_eq!(recipients.summary(2), "*@example.net, team@example.org and 3 more");
    assert_eq!(recipients.summary(1), "*@example.net and 4 more");
}

/// Lists that have not changed are not read again, and large ones by the master alone.
#[test]
fn lists_of_recipients_go_on() {
    let over = tempfile::tempdir().unwrap();
    let copy = copy_with(over.path());
    let files = |names: usize, text: &str| {
        let names: String = (0..names).map(|number| format!("name.{number:08}\n")).collect();
        fs::write(copy.path().join("long.txt"), names + text).unwrap();
        fs::write(copy.path().join("short.txt"), text).unwrap();
    };
    let text =
        "domains:\n  long.example:\n    recipients_file: long.txt\n  short.example:\n    recipients_file: short.txt\n";
    fs::write(copy.path().join("simple_recipient_validator.yaml"), text).unwrap();
    files(90_000, "before\n");
    let directory = config::open_directory(copy.path()).unwrap();
    let first = load(copy.path()).unwrap().recipients;
    let again = |recipients, may_be_old| {
        let recipients = Some(recipients);
        let earlier = Earlier { recipients, may_be_old };
        let (set, _) = configured::load_worker_set(directory.as_fd(), &[], earlier).unwrap();
        set.recipients
    };
    let known = |recipients: &config::Recipients, domain: &str| {
        ["before", "after"].map(|name| matches!(recipients.lookup(name, domain), Lookup::Valid { .. }))
    };
    assert_eq!(again(&first, true), first);
    files(90_000, "before\nafter\n");
    let old = again(&first, true);
    assert_eq!(known(&old, "long.example"), [true, false]);
    assert_eq!(known(&old, "short.example"), [true, true]);
    // What went on is known to be old: it is read as soon as it may not be.
    for fresh in [again(&first, false), again(&old, false)] {
        assert_eq!(known(&fresh, "long.example"), [true, true]);
    }
    files(10, "after\n");
    assert_eq!(
        known(&again(&old, true), "long.example"),
        [false, true],
        "it is not large any more"
    );
    fs::remove_file(copy.path().join("long.txt")).unwrap();
    let earlier = Earlier {
        recipients: Some(&old),
        may_be_old: true,
    };
    let faults = configured::load_worker_set(directory.as_fd(), &[], earlier)
        .err()
        .unwrap();
    assert!(faults.to_string().contains("found no long.txt"), "{faults}");
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
    let (set, _) =
        configured::load_worker_set(directory.as_fd(), &loaded.listener_chains(), Earlier::default()).unwrap();
    assert_eq!(setting(&set.handler_files["hello"], "message").as_deref(), Some("Hi"));
    fs::remove_file(copy.path().join("rsmtpd.handlers.hello.yaml")).unwrap();
    assert_eq!(print(), first);
    fs::write(copy.path().join("worker.yaml"), "maximum_errors: none\n").unwrap();
    assert_ne!(print(), first);
    let faults = configured::load_worker_set(directory.as_fd(), &[], Earlier::default())
        .err()
        .unwrap();
    assert_eq!(
        faults.to_string(),
        "worker.yaml:1:17: maximum_errors: expected 1 to 10000, found \"none\""
    );
}
