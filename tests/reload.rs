//! SIGHUP and edits that need no signal: what is checked, what changes, what waits, and that nothing is lost.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, Server, Setup, wait_until};
use nix::sys::signal::Signal;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// The text of rsmtpd.yaml with these lines in place of address and port.
fn daemon(server: &mut Server, listeners: &str, more: &str) -> String {
    let state = server.setup().state();
    format!(
        "{listeners}\nserver_name: mail.example.com\nstate: {}\n{more}\n",
        state.display()
    )
}

fn one_listener(server: &mut Server) -> String {
    format!("address: 127.0.0.1\nport: {}", server.address().port())
}

fn reload(server: &Server) {
    let (good, bad) = ("event=reloaded", "event=reload-refused");
    let count = |server: &Server| server.said().matches(good).count() + server.said().matches(bad).count();
    let before = count(server);
    server.signal(Signal::SIGHUP);
    assert!(
        wait_until(|| count(server) > before),
        "no reload; it said:\n{}",
        server.said()
    );
}

/// The workers, once all of them wait and are of the configuration in force. By name alone one that is about to leave
/// looks like a spare, and one that was forked just now like the master.
fn settled(server: &Server) -> Vec<i32> {
    const STATUS: &str = "event=status pid=";
    const MIN_SPARE: usize = 8;
    let look = || {
        let before = server.said().matches(STATUS).count();
        server.signal(Signal::SIGUSR1);
        server.await_said(STATUS, before + 1);
        let said = server.said();
        let status = said.lines().rfind(|line| line.contains(STATUS)).unwrap_or_default();
        let workers = server.children(server.pid(), "rsmtpd: worker");
        let all_wait = status.contains(&format!(" spare={} busy=0 ", workers.len()));
        (all_wait && workers.len() >= MIN_SPARE).then_some(workers)
    };
    // The master may tell of itself before it has heard all that was said to it: twice the same is so.
    let mut found = look();
    let twice = || {
        let before = std::mem::replace(&mut found, look());
        found.is_some() && found == before
    };
    assert!(wait_until(twice), "never settled:\n{}", server.said());
    found.unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    listener.local_addr().expect("address").port()
}

fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut client = Client::over(stream);
    client.try_reply().is_ok_and(|reply| reply.code == 220)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn broken_configuration_is_refused() {
    let mut server = Server::start();
    server.await_said("event=disconnect", 1);
    let before = settled(&server);
    let good = one_listener(&mut server);
    let text = daemon(&mut server, &good, "workers:\n  min_spare: many");
    server.setup().write("rsmtpd.yaml", &text);
    server.setup().write("hello.yaml", "nonsense: yes\n");
    reload(&server);
    let said = server.said();
    assert!(said.contains("rsmtpd.yaml:6:14: workers.min_spare: expected"), "{said}");
    assert!(said.contains("hello.yaml:1:"), "every fault is told:\n{said}");
    assert!(said.contains("event=reload-refused"));
    assert_eq!(settled(&server), before, "the spares stay");
    let mut client = server.hello();
    assert_eq!(
        client.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
        250
    );
}

#[test]
fn spares_are_renewed_and_busy_workers_keep_what_they_began_with() {
    let mut server = Server::start();
    let mut busy = server.hello();
    let before: BTreeSet<i32> = server.children(server.pid(), "rsmtpd: worker").into_iter().collect();
    let listener = one_listener(&mut server);
    let text = daemon(&mut server, &listener, "").replace("mail.example.com", "new.example.com");
    server.setup().write("rsmtpd.yaml", &text);
    reload(&server);
    let renewed = wait_until(|| {
        let now = server.children(server.pid(), "rsmtpd: worker");
        now.len() > 2 && now.iter().filter(|pid| before.contains(pid)).count() == 1
    });
    assert!(renewed, "one busy worker of before, fresh spares beside it");
    assert!(server.connect().reply().text().starts_with("new.example.com"));
    assert!(busy.command("EHLO x").text().starts_with("mail.example.com"));
    assert_eq!(busy.deliver("a@example.org", &["test@example.com"], MESSAGE).code, 250);
}

#[test]
fn listeners_no_longer_named_close() {
    let mut server = Server::start();
    let (kept, dropped) = (server.address().port(), free_port());
    let both =
        format!("listeners:\n  - {{address: 127.0.0.1, port: {kept}}}\n  - {{address: 127.0.0.1, port: {dropped}}}");
    let text = daemon(&mut server, &both, "workers:\n  connections_per_worker: 5");
    let setup = Setup::new();
    let text = text.replace(
        &*server.setup().state().to_string_lossy(),
        &setup.state().to_string_lossy(),
    );
    drop(server);
    setup.write("rsmtpd.yaml", &text);
    let mut server = setup.start_as_written(local(kept));
    assert!(greets(local(dropped)));
    let mut old = Client::over(TcpStream::connect(local(dropped)).expect("connection"));
    assert_eq!(old.reply().code, 220);
    let text = daemon(&mut server, &format!("address: 127.0.0.1\nport: {kept}"), "");
    server.setup().write("rsmtpd.yaml", &text);
    reload(&server);
    assert!(
        wait_until(|| TcpStream::connect(local(dropped)).is_err()),
        "it still listens there"
    );
    assert!(greets(local(kept)));
    assert_eq!(old.command("NOOP").code, 250, "who was in stays in");
    server.await_said(&format!("event=closed address=127.0.0.1:{dropped}"), 1);
    assert!(
        !server.said().contains("crashed") && !server.said().contains("worker-failed"),
        "{}",
        server.said()
    );
}

#[test]
fn what_needs_a_restart_is_named_once_and_the_rest_applies() {
    let mut server = Server::start();
    let kept = server.address().port();
    let listeners =
        format!("listeners:\n  - {{address: 192.0.2.1, port: 25}}\n  - {{address: 127.0.0.1, port: {kept}}}");
    let more = "user: daemon\ngroup: daemon\nlog_path: /nonexistent/log\nsandbox: off\nbackground: yes";
    let text = daemon(&mut server, &listeners, more)
        .replace("mail.example.com", "new.example.com")
        .replace("/state", "/elsewhere");
    server.setup().write("rsmtpd.yaml", &text);
    for _ in 0..3 {
        reload(&server);
    }
    let said = server.said();
    for what in [
        "key=user",
        "key=group",
        "key=log_path",
        "key=sandbox",
        "key=state",
        "key=background",
    ] {
        let line = format!("event=waits {what} note=\"takes effect at the next start\"");
        assert_eq!(said.matches(&line).count(), 1, "{what}:\n{said}");
    }
    assert!(
        said.contains("event=not-listening address=192.0.2.1:25 error="),
        "{said}"
    );
    assert!(server.connect().reply().text().starts_with("new.example.com"));
    let mut client = server.hello();
    assert_eq!(
        client.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
        250
    );
    assert_eq!(server.mail("test@example.com").len(), 1);
}

/// A free port for the keeper to bind: one that only root may, where we are root.
fn port_to_come() -> u16 {
    if common::is_root() {
        common::free_low_port()
    } else {
        free_port()
    }
}

#[test]
fn new_listeners_open() {
    let mut server = Server::start();
    let (first, second) = (server.address().port(), port_to_come());
    let both =
        format!("listeners:\n  - {{address: 127.0.0.1, port: {second}}}\n  - {{address: 127.0.0.1, port: {first}}}");
    let text = daemon(&mut server, &both, "workers:\n  connections_per_worker: 5");
    server.setup().write("rsmtpd.yaml", &text);
    let mut busy = server.hello();
    reload(&server);
    server.await_said(&format!("event=listening address=127.0.0.1:{second}"), 1);
    for _ in 0..20 {
        assert!(greets(local(first)) && greets(local(second)));
    }
    assert_eq!(busy.command("NOOP").code, 250);
    // All in place of one, which has to make room.
    let all = format!("listeners:\n  - {{address: 0.0.0.0, port: {second}}}");
    let text = daemon(&mut server, &all, "");
    server.setup().write("rsmtpd.yaml", &text);
    reload(&server);
    server.await_said(&format!("event=listening address=0.0.0.0:{second}"), 1);
    assert!(greets(local(second)));
    assert!(
        wait_until(|| TcpStream::connect(local(first)).is_err()),
        "it still listens there"
    );
    assert!(!server.said().contains("crashed"), "{}", server.said());
}

#[test]
fn a_reload_that_would_leave_no_listener_is_refused() {
    let mut server = Server::start();
    let text = daemon(&mut server, "address: 192.0.2.1\nport: 25", "");
    server.setup().write("rsmtpd.yaml", &text);
    reload(&server);
    assert!(server.said().contains("event=reload-refused"), "{}", server.said());
    assert!(greets(server.address()));
}

#[test]
fn the_command_line_keeps_the_last_word() {
    let setup = Setup::new();
    let chosen = free_port();
    let setup = setup.arguments(["-p", &chosen.to_string(), "--log-level", "notice"]);
    let mut server = setup.start_as_written(local(chosen));
    let text = server.setup().read("rsmtpd.yaml");
    server.setup().write("rsmtpd.yaml", &(text + "log_level: debug\n"));
    reload(&server);
    assert!(greets(local(chosen)));
    assert!(!server.said().contains("event=connect"), "{}", server.said());
}

#[test]
fn log_level_changes() {
    let mut server = Server::start();
    let listener = one_listener(&mut server);
    let text = daemon(&mut server, &listener, "log_level: notice");
    server.setup().write("rsmtpd.yaml", &text);
    // A line that is on its way is judged by the next level.
    server.await_said("event=connect", 1);
    reload(&server);
    // An old spare would say what it says by its own level.
    settled(&server);
    server.hello();
    let text = daemon(&mut server, &listener, "log_level: info");
    server.setup().write("rsmtpd.yaml", &text);
    reload(&server);
    settled(&server);
    let before = server.said().matches("event=connect").count();
    assert_eq!(before, 1, "only the one of the start:\n{}", server.said());
    server.hello();
    server.await_said("event=connect", before + 1);
}

/// A dovecot-lda of our own: waits until a file appears, then keeps the message under its name.
fn agent(server: &mut Server, name: &str) -> String {
    let directory = server.setup().state();
    let script = directory.join(name);
    let text = format!(
        "#!/bin/sh\nuntil [ -e {0}/go-{name} ]; do sleep 0.05; done\ncat > {0}/kept-{name}-$$\n",
        directory.display()
    );
    fs::write(&script, text).expect("script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    let home = directory.join("home");
    format!(
        "agent: dovecot_lda\nlda_jobs: 4\ndovecot_lda:\n  path: {}\n  home: {}/%d/%n\n",
        script.display(),
        home.display()
    )
}

fn kept(server: &mut Server, name: &str) -> usize {
    let entries = fs::read_dir(server.setup().state()).into_iter().flatten().flatten();
    let prefix = format!("kept-{name}-");
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .count()
}

#[test]
fn delivery_is_replaced_and_messages_under_way_are_not_lost() {
    let mut server = Server::start();
    let first = agent(&mut server, "first");
    let second = agent(&mut server, "second");
    let (parent, before) = server.helper("delivery");
    server.setup().write("delivery.yaml", &first);
    reload(&server);
    assert!(
        wait_until(|| !server.children(parent, "rsmtpd: delivery").contains(&before)),
        "replaced"
    );
    // Two wait in the first agent, which is half of its jobs and all that one mailbox may have, while the second
    // takes over; another waits behind them.
    let mut clients: Vec<Client> = (0..3).map(|_| server.hello()).collect();
    for client in &mut clients {
        assert_eq!(client.command("MAIL FROM:<a@example.org>").code, 250);
        assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
        assert_eq!(client.command("DATA").code, 354);
        client.send(b"Subject: slow\r\n\r\nx\r\n.\r\n");
    }
    let working = server.helper("delivery").1;
    let children = |of: i32| {
        fs::read_dir(format!("/proc/{of}/task")).map_or(0, |tasks| {
            let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
            tasks
                .flatten()
                .map(|task| read(task).split_whitespace().count())
                .sum::<usize>()
        })
    };
    assert!(wait_until(|| children(working) == 2), "both jobs run");
    let mut staged = server.hello();
    assert_eq!(staged.command("MAIL FROM:<a@example.org>").code, 250);
    assert_eq!(staged.command("RCPT TO:<test@example.com>").code, 250);
    assert_eq!(staged.command("DATA").code, 354);
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    staged.send(&line.repeat(300));
    server.setup().write("delivery.yaml", &second);
    reload(&server);
    // The new one has writers once it has taken over; until then the old one is given what comes.
    let writes = |of: &i32| fs::read_dir(format!("/proc/{of}/task")).is_ok_and(|tasks| tasks.count() > 1);
    assert!(
        wait_until(|| {
            let both = server.children(parent, "rsmtpd: delivery");
            both.len() == 2 && both.iter().all(writes)
        }),
        "both live"
    );
    // A new connection has the new agent at once.
    let state = server.setup().state();
    fs::write(state.join("go-second"), "").expect("go");
    let mut new = server.hello();
    assert_eq!(new.deliver("a@example.org", &["test@example.com"], MESSAGE).code, 250);
    // So has a message whose end comes late, though its beginning lies with the old one.
    staged.send(b".\r\n");
    assert_eq!(staged.reply().code, 250);
    assert_eq!(kept(&mut server, "second"), 2);
    fs::write(state.join("go-first"), "").expect("go");
    for client in &mut clients {
        assert_eq!(client.reply().code, 250);
    }
    assert_eq!(kept(&mut server, "first"), 3);
    assert!(
        wait_until(|| server.children(parent, "rsmtpd: delivery").len() == 1),
        "the old one ends"
    );
    assert!(!server.said().contains("helper-died"), "{}", server.said());
}

#[test]
fn files_are_read_at_the_next_connection() {
    let mut server = Server::start();
    let mut busy = server.hello();
    let edit = |server: &mut Server, file: &str, text: &str| server.setup().write(file, text);
    // worker.yaml
    edit(&mut server, "worker.yaml", "maximum_message_size_in_mb: 3\n");
    assert!(server.hello_text().contains(&format!("SIZE {}", 3 << 20)));
    // The master may read several edits at once, if it is late.
    server.await_said("event=configuration-read", 1);
    // a handler's file
    edit(
        &mut server,
        "simple_recipient_validator.yaml",
        "domains:\n  example.org:\n    recipients: [new]\n",
    );
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<>").code, 250);
    assert_eq!(client.command("RCPT TO:<new@example.org>").code, 250);
    assert_eq!(client.command("RCPT TO:<test@example.com>").code, 550);
    // a chain file
    let chain = server.setup().read("command_handler_standard_server.yaml");
    edit(&mut server, "command_handler_other.yaml", &chain);
    edit(
        &mut server,
        "worker.yaml",
        "command_handler: other\nmaximum_message_size_in_mb: 4\n",
    );
    assert!(server.hello_text().contains(&format!("SIZE {}", 4 << 20)));
    // who was in keeps what there was
    assert_eq!(busy.deliver("a@example.org", &["test@example.com"], MESSAGE).code, 250);
    server.await_said("event=configuration-read", 2);
}

/// Serves clients until the directory has been as it is for so long that workers trust it, and each spare was forked
/// since then.
fn quiet(server: &mut Server) {
    let edited = Instant::now();
    let mut served = 0;
    let is_quiet = || {
        server.hello_text();
        served += usize::from(edited.elapsed() > Duration::from_secs(3));
        served > 20
    };
    assert!(wait_until(is_quiet), "{served} clients");
}

/// Where nothing has happened for a while workers look at no file: the kernel tells them.
#[test]
fn edits_are_seen_after_a_while_of_none() {
    let mut server = Server::start();
    quiet(&mut server);
    server.setup().write("worker.yaml", "maximum_message_size_in_mb: 3\n");
    assert!(server.hello_text().contains(&format!("SIZE {}", 3 << 20)));
    server.await_said("event=configuration-read", 1);
    quiet(&mut server);
    let directory = server.setup().config().to_owned();
    server.setup().write("new", "maximum_message_size_in_mb: 4\n");
    quiet(&mut server);
    fs::rename(directory.join("new"), directory.join("worker.yaml")).expect("renamed");
    assert!(server.hello_text().contains(&format!("SIZE {}", 4 << 20)));
    server.await_said("event=configuration-read", 2);
    assert_eq!(server.said().matches("event=configuration-read").count(), 2);
}

#[test]
fn a_broken_edit_keeps_the_last_good_set_and_is_told_once() {
    let mut server = Server::start();
    server.setup().write("worker.yaml", "maximum_message_size_in_mb: 3\n");
    assert!(server.hello_text().contains(&format!("SIZE {}", 3 << 20)));
    server.await_said("event=configuration-read", 1);
    // A spare of before may have taken a client already when it is told to leave; and the master is to have no report left
    // that it would go by in the midst of an edit.
    settled(&server);
    server
        .setup()
        .write("worker.yaml", "\nmaximum_message_size_in_mb: huge\n");
    for _ in 0..5 {
        assert!(server.hello_text().contains(&format!("SIZE {}", 3 << 20)));
    }
    let fault = "worker.yaml:2:29: maximum_message_size_in_mb: expected";
    server.await_said(fault, 1);
    settled(&server);
    server
        .setup()
        .write("worker.yaml", "\n\nmaximum_message_size_in_mb: huger\n");
    for _ in 0..5 {
        server.hello();
    }
    server.await_said("worker.yaml:3:29: maximum_message_size_in_mb: expected", 1);
    settled(&server);
    server.setup().write("worker.yaml", "maximum_message_size_in_mb: 5\n");
    assert!(server.hello_text().contains(&format!("SIZE {}", 5 << 20)));
    let said = server.said();
    assert_eq!(said.matches(fault).count(), 1, "{said}");
    assert_eq!(said.matches("event=configuration-broken").count(), 2, "{said}");
}

/// One sender: whole sessions one after the other, each with messages of two sizes, until told to stop.
fn send(address: SocketAddr, number: usize, stop: &AtomicBool, taken: &AtomicUsize) {
    let large = [&[b'y'; 998][..], b"\r\n"].concat().repeat(60);
    while !stop.load(Ordering::SeqCst) {
        let mut client = Client::over(TcpStream::connect(address).expect("connection"));
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        let mut bodies = vec![&b"small\r\n"[..]];
        if taken.load(Ordering::SeqCst).is_multiple_of(4) {
            bodies.push(&large);
        }
        for body in bodies {
            let id = taken.fetch_add(1, Ordering::SeqCst);
            let message = [format!("Subject: {number}\r\nX-Id: {id};\r\n\r\n").as_bytes(), body].concat();
            let reply = client.deliver("a@example.org", &["test@example.com"], &message);
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        assert_eq!(client.command("QUIT").code, 221);
    }
}

/// How many messages are sent at least while all is read again a hundred times.
const MESSAGES: usize = 1_000;

#[test]
fn a_hundred_reloads_under_load_lose_nothing() {
    let mut setup = Setup::new();
    setup.set("rsmtpd.yaml", "workers", "{per_source: 0, per_source_rate: 0}");
    let mut server = setup.start();
    let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let senders: Vec<_> = (0..20)
        .map(|number| {
            let (stop, taken, address) = (Arc::clone(&stop), Arc::clone(&taken), server.address());
            thread::spawn(move || send(address, number, &stop, &taken))
        })
        .collect();
    let began = Instant::now();
    let daemon = server.setup().read("rsmtpd.yaml");
    for round in 0..100 {
        // Each time the file says something else, and the senders have gone on meanwhile.
        let workers = format!("max: {}, per_source: 0", 900 + round);
        let text = daemon.replace("per_source: 0", &workers);
        assert!(text.contains(&workers), "{text}");
        server.setup().write("rsmtpd.yaml", &text);
        let enough = (round + 1) * MESSAGES / 100;
        assert!(
            wait_until(|| taken.load(Ordering::SeqCst) >= enough),
            "the senders do not get on"
        );
        // Delivery is replaced each time as well.
        let writers = 4 + round % 5;
        server
            .setup()
            .write("delivery.yaml", &format!("agent: maildir\nwriters: {writers}\n"));
        reload(&server);
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().expect("every message was taken");
    }
    let sent = taken.load(Ordering::SeqCst);
    let mail = server.mail("test@example.com");
    let ids: BTreeSet<String> = mail.iter().filter_map(|message| id_of(message)).collect();
    assert_eq!((mail.len(), ids.len()), (sent, sent));
    assert!(sent >= MESSAGES, "{sent}");
    // The last one counts.
    server.signal(Signal::SIGUSR1);
    server.await_said(" max=999 ", 1);
    assert_eq!(server.said().matches("event=reloaded").count(), 100);
    for never in ["crashed", "worker-failed", "helper-died", "not-renewed", "not-told"] {
        assert!(!server.said().contains(never), "{never}:\n{}", server.said());
    }
    let (parent, _) = server.helper("delivery");
    assert!(
        wait_until(|| server.children(parent, "rsmtpd: delivery").len() == 1),
        "one is left"
    );
}

fn id_of(message: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let (_, rest) = text.split_once("X-Id: ")?;
    rest.split_once(';').map(|(id, _)| id.to_owned())
}
