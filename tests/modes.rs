//! The three modes as the README, the manual and the shipped worker.yaml show them: the very lines of their blocks, which are
//! the same, served by the real binary.

mod common;

use common::back_end::{BackEnd, Script};
use common::dns::{Dns, Says};
use common::{Client, Server, Setup, root};
use std::fs;
use std::net::SocketAddr;

/// The block of a mode in the shipped worker.yaml, no longer commented out.
fn uncommented(mode: &str) -> Vec<String> {
    let shipped = fs::read_to_string(root().join("config/worker.yaml")).expect("worker.yaml");
    let chooses = format!("#   command_handler: {mode}");
    let blocks = shipped
        .split("\n#\n")
        .filter(|block| block.lines().any(|line| line == chooses));
    let blocks: Vec<&str> = blocks.collect();
    assert_eq!(blocks.len(), 1, "worker.yaml does not show {mode} once");
    let lines = blocks.iter().flat_map(|block| block.lines());
    let shown = lines.skip_while(|line| !line.starts_with("#   "));
    shown
        .map_while(|line| line.strip_prefix("#   "))
        .map(str::to_owned)
        .collect()
}

/// The block of a mode: what it writes, by file, in order.
fn files_of(mode: &str) -> Vec<(String, String)> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let section = readme.split("\n## Modes\n").nth(1).unwrap_or_default();
    let entry = section.split(&format!("\n- `{mode}`")).nth(1).unwrap_or_default();
    let block = entry.lines().skip_while(|line| !line.starts_with("      "));
    let lines: Vec<&str> = block.map_while(|line| line.strip_prefix("      ")).collect();
    assert!((2..=5).contains(&lines.len()), "{mode}: {lines:?}");
    assert_eq!(uncommented(mode), lines, "worker.yaml");
    let manual = fs::read_to_string(root().join("man/rsmtpd.8")).expect("rsmtpd.8");
    let shown = format!("\n.Bd -literal -offset indent\n{}\n.Ed\n", lines.join("\n"));
    assert!(manual.contains(&shown), "rsmtpd.8 does not show\n{shown}");
    let mut files: Vec<(String, String)> = Vec::new();
    for line in lines {
        match (line.strip_prefix("# "), files.last_mut()) {
            (Some(file), _) => files.push((file.to_owned(), String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => panic!("{mode}: {line} is of no file"),
        }
    }
    files
}

/// The shipped files, with those of the mode in place of theirs.
fn set_up(mode: &str) -> Setup {
    let setup = Setup::new();
    for (file, text) in files_of(mode) {
        setup.write(&file, &text);
    }
    let (sound, said) = setup.run("check");
    assert!(sound, "{mode}: {said}");
    setup
}

fn codes(client: &mut Client, lines: &[(&str, u16)]) {
    for (line, code) in lines {
        assert_eq!(client.command(line).code, *code, "{line}");
    }
}

#[test]
fn a_mail_server() {
    let server: Server = set_up("standard_server").start();
    let message = b"Subject: x\r\n\r\nx\r\n";
    for to in ["test@example.com", "postmaster@example.com"] {
        assert_eq!(server.hello().deliver("a@client.example", &[to], message).code, 250);
        assert_eq!(server.await_mail(to, 1).len(), 1);
    }
    codes(
        &mut server.hello(),
        &[
            ("MAIL FROM:<a@client.example>", 250),
            ("RCPT TO:<nobody@example.com>", 550),
            ("RCPT TO:<test@example.org>", 550),
        ],
    );
}

#[test]
fn a_host_that_never_accepts_mail() {
    let server = set_up("reject_all").start();
    let mut client = server.connect();
    assert_eq!(client.reply().code, 521);
    codes(
        &mut client,
        &[
            ("EHLO client.example", 521),
            ("MAIL FROM:<a@client.example>", 521),
            ("RCPT TO:<test@example.com>", 521),
            ("DATA", 354),
            ("Subject: x\r\n\r\nx\r\n.", 521),
            ("QUIT", 221),
        ],
    );
    assert!(client.is_closed());
}

/// Its back end is found under the name and the port of the README: as root on an address of this host that others do not
/// use; else the port alone is another.
#[test]
fn a_proxy() {
    let mut setup = set_up("proxy");
    let own = |last| BackEnd::start_at(SocketAddr::from(([127, 0, 25, last], 25)), Script::default());
    let back_end = (1..=250).find_map(own);
    let back_end = back_end.unwrap_or_else(|| {
        common::skip("modes::a_proxy", "may not bind port 25: the back end has another one");
        let back_end = BackEnd::start(Script::default());
        let text = setup.read("proxy.yaml");
        let port = format!("port: {}\n", back_end.address().port());
        setup.write("proxy.yaml", &text.replace("port: 25\n", &port));
        back_end
    });
    let address = back_end.address().ip();
    let dns = Dns::start(&[("mail.example.com", Says::Addresses(vec![address]))]);
    setup.set("rsmtpd.yaml", "nameservers", &format!("[\"{}\"]", dns.address()));
    let server = setup.whatever_it_says().start();
    let mut client = server.connect();
    assert_eq!(client.reply().text(), "back.example ready");
    codes(&mut client, &[("EHLO client.example", 250)]);
    let reply = client.deliver("a@client.example", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.text(), "2.0.0 back end has it");
    assert_eq!(client.command("QUIT").code, 221);
    assert_eq!(back_end.messages().len(), 1);
}
