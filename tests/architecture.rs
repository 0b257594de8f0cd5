//! The rules of the source tree, read from the source: who may import whom,
//! where unsafe code, files, sockets and clocks may be, how long a file is.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Path below src, e.g. `smtp/receiver.rs`.
    path: String,
    /// Its module path, e.g. `["smtp", "receiver"]`.
    module: Vec<String>,
    /// What stands before the tests.
    text: String,
    /// That without comments and strings.
    code: String,
    /// Lines before the tests, comments included.
    lines: usize,
}

fn sources() -> Vec<Source> {
    let src = common::root().join("src");
    let mut paths = Vec::new();
    collect(&src, &mut paths);
    paths.sort();
    paths.iter().map(|path| source(&src, path)).collect()
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn source(src: &Path, path: &Path) -> Source {
    let name = path
        .strip_prefix(src)
        .expect("below src")
        .to_str()
        .expect("UTF-8")
        .to_owned();
    let text = fs::read_to_string(path).expect("source");
    let before_tests = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module
        .last()
        .is_some_and(|m| ["mod", "lib", "main"].contains(&m.as_str()))
    {
        module.pop();
    }
    Source {
        path: name,
        module,
        text: before_tests.to_owned(),
        code: without_comments_and_strings(before_tests),
        lines: before_tests.lines().count(),
    }
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if first == '"' {
            end_of_string(rest)
        } else if let Some(hashes) = raw_string(rest) {
            let open = hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            rest[open..]
                .find(&close)
                .map_or(rest.len(), |at| open + at + close.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            rest[2..].find('\'').map_or(rest.len(), |at| at + 3)
        } else {
            code.push(first);
            first.len_utf8()
        };
        code.extend(rest[..skipped].chars().filter(|&c| c == '\n' && first != '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The number of `#` of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.bytes().take_while(|&b| b == b'#').count();
    (hashes > 0 && rest[hashes..].starts_with('"')).then_some(hashes)
}

/// Every path into our own crate, from `use` and from expressions, absolute.
fn imports(source: &Source) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for keyword in ["crate::", "super::"] {
        let mut from = 0;
        while let Some(at) = source.code[from..].find(keyword) {
            let start = from + at;
            from = start + keyword.len();
            let before = source.code[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let mut paths = Vec::new();
            tree(&source.code[start..], &mut Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| absolute(source, path)));
        }
    }
    found
}

/// Reads one use-tree; returns how much of `text` it took.
fn tree(text: &str, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                at += tree(&text[at..], prefix, paths);
                let next = text[at..].trim_start();
                let closes = next.starts_with('}');
                at = text.len() - next.len() + usize::from(!next.is_empty());
                if closes || next.is_empty() {
                    prefix.truncate(depth);
                    return at;
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        prefix.push(rest[..end].to_owned());
        at += end;
        match text[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => break,
        }
    }
    paths.push(prefix.clone());
    prefix.truncate(depth);
    // `as name` and a glob belong to this branch.
    let stop = text[at..].find([',', '}', ';']).unwrap_or(0);
    let tail = text[at..at + stop].trim();
    at + if tail.starts_with("as ") || tail == "*" {
        stop
    } else {
        0
    }
}

fn absolute(source: &Source, path: Vec<String>) -> Vec<String> {
    let mut base = source.module.clone();
    let mut parts = path.into_iter().peekable();
    if parts.next_if(|p| p == "crate").is_some() {
        base.clear();
    }
    while parts.next_if(|p| p == "super").is_some() {
        base.pop();
    }
    base.extend(parts.filter(|p| !p.is_empty()));
    base
}

/// What a module may import besides itself; `None`: no rule but the general
/// ones. `*::client` is the client end of any process, `ipc::delivery` the
/// plain values that cross that boundary.
fn allowed(module: &[String]) -> Option<&'static [&'static str]> {
    let path: Vec<&str> = module.iter().map(String::as_str).collect();
    Some(match path.as_slice() {
        ["smtp" | "message" | "sys", ..] => &[],
        ["ipc", "frame", ..] => &[],
        ["auth", ..] => &["message", "smtp"],
        ["session", ..] => &["message", "smtp"],
        ["chain", "registry", ..] => &["session", "smtp", "config", "log", "handlers"],
        ["chain", ..] => &[
            "session",
            "smtp",
            "config",
            "log",
            "ipc::delivery",
            "ipc::record",
            "ipc::broker",
        ],
        ["handlers", ..] => &[
            "session",
            "smtp",
            "config",
            "chain",
            "auth",
            "message",
            "*::client",
            "ipc::delivery",
            "ipc::broker",
        ],
        _ => return None,
    })
}

#[test]
fn imports_follow_the_design() {
    let mut breaches = Vec::new();
    for source in sources() {
        let top = source.module.first().map_or("", String::as_str);
        for path in imports(&source) {
            let Some(target) = path.first().map(String::as_str) else {
                continue;
            };
            if target == top && !(top == "ipc" && source.module.get(1).is_some_and(|m| m == "frame")) {
                continue;
            }
            let within = target == top && path.get(1) == source.module.get(1);
            let client = path.get(1).is_some_and(|m| m == "client");
            let joined = path.join("::");
            let fits = |rule: &str| {
                rule == target || (rule == "*::client" && client) || (rule.contains("::") && joined.starts_with(rule))
            };
            let permitted = within || allowed(&source.module).is_none_or(|rules| rules.iter().any(|r| fits(r)));
            let starter = ["", "cli"].contains(&top);
            let forbidden = (target == "master" && !starter)
                || (target == "handlers" && !starter && top != "chain")
                || (top == "keeper" && target == "smtp");
            if !permitted || forbidden {
                breaches.push(format!("src/{}: {}", source.path, path.join("::")));
            }
        }
    }
    assert!(
        breaches.is_empty(),
        "imports against the design:\n{}",
        breaches.join("\n")
    );
}

/// A module and the paths that it names.
struct Module {
    path: Vec<String>,
    imports: BTreeSet<Vec<String>>,
}

/// Which modules beside it, in the directory with this module path, each module there names. The directory's own file is
/// above them, and what a module has below it is a part of it.
fn siblings(modules: &[Module], directory: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let inside = |path: &[String]| path.len() > directory.len() && path.starts_with(directory);
    let name = |path: &[String]| path[..=directory.len()].join("::");
    let inner = || modules.iter().filter(|module| inside(&module.path));
    let files: BTreeSet<String> = inner().map(|module| name(&module.path)).collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in inner() {
        let own = name(&module.path);
        let named = module.imports.iter().filter(|path| inside(path)).map(|path| name(path));
        let others = named.filter(|other| *other != own && files.contains(other));
        graph.entry(own.clone()).or_default().extend(others);
    }
    graph
}

/// A way from `from` back to itself.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop() {
        let Some(next) = way.last().and_then(|last| graph.get(last)) else {
            continue;
        };
        for one in next {
            let longer = [way.as_slice(), std::slice::from_ref(one)].concat();
            if one == from {
                return Some(longer);
            }
            if seen.insert(one.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

/// In every directory, the top one included. The one list of handlers is left out, which stands in `chain` and names
/// what depends on `chain`: everything else knows handlers through it.
#[test]
fn modules_depend_one_way() {
    let modules: Vec<Module> = sources()
        .iter()
        .filter(|source| source.path != "chain/registry.rs" && !source.path.ends_with("/tests.rs"))
        .map(|source| Module {
            path: source.module.clone(),
            imports: imports(source),
        })
        .collect();
    let directories: BTreeSet<&[String]> = modules
        .iter()
        .flat_map(|module| (0..module.path.len()).map(|depth| &module.path[..depth]))
        .collect();
    assert!(directories.len() > 15, "{directories:?}");
    let mut circles = Vec::new();
    for directory in &directories {
        let graph = siblings(&modules, directory);
        let found = graph.keys().filter_map(|file| circle(&graph, file));
        circles.extend(found.map(|way| way.join(" -> ")));
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
    let delivery = siblings(&modules, &["delivery".to_owned()]);
    assert!(delivery["delivery::retry"].contains("delivery::agents"), "{delivery:?}");
    let top = siblings(&modules, &[]);
    assert!(top["worker"].contains("chain"), "{top:?}");
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let known = BTreeMap::from([
        ("a".to_owned(), of(&["b"])),
        ("b".to_owned(), of(&["c", "b2"])),
        ("c".to_owned(), of(&["a"])),
    ]);
    assert_eq!(circle(&known, "a").map(|way| way.join("")), Some("abca".to_owned()));
    assert_eq!(circle(&known, "b2"), None);
}

/// Names that `code` must not contain, as whole paths or words.
fn uses(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(|c| word(c) || c == ':') && !after.is_some_and(word)
    })
}

/// What reaches beyond the process, or asks the time.
const DOERS: [&str; 18] = [
    "crate::sys",
    "std::fs",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::process",
    "std::env",
    "std::thread",
    "std::os",
    "Instant::now",
    "SystemTime",
    "nix",
    "libc",
    "mio",
    "println!",
    "eprintln!",
    "Zoned::now",
    "Timestamp::now",
];

/// Where one of the files or directories names a doer, or one of `more`.
fn acting(files: &[&str], more: &[&str]) -> Vec<String> {
    let sources = sources();
    let mut breaches = Vec::new();
    for name in files {
        let below: Vec<&Source> = sources.iter().filter(|source| source.path.starts_with(name)).collect();
        assert!(!below.is_empty(), "no src/{name}");
        for source in below {
            let named = DOERS.iter().chain(more).filter(|name| uses(&source.code, name));
            breaches.extend(named.map(|name| format!("src/{}: {name}", source.path)));
        }
    }
    breaches
}

#[test]
fn protocol_and_messages_are_pure() {
    let breaches = acting(&["smtp/", "message/"], &["std::io", "Instant"]);
    assert!(breaches.is_empty(), "I/O or a clock:\n{}", breaches.join("\n"));
}

/// What decides is a function of values and times; what forks, sends and writes obeys it.
#[test]
fn policy_is_pure() {
    let policies = [
        "master/pool.rs",
        "master/source_limits.rs",
        "master/conduct.rs",
        "logger/allowance.rs",
        "worker/deadlines.rs",
        "broker/cache.rs",
        "delivery/outcome.rs",
        "chain/decision.rs",
        "chain/limits.rs",
        "ipc/frame.rs",
        "session/",
        "keeper/shape.rs",
    ];
    let breaches = acting(&policies, &[]);
    assert!(breaches.is_empty(), "policy that acts:\n{}", breaches.join("\n"));
}

#[test]
fn handlers_reach_the_outside_through_the_context_only() {
    let breaches = acting(&["handlers/"], &[]);
    assert!(breaches.is_empty(), "around the context:\n{}", breaches.join("\n"));
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    let mut breaches = Vec::new();
    for source in sources() {
        if source.module.first().is_some_and(|m| m == "sys") {
            continue;
        }
        for name in ["unsafe", "allow(unsafe_code)", "expect(unsafe_code)"] {
            // lib.rs opens the lint for the one module.
            let opens = source.module.is_empty() && source.code.contains("pub mod sys");
            if uses(&source.code, name) && !(opens && name != "unsafe") {
                breaches.push(format!("src/{}: {name}", source.path));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn yaml_is_named_in_one_file() {
    for source in sources() {
        let named = uses(&source.code, "serde_yaml");
        assert!(
            !named || source.path == "config/load.rs",
            "src/{} names serde_yaml",
            source.path
        );
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut breaches = Vec::new();
    for source in sources() {
        let tests_alone = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
        let limit = match () {
            () if tests_alone => usize::MAX,
            () if source.path.starts_with("keeper/") => 250,
            () => 500,
        };
        if source.lines >= limit {
            breaches.push(format!("src/{} has {} lines", source.path, source.lines));
        }
        if !source.text.starts_with("//!") {
            breaches.push(format!("src/{} does not say what it is for", source.path));
        }
        for name in ["Manager", "Utils", "Util"] {
            for kind in ["struct", "enum", "trait", "mod"] {
                let bad = source.code.lines().any(|line| {
                    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                    words.any(|w| w == kind) && words.next().is_some_and(|w| w.ends_with(name))
                });
                if bad {
                    breaches.push(format!("src/{}: a {kind} named …{name}", source.path));
                }
            }
        }
        for (line, length) in long_functions(&source.code) {
            breaches.push(format!("src/{}:{line}: a function of {length} lines", source.path));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// The names of events that a source writes, where it says them; and code that writes one without its name beside.
fn events(source: &Source) -> (BTreeSet<String>, Vec<String>) {
    let (mut names, mut nameless) = (BTreeSet::new(), Vec::new());
    for opening in ["Event::new(", ".event(", "\"event="] {
        for (at, _) in source.text.match_indices(opening) {
            if source.text[..at].ends_with(|c: char| c.is_alphanumeric()) && opening.starts_with('E') {
                continue; // another kind of event
            }
            let rest = source.text[at + opening.len()..].trim_start();
            let literal = if opening.starts_with('"') {
                Some(rest)
            } else {
                rest.strip_prefix('"')
            };
            match literal {
                Some(rest) => names.insert(rest[..rest.find(['"', ' ']).unwrap_or(rest.len())].to_owned()),
                None => {
                    nameless.push(format!(
                        "src/{}: {opening}{}",
                        source.path,
                        rest.lines().next().unwrap_or("")
                    ));
                    continue;
                }
            };
        }
    }
    (names, nameless)
}

/// A reader of the log looks for `event=NAME`: one way to write names, and all of them in the manual.
#[test]
fn events_are_the_manual_s() {
    let (mut written, mut breaches) = (BTreeSet::new(), Vec::new());
    for source in sources() {
        // Where an event begins with a name that it is given.
        let makes = ["log/mod.rs", "chain/conversation/mod.rs"].contains(&source.path.as_str());
        if source.path == "log/mod.rs" || source.path.ends_with("/tests.rs") || source.path.contains("/tests/") {
            continue;
        }
        let (names, nameless) = events(&source);
        breaches.extend(nameless.into_iter().filter(|_| !makes));
        written.extend(names);
    }
    let spelt = |name: &&String| !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    breaches.extend(
        written
            .iter()
            .filter(spelt)
            .map(|name| format!("event {name}: not words with hyphens")),
    );
    let manual: BTreeSet<String> = common::manual::events().into_keys().collect();
    assert!(manual.len() > 50, "{manual:?}");
    let missing = written
        .difference(&manual)
        .map(|name| format!("event {name} is not in rsmtpd.8"));
    let idle = manual
        .difference(&written)
        .map(|name| format!("event {name} of rsmtpd.8 is written nowhere"));
    breaches.extend(missing.chain(idle));
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn what_has_the_keys_is_small_enough_to_be_read_whole() {
    let keeper = sources()
        .into_iter()
        .filter(|source| source.path.starts_with("keeper/"));
    let lines: usize = keeper
        .map(|source| source.code.lines().filter(|line| !line.trim().is_empty()).count())
        .sum();
    assert!((100..500).contains(&lines), "src/keeper has {lines} lines of code");
}

/// First line and length of each function over 60 lines.
fn long_functions(code: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut long = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let declared = line.trim_start().split('(').next().unwrap_or_default();
        if !declared.split(' ').any(|word| word == "fn") {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[number..].iter().position(|l| *l == end).map_or(1, |n| n + 1);
        if length > 60 {
            long.push((number + 1, length));
        }
    }
    long
}

#[test]
fn the_reader_reads() {
    let source = Source {
        path: "chain/x.rs".into(),
        module: vec!["chain".into(), "x".into()],
        text: String::new(),
        code: without_comments_and_strings(
            "use crate::{a, b::{c, d as e, f::*}, g};\n// crate::no\nlet s = \"crate::no\";\n\
             use super::y::Z;\nfn h() { crate::i::j(); super::super::k(); }\n",
        ),
        lines: 5,
    };
    let found: Vec<String> = imports(&source).iter().map(|p| p.join("::")).collect();
    let expected = ["a", "b::c", "b::d", "b::f", "chain::y::Z", "g", "i::j", "k"];
    assert_eq!(found, expected);
    assert!(uses("x = unsafe { y }", "unsafe") && !uses("unsafe_op", "unsafe"));
    let function = |lines: usize| {
        format!(
            "impl X {{\n    pub fn f() {{\n{}    }}\n}}\n",
            "        g();\n".repeat(lines)
        )
    };
    assert_eq!(long_functions(&function(58)), []);
    assert_eq!(long_functions(&function(59)), [(2, 61)]);
}
