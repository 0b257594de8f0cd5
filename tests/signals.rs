//! What signals and deaths do to the daemon: TERM, USR1, kill -9 of each kind of process, and what the service
//! manager and `rsmtpd status` are told.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Client, PATIENCE, Server, Setup, run, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
}

fn exists(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Half a message is given and the end is awaited.
fn in_data(server: &Server) -> Client {
    let mut client = server.hello();
    assert_eq!(client.command("MAIL FROM:<a@example.org>").code, 250);
    assert_eq!(client.command("RCPT TO:<test@example.com>").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.send(b"Subject: half\r\n\r\n");
    client
}

#[test]
fn term_drains() {
    let mut server = Server::start();
    let mut idle = server.hello();
    let mut busy = in_data(&server);
    server.signal(Signal::SIGTERM);
    assert_eq!(idle.reply().code, 421, "at the next command boundary");
    assert!(idle.is_closed());
    assert!(
        wait_until(|| std::net::TcpStream::connect(server.address()).is_err()),
        "it still listens"
    );
    assert!(!server.has_ended(), "a message is under way");
    busy.send(b"rest\r\n.\r\n");
    assert_eq!(busy.reply().code, 250);
    assert_eq!(busy.reply().code, 421);
    assert_eq!(server.wait(), Some(0));
    server.await_said("event=stopped connections=", 1);
    assert_eq!(server.mail("test@example.com").len(), 1);
}

#[test]
fn grace_time_ends() {
    let mut setup = Setup::new();
    setup.set("rsmtpd.yaml", "grace_time", "1s");
    let mut server = setup.start();
    let _busy = in_data(&server);
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    server.await_said("event=workers-killed count=1", 1);
}

#[test]
fn second_term_ends_at_once() {
    let mut server = Server::start();
    let _busy = in_data(&server);
    server.signal(Signal::SIGTERM);
    server.await_said("event=stopping", 1);
    assert!(!server.has_ended());
    let began = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn usr1_logs_the_pool() {
    let server = Server::start();
    let client = server.hello();
    let peer = client.stream().local_addr().expect("address");
    // A greeting does not wait for the master, who may hear of the client a little later.
    let told = wait_until(|| {
        server.signal(Signal::SIGUSR1);
        server.said().contains(&format!(" peer={peer} "))
    });
    let said = server.said();
    assert!(told && said.contains("event=status worker="), "{said}");
    assert!(said.contains("event=status pid="), "{said}");
    assert!(said.contains("configuration=good"), "{said}");
}

fn status(server: &mut Server) -> String {
    let config = server.setup().config();
    let mut status = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    status.arg("-c").arg(config).arg("status");
    let (success, said) = run(&mut status, b"");
    assert!(success, "{said}");
    said
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock that is set").as_secs()
}

/// What waits is counted, and the oldest is told by the time at which it was taken.
#[test]
fn status_tells_what_is_in_the_spool() {
    let setup = Setup::new();
    let nobody = setup.aside().join("nobody-listens");
    let delivery = format!(
        "agent: lmtp\nlmtp: {{socket: {}}}\nacknowledge: spooled\nretry: {{first: 1h, longest: 1h}}\n",
        nobody.display()
    );
    setup.write("delivery.yaml", &delivery);
    let mut server = setup.start();
    assert!(status(&mut server).contains("spool=0 oldest=none failed=0"));
    let mut client = server.hello();
    let mut deliver = || {
        let before = now();
        let reply = client.deliver("a@example.org", &["test@example.com"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        before..=now()
    };
    let oldest = |said: &str, count: usize| -> u64 {
        let (_, rest) = said
            .split_once(&format!("spool={count} oldest="))
            .unwrap_or_else(|| panic!("{count} in the spool expected: {said}"));
        let word = rest.split_whitespace().next().unwrap_or_default();
        word.parse().unwrap_or_else(|_| panic!("no time: {word}"))
    };
    let first = deliver();
    let since = oldest(&status(&mut server), 1);
    assert!(first.contains(&since), "{since} is not in {first:?}");
    // The oldest stays the oldest, once the clock shows another second.
    assert!(wait_until(|| now() > since));
    let second = deliver();
    assert!(!second.contains(&since), "{since} is in {second:?}");
    assert_eq!(oldest(&status(&mut server), 2), since);
}

#[test]
fn status_command() {
    let mut server = Server::start();
    let _client = server.hello();
    assert!(wait_until(|| status(&mut server).contains("worker=")));
    let said = status(&mut server);
    for words in [
        "spare=",
        "busy=1",
        "max=1000",
        "worker=",
        "spool=0 oldest=none",
        "configuration=good",
    ] {
        assert!(said.contains(words), "{words} is not in:\n{said}");
    }
    server.setup().write("worker.yaml", "command_handler: nowhere\n");
    let mut client = server.hello();
    client.command("QUIT");
    server.await_said("configuration-broken", 1);
    assert!(status(&mut server).contains("configuration=broken"));
    assert!(status(&mut server).contains("configuration=broken"), "twice the same");
    server.signal(Signal::SIGTERM);
    server.wait();
    let mut status = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    server
        .setup()
        .write("worker.yaml", "command_handler: standard_server\n");
    status.arg("-c").arg(server.setup().config()).arg("status");
    let (success, said) = run(&mut status, b"");
    assert!(!success && said.contains("no daemon is running"), "{said}");
}

#[test]
fn delivery_is_forked_again() {
    let server = Server::start();
    let mut before = server.hello();
    let mut staged = in_data(&server);
    staged.send(&[b'x'; 900].repeat(100).chunks(900).fold(Vec::new(), |mut all, line| {
        all.extend_from_slice(line);
        all.extend_from_slice(b"\r\n");
        all
    }));
    let (parent, working) = server.helper("delivery");
    // Until its file is open, delivery has not heard of the message.
    let files = || {
        fs::read_dir(format!("/proc/{working}/fd")).map_or(0, |entries| {
            entries
                .flatten()
                .filter_map(|entry| fs::read_link(entry.path()).ok())
                .filter(|path| path.to_string_lossy().contains("(deleted)"))
                .count()
        })
    };
    wait_until(|| files() > 0);
    end(working);
    staged.send(b".\r\n");
    let reply = staged.reply();
    assert!(matches!(reply.code, 250 | 451), "{reply:?}");
    let kept = usize::from(reply.code == 250);
    server.await_said("event=helper-died role=delivery how=sigkill", 1);
    assert_eq!(
        before.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
        250
    );
    let mut after = server.hello();
    assert_eq!(after.deliver("a@example.org", &["test@example.com"], MESSAGE).code, 250);
    assert_eq!(server.mail("test@example.com").len(), 2 + kept);
    assert_eq!(server.helper("delivery").0, parent);
    // Its own voice, too, reaches the log again.
    server.await_said("event=delivered", 2 + kept);
}

#[test]
fn delivery_dies_often() {
    let server = Server::start();
    for round in 1..=4 {
        end(server.helper("delivery").1);
        server.await_said("event=helper-died role=delivery", round);
        let mut client = server.hello();
        assert_eq!(
            client.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
            250
        );
    }
    assert_eq!(server.mail("test@example.com").len(), 4);
}

#[test]
fn logger_is_forked_again() {
    let server = Server::start();
    let mut during = server.hello();
    end(server.helper("logger").1);
    server.await_said("event=helper-died role=logger how=sigkill", 1);
    assert_eq!(
        during.deliver("a@example.org", &["test@example.com"], MESSAGE).code,
        250
    );
    server.await_said("event=delivered", 1);
    let before = server.said().matches("event=disconnect").count();
    assert_eq!(during.command("QUIT").code, 221);
    let heard = wait_until(|| server.said().matches("event=disconnect").count() > before);
    assert!(heard, "a worker older than the logger is heard:\n{}", server.said());
    // The master is heard as well.
    server.signal(Signal::SIGUSR1);
    server.await_said("event=status", 1);
}

#[test]
fn death_of_a_helpers_parent_ends_the_daemon() {
    for role in ["logger", "delivery", "keeper"] {
        let mut server = Server::start();
        let mut client = server.hello();
        let began = Instant::now();
        end(server.helper(role).0);
        assert_eq!(client.reply().code, 421);
        assert_eq!(server.wait(), Some(70), "{role}");
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    }
}

#[test]
fn a_busy_worker_answers_421_when_a_helper_is_lost() {
    let mut server = Server::start();
    let mut idle = server.hello();
    let _stuck = in_data(&server);
    let began = Instant::now();
    end(server.helper("delivery").0);
    assert_eq!(idle.reply().code, 421);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(server.wait(), Some(70));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn death_of_the_master_ends_all() {
    let mut server = Server::start();
    let mut client = server.hello();
    let master = server.pid();
    let (logger, delivery, keeper) = (
        server.helper("logger"),
        server.helper("delivery"),
        server.helper("keeper"),
    );
    let mut all = server.children(master, "rsmtpd: worker");
    assert!(!all.is_empty());
    all.extend([logger.0, logger.1, delivery.0, delivery.1, keeper.0, keeper.1]);
    end(master);
    assert_eq!(client.reply().code, 421);
    server.wait();
    let left = || all.iter().copied().filter(|pid| exists(*pid)).collect::<Vec<_>>();
    assert!(wait_until(|| left().is_empty()), "{:?} live on", left());
}

#[test]
fn no_helper_holds_a_listener() {
    let server = Server::start();
    let port = format!(":{:04X} ", server.address().port());
    let listening: Vec<String> = fs::read_to_string("/proc/net/tcp")
        .expect("tcp")
        .lines()
        .filter(|line| line.contains(&port) && line.contains(" 0A "))
        .filter_map(|line| line.split_whitespace().nth(9).map(str::to_owned))
        .collect();
    assert_eq!(listening.len(), 1);
    for role in ["logger", "delivery", "keeper"] {
        let (parent, working) = server.helper(role);
        for pid in [parent, working] {
            let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let held = links
                .filter_map(|entry| fs::read_link(entry.path()).ok())
                .any(|path| path.to_string_lossy().contains(&listening[0]));
            assert!(!held, "{role} holds the listener");
        }
    }
}

/// What the service manager is told, message by message.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
        Manager(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

#[test]
fn the_service_manager_is_told() {
    let mut setup = Setup::new();
    let path = setup.aside().join("notify");
    let manager = Manager::new(&path);
    setup.variable("NOTIFY_SOCKET", path.to_str().expect("UTF-8"));
    // Under a manager the log goes to syslog, which a test machine may lack.
    let log = setup.aside().join("log");
    let setup = setup.arguments(["-l".as_ref(), log.as_os_str()]);
    let mut server = setup.start();
    let ready = manager.next();
    assert!(
        ready.starts_with("READY=1\nSTATUS=generation 1, 1 listeners, configuration good"),
        "{ready}"
    );
    server.signal(Signal::SIGHUP);
    let reloading = manager.next();
    let clock = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    assert!(
        clock.is_some_and(|c| c.parse::<u64>().is_ok_and(|c| c > 0)),
        "{reloading}"
    );
    assert!(manager.next().starts_with("READY=1\nSTATUS=generation 2, "));
    server.setup().write("worker.yaml", "nonsense: 1\n");
    server.signal(Signal::SIGHUP);
    assert!(manager.next().starts_with("RELOADING=1\n"));
    let ready = manager.next();
    assert!(
        ready.starts_with("READY=1\n") && ready.contains("configuration broken"),
        "{ready}"
    );
    server.signal(Signal::SIGTERM);
    assert!(manager.next().starts_with("STOPPING=1"));
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused() {
    let mut server = Server::start();
    let lock = fs::read_to_string(server.setup().state().join("lock")).expect("lock");
    assert_eq!(lock.trim().parse::<i32>().ok(), Some(server.pid()));
    let mut second = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    second.arg("-c").arg(server.setup().config()).args(["-p", "0"]);
    let (success, said) = run(&mut second, b"");
    assert!(!success, "{said}");
    let state = server.setup().state();
    assert!(
        said.contains("another rsmtpd holds the lock") && said.contains(&*state.to_string_lossy()),
        "{said}"
    );
    assert_eq!(
        server
            .hello()
            .deliver("a@example.org", &["test@example.com"], MESSAGE)
            .code,
        250
    );
}

#[test]
fn in_the_background_with_a_log_file() {
    let setup = Setup::new();
    // The logger makes the new file: it must be able to.
    let logs = setup.aside().join("logs");
    fs::create_dir(&logs).expect("directory");
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o777)).expect("mode");
    let log = logs.join("rsmtpd.log");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_rsmtpd"));
    daemon.arg("-c").arg(setup.config()).arg("-b").arg("-l").arg(&log);
    let (success, said) = run(&mut daemon, b"");
    assert!(success, "{said}");
    let lock = fs::read_to_string(setup.state().join("lock")).expect("lock");
    let master: i32 = lock.trim().parse().expect("process id");
    let port = setup.port();
    let mut client = Client::over(std::net::TcpStream::connect(("127.0.0.1", port)).expect("ready when -b returns"));
    assert_eq!(client.reply().code, 220);
    assert_eq!(client.command("QUIT").code, 221);
    let text = || fs::read_to_string(&log).unwrap_or_default();
    assert!(wait_until(|| text().contains("event=listening")), "{}", text());
    // Rotated: the daemon goes on in a new file at HUP.
    fs::rename(&log, logs.join("rsmtpd.log.1")).expect("rotated");
    kill(Pid::from_raw(master), Signal::SIGHUP).expect("signal");
    assert!(wait_until(|| text().contains("event=reloaded")), "{}", text());
    kill(Pid::from_raw(master), Signal::SIGTERM).expect("signal");
    assert!(wait_until(|| !exists(master)));
    assert!(text().contains("event=stopped"), "{}", text());
}
