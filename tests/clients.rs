//! Real clients send mail to the real binary; each message is in its Maildir
//! byte for byte.

mod common;

use common::{Server, assert_same_message, run, skip, tool};
use std::fs;
use std::process::Command;

/// Lines that a client or a server is tempted to change.
fn awkward(subject: &str) -> Vec<u8> {
    let mut text = format!(
        "From: Sender <sender@example.org>\r\nTo: test@example.com\r\nSubject: {subject}\r\n\
         Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <{subject}@example.org>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n\
         .\r\n..\r\n.leading dot\r\nFrom the beginning of a line\r\n\r\n\r\n\
         trailing blanks  \t\r\nSm\u{f8}rrebr\u{f8}d\r\n"
    )
    .into_bytes();
    text.extend(b"a line of 998 octets: ");
    text.extend([b'x'; 976]);
    text.extend(b"\r\n\r\nend\r\n");
    text
}

fn file_with(message: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    fs::write(file.path(), message).expect("written");
    file
}

/// Sent by the client of these tests.
fn arrives_as_it_is(message: &[u8]) {
    let server = Server::start();
    let reply = server
        .hello()
        .deliver("sender@example.org", &["test@example.com"], message);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_same_message(&server.await_mail("test@example.com", 1)[0], message);
}

#[test]
fn the_test_client_itself() {
    arrives_as_it_is(&awkward("itself"));
}

#[test]
fn swaks() {
    let Some(swaks) = tool("clients::swaks", "swaks") else {
        return;
    };
    let server = Server::start();
    let message = awkward("swaks");
    let file = file_with(&message);
    for (number, pipeline) in [false, true].into_iter().enumerate() {
        let mut command = Command::new(&swaks);
        command
            .args(["--server", "127.0.0.1", "--port", &server.address().port().to_string()])
            .args(["--helo", "client.example", "--from", "sender@example.org"])
            .args(["--to", "test@example.com,other@example.com"])
            .arg("--data")
            .arg(format!("@{}", file.path().display()));
        if pipeline {
            command.arg("--pipeline");
        }
        let (success, said) = run(&mut command, b"");
        assert!(success, "{said}");
        for address in ["test@example.com", "other@example.com"] {
            let mail = server.await_mail(address, number + 1);
            assert_eq!(mail.len(), number + 1);
            for stored in mail {
                // swaks ends the file it is given with one more line.
                let extra = [message.as_slice(), b"\r\n"].concat();
                let same = stored.ends_with(&extra);
                assert_same_message(&stored, if same { &extra } else { &message });
            }
        }
    }
}

#[test]
fn msmtp() {
    let Some(msmtp) = tool("clients::msmtp", "msmtp") else {
        return;
    };
    let server = Server::start();
    let message = awkward("msmtp");
    let unix: Vec<u8> = message.iter().copied().filter(|&b| b != b'\r').collect();
    let mut command = Command::new(msmtp);
    command
        .args(["--file=/dev/null", "--host=127.0.0.1", "--auth=off", "--tls=off"])
        .arg(format!("--port={}", server.address().port()))
        .args(["--domain=client.example", "--from=sender@example.org"])
        .args([
            "--set-from-header=off",
            "--set-date-header=off",
            "--set-msgid-header=off",
        ])
        .args(["--", "test@example.com"]);
    let (success, said) = run(&mut command, &unix);
    assert!(success, "{said}");
    assert_same_message(&server.await_mail("test@example.com", 1)[0], &message);
}

const SMTPLIB: &str = r#"
import smtplib, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
message = sys.stdin.buffer.read()
with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=20) as client:
    client.ehlo()
    for name in ("size", "8bitmime", "smtputf8", "enhancedstatuscodes", "chunking", "limits"):
        assert client.has_extn(name), name
    for number in range(count):
        refused = client.sendmail("sender@example.org", ["test@example.com"], message,
                                  mail_options=["BODY=8BITMIME"])
        assert not refused, refused
    client.mail("sender@example.org")
    assert client.rcpt("nobody@example.com")[0] == 550
    assert client.rcpt("test@elsewhere.example")[0] == 550
    assert client.rset()[0] == 250
    assert client.verify("test")[0] == 252
    assert client.noop()[0] == 250
    assert client.docmd("NOSUCH")[0] == 500
"#;

#[test]
fn smtplib() {
    let Some(python) = tool("clients::smtplib", "python3") else {
        return;
    };
    let server = Server::start();
    let message = awkward("smtplib");
    let mut command = Command::new(python);
    command.args(["-c", SMTPLIB, &server.address().port().to_string(), "20"]);
    let (success, said) = run(&mut command, &message);
    assert!(success, "{said}");
    let mail = server.await_mail("test@example.com", 20);
    assert_eq!(mail.len(), 20);
    for stored in mail {
        assert_same_message(&stored, &message);
    }
}

#[test]
fn large_message() {
    let mut message = awkward("large");
    for number in 0..60_000 {
        message.extend(format!("{number:08} of a message of several megabytes, line by line\r\n").bytes());
    }
    arrives_as_it_is(&message);
}

/// The newest line that `rsmtpd` prints to be pasted, when it can be run here.
#[test]
fn the_line_to_paste_sends_a_message() {
    let server = Server::start();
    let said = server.said();
    let line = said
        .lines()
        .map(|l| l.trim_start_matches("rsmtpd:").trim())
        .find(|l| ["swaks ", "printf ", "curl ", "python3 "].iter().any(|p| l.contains(p)));
    let Some(line) = line else {
        panic!("no ready line that sends a test message:\n{said}");
    };
    let at = ["swaks ", "printf ", "curl ", "python3 "]
        .iter()
        .filter_map(|p| line.find(p))
        .min();
    let command = &line[at.unwrap_or(0)..];
    let program = command.split(' ').next().unwrap_or_default();
    if program != "printf" && tool("clients::the_line_to_paste", program).is_none() {
        return;
    }
    let shell = if is_bash_only(command) { "bash" } else { "sh" };
    let Some(shell) = tool("clients::the_line_to_paste", shell) else {
        skip("clients::the_line_to_paste", "no shell");
        return;
    };
    let (success, output) = run(Command::new(shell).args(["-c", command]), b"");
    assert!(success, "{command}\n{output}");
    let delivered = common::wait_until(|| {
        ["test", "other", "postmaster", "Mixed.Case", "mixed.case"]
            .iter()
            .any(|local| !server.mail(&format!("{local}@example.com")).is_empty())
    });
    assert!(delivered, "{command}\n{output}");
}

fn is_bash_only(command: &str) -> bool {
    command.contains("/dev/tcp") || command.contains("<<<") || command.contains("$'")
}

/// We have no STARTTLS: a client that begins with it all the same is told so, in SMTP, and costs nobody anything.
#[test]
fn openssl_without_tls() {
    let Some(openssl) = tool("clients::openssl_without_tls", "openssl") else {
        return;
    };
    let server = Server::start();
    let mut hello = server.hello();
    assert!(!hello.command("EHLO client.example").text().contains("STARTTLS"));
    let mut command = Command::new(openssl);
    command
        .args(["s_client", "-starttls", "smtp", "-connect"])
        .arg(server.address().to_string());
    let (success, said) = run(&mut command, b"");
    assert!(!success, "{said}");
    assert!(
        said.contains("Didn't find STARTTLS") && said.contains("wrong version number"),
        "{said}"
    );
    server.await_said("event=disconnect", 2);
    assert!(!server.said().contains("crashed"), "{}", server.said());
    let message = awkward("after openssl");
    let reply = hello.deliver("sender@example.org", &["test@example.com"], &message);
    assert_eq!(reply.code, 250, "{reply:?}");
}
