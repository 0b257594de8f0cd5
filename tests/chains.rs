//! Chains and handlers as an administrator writes them and a client meets them, with the real binary.

mod common;

use common::{Server, Setup, messages_below, run};
use std::fs;
use std::process::Command;

const CHAIN: &str = "command_handler_standard_server.yaml";

fn rsmtpd(setup: &Setup, command: &str) -> (bool, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    run(program.arg("-c").arg(setup.config()).arg(command), b"")
}

fn send(server: &Server, to: &[&str], text: &str) -> u16 {
    let message = format!("Subject: test\r\n\r\n{text}\r\n");
    let reply = server.hello().deliver("sender@example.org", to, message.as_bytes());
    reply.code
}

/// Waits until the master has read this generation: what came before can then be the last good one no more.
fn read(server: &Server, generation: u32) {
    let line = format!("event=configuration-read generation={generation}");
    assert!(common::wait_until(|| server.said().contains(&line)), "no {line}");
}

#[test]
fn settings_come_from_the_entry_then_the_file_then_the_code() {
    let mut setup = Setup::new();
    setup.write("noop.yaml", "message: of the file\n");
    setup.set(CHAIN, "NOOP", "\n  - handler: noop\n    with: {message: of the entry}");
    let mut server = setup.start();
    let mut client = server.hello();
    assert_eq!(client.command("NOOP").text(), "2.0.0 of the entry");
    assert_eq!(client.command("RSET").text(), "2.0.0 OK");
    server.setup().set(CHAIN, "NOOP", "\n  - handler: noop");
    assert_eq!(
        server.hello().command("NOOP").text(),
        "2.0.0 of the file",
        "no signal is needed"
    );
    read(&server, 2);
    server.setup().write("NoopHandler.yaml", "message: of the class\n");
    fs::remove_file(server.setup().config().join("noop.yaml")).expect("removed");
    assert_eq!(server.hello().command("NOOP").text(), "2.0.0 of the class");
    read(&server, 3);
    server.setup().write("noop.yaml", "message: [broken]\n");
    // A spare of a former set may still be there for a moment; the broken one serves nobody.
    assert!(server.hello().command("NOOP").text().starts_with("2.0.0 of the "));
    let fault = "noop.yaml:1:10: message: expected a line of text";
    assert!(common::wait_until(|| server.said().contains(fault)));
    assert!(common::wait_until(
        || server.hello().command("NOOP").text() == "2.0.0 of the class"
    ));
    assert_eq!(
        client.command("NOOP").text(),
        "2.0.0 of the entry",
        "a connection keeps what it began with"
    );
}

#[test]
fn modes_and_the_last_reply() {
    let mut setup = Setup::new();
    setup.set(
        CHAIN,
        "NOOP",
        "\n  - handler: noop\n  - {handler: unknown_command, mode: observe, id: watching}\n  - {handler: noop, mode: off}",
    );
    setup.set(CHAIN, "HELP", "\n  - handler: help\n  - handler: unknown_command");
    let mut server = setup.start();
    let mut client = server.hello();
    assert_eq!(client.command("NOOP").code, 250);
    assert_eq!(client.command("HELP").code, 502, "the most severe");
    assert!(common::wait_until(|| server.said().contains("by=watching")));
    server.setup().set(CHAIN, "_chain", "{combine: last}");
    server
        .setup()
        .set(CHAIN, "HELP", "\n  - handler: unknown_command\n  - handler: help");
    assert_eq!(server.hello().command("HELP").code, 214, "the last");
}

#[test]
fn check_and_chain_report_what_stands_wrong() {
    let mut setup = Setup::new();
    let (success, said) = rsmtpd(&setup, "chain");
    assert!(success, "{said}");
    let verbs = [
        "__OPEN__",
        "HELO",
        "EHLO",
        "MAIL",
        "RCPT",
        "DATA (and BDAT)",
        "__DATA__",
        "RSET",
    ];
    let places: Vec<Option<usize>> = verbs.iter().map(|verb| said.find(&format!("\n{verb}\n"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    assert!(
        said.contains("  1. delivery: ") && said.contains("; takes the message\n"),
        "{said}"
    );
    setup.write("help.yaml", "mesage: x\n");
    setup.set("worker.yaml", "maximum_errors", "none");
    setup.set(
        CHAIN,
        "__DATA__",
        "\n  - handler: delivery\n  - {handler: delivery, id: again}\n  - {handler: delivery, id: idle, mode: off}",
    );
    let (success, said) = rsmtpd(&setup, "check");
    assert!(!success);
    for expected in [
        "worker.yaml:",
        "help.yaml:1:1: mesage: expected message",
        "found again besides delivery",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    let (success, said) = rsmtpd(&setup, "chain");
    assert!(!success);
    for expected in [
        "never runs: it stands behind delivery, which takes the message",
        "never runs: mode is off",
        "found again besides delivery",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
}

const RECIPIENTS: &str = "allow_tagging: yes
tagging_characters: '+'
domains:
  example.com:
    recipients_file: users.txt
    recipients:
      - postmaster:
        allow_tagging: no
        deliver_to: Anna@example.com
      - team: {deliver_to: [anna@example.com, zoe@Example.COM, team@example.net]}
      - gone:
        enabled: no
      - '*':
        deliver_to: zoe@example.com
  example.net:
    allow_soft_delivery: yes
    recipients:
      - team
";

#[test]
fn recipients_reach_their_mailboxes() {
    let setup = Setup::new();
    setup.write("simple_recipient_validator.yaml", RECIPIENTS);
    setup.write("users.txt", "# names\nAnna\nzoe\n");
    let server = setup.start();
    assert_eq!(send(&server, &["TEAM+x@EXAMPLE.com"], "to all"), 250);
    assert_eq!(
        send(&server, &["ANNA+tag@example.com", "anna@example.com"], "once"),
        250
    );
    assert_eq!(send(&server, &["Postmaster"], "to the first domain's"), 250);
    assert_eq!(send(&server, &["whoever@example.com"], "caught"), 250);
    assert_eq!(send(&server, &["postmaster@example.net"], "named nowhere"), 250);
    for (mailbox, count) in [
        ("Anna@example.com", 3),
        ("zoe@example.com", 2),
        ("team@example.net", 1),
        ("postmaster@example.net", 1),
    ] {
        let name = mailbox.to_lowercase();
        assert_eq!(server.mail(&name).len(), count, "{mailbox}");
    }
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<>").code, 250);
    assert_eq!(
        client.command("RCPT TO:<gone@example.com>").text(),
        "5.2.1 this mailbox no longer exists"
    );
    assert_eq!(
        client.command("RCPT TO:<a@elsewhere.example>").text(),
        "5.7.1 relaying not allowed"
    );
}

#[test]
fn a_change_of_a_long_list_is_in_force_before_long() {
    let setup = Setup::new();
    let names: String = (0..90_000).map(|number| format!("name.{number:08}\n")).collect();
    let text = "domains:\n  example.com:\n    recipients_file: users.txt\n";
    setup.write("simple_recipient_validator.yaml", text);
    setup.write("users.txt", &(names.clone() + "anna\n"));
    let mut server = setup.start();
    let code = |server: &Server, name: &str| {
        let mut client = server.hello();
        client.command("MAIL FROM:<>");
        client.command(&format!("RCPT TO:<{name}@example.com>")).code
    };
    assert_eq!((code(&server, "anna"), code(&server, "bert")), (250, 550));
    server.setup().write("users.txt", &(names + "anna\nbert\n"));
    let taken = || code(&server, "bert") == 250;
    assert!(common::wait_until(taken), "{}", server.said());
    assert_eq!(code(&server, "anna"), 250);
}

#[test]
fn soft_recipients_go_to_the_quarantine_and_nowhere_else() {
    let setup = Setup::new();
    setup.write("simple_recipient_validator.yaml", RECIPIENTS);
    setup.write("users.txt", "anna\nzoe\n");
    let server = setup.start();
    assert_eq!(
        send(
            &server,
            &["nobody@example.net", "team@example.net"],
            "one soft, one real"
        ),
        250
    );
    assert_eq!(
        send(&server, &["nobody@example.net", "another@example.net"], "soft alone"),
        250
    );
    assert_eq!(server.mail("team@example.net").len(), 1);
    assert!(!server.maildir("nobody@example.net").exists());
    let mut setup_of = server;
    let quarantine = setup_of.setup().state().join("quarantine/example.net/soft");
    assert_eq!(messages_below(&quarantine).len(), 2, "{}", quarantine.display());
}
