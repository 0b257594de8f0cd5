//! The manual and the README say what the program and its files say.

mod common;

use common::processes::Process;
use common::{Setup, root, run, tool, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PAGES: [&str; 3] = ["rsmtpd.8", "rsmtpd.yaml.5", "rsmtpd-handlers.7"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A page without the escapes of the mark-up.
fn page(name: &str) -> String {
    read(&format!("man/{name}"))
        .replace("\\-", "-")
        .replace("\\_", "_")
        .replace("\\&", "")
}

/// Not one word of lint, down to matters of style, but for what is the host's: which other manuals are installed, ours too.
#[test]
fn pages_are_clean() {
    let Some(mandoc) = tool("docs::pages_are_clean", "mandoc") else {
        return;
    };
    for name in PAGES {
        let mut lint = Command::new(&mandoc);
        lint.args(["-T", "lint"]).arg(root().join("man").join(name));
        let (_, said) = run(&mut lint, b"");
        let of_the_host = |line: &str| {
            line.contains("STYLE: referenced manual not found: Xr ") || line.starts_with("mandoc: outdated mandoc.db ")
        };
        let ours: Vec<&str> = said.lines().filter(|line| !of_the_host(line)).collect();
        assert!(ours.is_empty(), "{name}:\n{}", ours.join("\n"));
    }
}

/// What of ours a page refers to is there.
#[test]
fn references_lead_somewhere() {
    for name in PAGES {
        let text = read(&format!("man/{name}"));
        for reference in text.lines().filter_map(|line| line.strip_prefix(".Xr rsmtpd")) {
            let mut words = reference.split(' ');
            let (rest, section) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let file = format!("rsmtpd{rest}.{section}");
            assert!(PAGES.contains(&file.as_str()), "{name}: {file}");
        }
    }
}

#[test]
fn every_flag_and_subcommand_is_in_the_manual() {
    let page = page("rsmtpd.8");
    let mut help = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    let (success, said) = run(help.arg("--help"), b"");
    assert!(success && said.contains("--config-path"), "{said}");
    for word in said.split([' ', ',', '\n', '=', '[', ']', '<', '>', '.']) {
        if let Some(flag) = word.strip_prefix("--").filter(|f| !f.is_empty()) {
            assert!(page.contains(flag), "--{flag} is not in rsmtpd.8");
        }
    }
    let exits = fs::read_to_string(root().join("src/cli/mod.rs")).expect("source");
    for line in exits.lines().filter(|line| line.contains("pub const")) {
        let status = line.split("= ").nth(1).unwrap_or_default().trim_end_matches(';');
        assert!(
            page.contains(&format!(".It {status}\n")),
            "exit status {status} is not in rsmtpd.8"
        );
    }
    let commands = said.split("Commands:").nth(1).unwrap_or_default();
    for line in commands.lines().skip(1).take_while(|l| !l.trim().is_empty()) {
        let indented = line.len() - line.trim_start().len();
        if let Some(name) = line.split_whitespace().next().filter(|_| indented <= 2) {
            assert!(page.contains(&format!(".Cm {name}")), "{name} is not in rsmtpd.8");
        }
    }
}

/// The keys at the left margin of a YAML file, shown or commented out.
fn keys(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.strip_prefix('#').unwrap_or(line);
            let (key, rest) = line.split_once(':')?;
            let name = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            (name && (rest.is_empty() || rest.starts_with(' '))).then(|| key.to_owned())
        })
        .collect()
}

#[test]
fn every_key_is_in_the_manual() {
    let daemon = page("rsmtpd.yaml.5");
    let handlers = page("rsmtpd-handlers.7");
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("config"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).expect("shipped file");
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if stem.starts_with("command_handler_") {
            continue;
        }
        let (page, name) = if ["rsmtpd", "worker", "delivery"].contains(&stem) {
            (&daemon, "rsmtpd.yaml.5")
        } else {
            (&handlers, "rsmtpd-handlers.7")
        };
        assert!(page.contains(&format!("{stem}.yaml")), "{stem}.yaml is not in {name}");
        for key in keys(&text) {
            let found = page.contains(&format!(".It Cm {key}")) || page.contains(&format!(".Cm {key}"));
            assert!(found, "{stem}.yaml: {key} is not in {name}");
        }
    }
}

/// Each dependency has its reason beside it, and is named in the source.
#[test]
fn every_dependency_is_used_and_says_what_for() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let mut code = String::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("src").flatten() {
            match fs::read_to_string(entry.path()) {
                Ok(text) => code += &text,
                Err(_) => directories.push(entry.path()),
            }
        }
    }
    let lines: Vec<&str> = section.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 10, "{section}");
    for line in lines {
        let name = line.split(' ').next().unwrap_or_default();
        let reason = line.split(" # ").nth(1).unwrap_or_default();
        assert!(!reason.is_empty(), "{name}: no reason beside it");
        let path = format!("{}::", name.replace('-', "_"));
        assert!(code.contains(&path), "{name}: not used");
    }
}

/// The roles that these processes say they have, in the 15 octets that the kernel keeps of a name.
fn roles(processes: &[Process]) -> BTreeSet<String> {
    let names = processes
        .iter()
        .filter_map(|process| process.name.strip_prefix("rsmtpd: "));
    names.map(str::to_owned).collect()
}

/// As `ps` shows them: the drawing and the table of the crate's documentation, and the table of the manual.
#[test]
fn the_processes_that_run_are_those_that_are_drawn() {
    let mut setup = Setup::new();
    setup.set("worker.yaml", "command_handler", "proxy");
    // Nobody is asked there: the broker runs because of the name.
    setup.write("proxy.yaml", "host: 127.0.0.1\nport: 9\n");
    let server = setup.whatever_it_says().start();

    let documentation = read("src/lib.rs");
    let drawing = documentation.split("//! ```").nth(1).unwrap_or_default();
    let word = |word: &&str| word.len() > 3 && word.bytes().all(|octet| octet.is_ascii_uppercase());
    let others = ["TERM", "CHLD", "LMTP"];
    let drawn: BTreeSet<String> = drawing
        .split(|c: char| !c.is_alphanumeric())
        .filter(word)
        .filter(|word| !others.contains(word))
        .map(str::to_lowercase)
        .collect();
    let table = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next());
    let listed: BTreeSet<String> = table.map(str::to_owned).collect();
    let manual = page("rsmtpd.8");
    let processes = manual.split("\n.Sh PROCESSES\n").nth(1).unwrap_or_default();
    let column = processes.split("\n.El").next().unwrap_or_default();
    let rows = column
        .lines()
        .filter_map(|line| line.strip_prefix(".It ")?.split(' ').next());
    let described: BTreeSet<String> = rows.filter(|name| *name != "Sy").map(str::to_owned).collect();
    assert!(drawn.len() > 4, "{drawing}");
    assert_eq!((&drawn, &drawn), (&listed, &described));

    let known = |name: &str| name.chars().take(15 - "rsmtpd: ".len()).collect::<String>();
    let expected: BTreeSet<String> = drawn.iter().map(|name| known(name)).collect();
    let mut running = Vec::new();
    let found = wait_until(|| {
        running = Process::tree(server.pid());
        roles(&running) == expected
    });
    assert!(found, "expected {expected:?}, found {running:?}");
}

#[test]
fn readme_begins_with_the_two_commands() {
    let readme = read("README.md");
    let first: Vec<&str> = readme.lines().take(40).collect();
    for command in ["cargo run --release", "tests/run"] {
        assert!(
            first.iter().any(|l| l.contains(command)),
            "{command} is not on the first screen"
        );
    }
}

#[test]
fn continuous_integration_runs_the_tests_and_nothing_else() {
    let script = read(".ci/run");
    let commands: Vec<&str> = script
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with(['#']) && !l.starts_with("set ") && !l.starts_with("cd "))
        .collect();
    assert_eq!(commands, ["exec tests/run \"$@\""]);
}

#[test]
fn licence_is_the_original_s() {
    assert!(read("LICENSE").contains("Apache License"));
    assert!(read("Cargo.toml").contains("license = \"Apache-2.0\""));
}
