//! What the black-box tests share: the real binary on a free loopback port
//! with a configuration and a state directory of its own, a client that
//! speaks lines, and a look into the Maildirs.
//!
//! A test that cannot run says so by name on the real standard error and
//! passes; it never fails for a missing tool.
#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

pub mod back_end;
pub mod certificates;
pub mod dns;
pub mod manual;
pub mod messages;
pub mod processes;
pub mod relay;
pub mod secure;
pub mod service;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long anything that should happen soon may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The recipients that every test server knows, all of example.com.
pub const RECIPIENTS: &str = "\
allow_soft_delivery: no
allow_tagging: yes
tagging_characters: \"+\"
domains:
  example.com:
    recipients:
      - test
      - other
      - Mixed.Case
      - \"grüße\"
      - alias:
        deliver_to: test@example.com
      - gone:
        enabled: no
  example.net:
    allow_soft_delivery: yes
    recipients:
      - test
";

/// Says on the real standard error that `test` is skipped and why.
pub fn skip(test: &str, missing: &str) {
    let _ = writeln!(io::stderr(), "skipped: {test}: {missing}");
}

/// The path of `program`, looked up as a shell does and in the sbin
/// directories; if there is none, `test` is named as skipped.
pub fn tool(test: &str, program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|path| is_executable(path));
    if found.is_none() {
        skip(test, &format!("{program} is not installed"));
    }
    found
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// True as root; otherwise `test` is named as skipped.
pub fn needs_root(test: &str) -> bool {
    let root = is_root();
    if !root {
        skip(test, "needs root");
    }
    root
}

/// Whether the tests run with user id 0.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Calls `ready` until it is true or `PATIENCE` is over; says which.
pub fn wait_until(mut ready: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The binary under test: that of the tests' own build, or the one that RSMTPD_BINARY names, for what is claimed of a
/// release build.
pub fn binary() -> OsString {
    std::env::var_os(RELEASE).unwrap_or_else(|| env!("CARGO_BIN_EXE_rsmtpd").into())
}

/// Names a release build to be tested in the place of the tests' own.
pub const RELEASE: &str = "RSMTPD_BINARY";

/// Where the shipped configuration listens.
pub const SHIPPED_PORT: u16 = 8025;

/// A configuration directory: the shipped one with test recipients, on a
/// free port, with its own state directory.
pub struct Setup {
    directory: TempDir,
    port: u16,
    low: bool,
    /// Not waited for a greeting of 220 at the start.
    silent: bool,
    /// Started as from a fresh clone.
    cloned: bool,
    state: Option<PathBuf>,
    launcher: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// The shipped configuration, made harmless.
    pub fn new() -> Setup {
        Setup::below(&std::env::temp_dir())
    }

    /// The same in memory, where there is such a file system: for what proves nothing about a disk, and would wait for
    /// one most of its time.
    pub fn in_memory() -> Setup {
        let memory = Path::new("/dev/shm");
        let space = nix::sys::statvfs::statvfs(memory).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
        if space >= 1 << 30 && tempfile::tempfile_in(memory).is_ok() {
            Setup::below(memory)
        } else {
            Setup::new()
        }
    }

    fn bare(directory: TempDir) -> Setup {
        Setup {
            directory,
            port: 0,
            low: false,
            silent: false,
            cloned: false,
            state: None,
            launcher: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    fn below(place: &Path) -> Setup {
        let directory = tempfile::Builder::new()
            .prefix("rsmtpd-test-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(place)
            .expect("temporary directory");
        let config = directory.path().join("config");
        fs::create_dir(&config).expect("config directory");
        for entry in fs::read_dir(root().join("config")).into_iter().flatten() {
            let from = entry.expect("shipped file").path();
            if from.extension().is_some_and(|e| e == "yaml") {
                let to = config.join(from.file_name().expect("name"));
                fs::copy(&from, to).expect("copy of a shipped file");
            }
        }
        let mut setup = Setup::bare(directory);
        setup.write("simple_recipient_validator.yaml", RECIPIENTS);
        setup.set("worker.yaml", "maximum_errors", "100");
        setup.set("worker.yaml", "maximum_unknown_commands", "100");
        setup.renew_port();
        setup
    }

    fn renew_port(&mut self) {
        self.port = if self.low { free_low_port() } else { free_port() };
        let text = format!(
            "address: 127.0.0.1\nport: {}\nserver_name: mail.example.com\nstate: {}\n",
            self.port,
            self.state().display()
        );
        let rest = self.read("rsmtpd.yaml.more");
        self.write("rsmtpd.yaml", &(text + &rest));
    }

    /// Where the files are.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Where the mail goes.
    pub fn state(&self) -> PathBuf {
        let usual = || self.directory.path().join("state");
        self.state.clone().unwrap_or_else(usual)
    }

    /// A file of the configuration, "" if there is none.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path_of(file)).unwrap_or_default()
    }

    /// Writes a whole file of the configuration.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path_of(file);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
    }

    fn path_of(&self, file: &str) -> PathBuf {
        // What tests add to rsmtpd.yaml is kept beside the directory, because
        // the file is written again when the port is.
        if file == "rsmtpd.yaml.more" {
            self.directory.path().join(file)
        } else {
            self.config().join(file)
        }
    }

    /// Sets one top-level key (`value` is YAML, may span indented lines).
    pub fn set(&mut self, file: &str, key: &str, value: &str) {
        let target = if file == "rsmtpd.yaml" {
            "rsmtpd.yaml.more"
        } else {
            file
        };
        let text = without_key(&self.read(target), key) + &format!("{key}: {value}\n");
        self.write(target, &text);
        if file == "rsmtpd.yaml" {
            self.renew_port();
        }
    }

    /// Listens on a port that only root may bind.
    pub fn low_port(mut self) -> Setup {
        self.low = true;
        self.renew_port();
        self
    }

    /// Whatever the server says to a client, it counts as started once it listens.
    pub fn whatever_it_says(mut self) -> Setup {
        self.silent = true;
        self
    }

    /// Starts the binary in the checkout without any argument, as `cargo run` does: the shipped configuration and its port
    /// count, nothing of this setup but its environment. `home` is the user's; XDG_STATE_HOME is unset until it is set.
    pub fn cloned_by(mut self, home: &Path) -> Setup {
        self.cloned = true;
        self.port = SHIPPED_PORT;
        self.variable("HOME", home.to_str().expect("UTF-8"));
        self
    }

    /// Puts a program and its arguments in front, which ends in an exec of what follows.
    pub fn under<T: Into<OsString>>(mut self, launcher: impl IntoIterator<Item = T>) -> Setup {
        self.launcher = launcher.into_iter().map(Into::into).collect();
        self
    }

    /// Puts a further program between what is in front already and the daemon.
    pub fn then_under<T: Into<OsString>>(mut self, launcher: impl IntoIterator<Item = T>) -> Setup {
        self.launcher.extend(launcher.into_iter().map(Into::into));
        self
    }

    /// Puts the state directory elsewhere.
    pub fn place_state(&mut self, state: &Path) {
        self.state = Some(state.to_path_buf());
        self.renew_port();
    }

    /// Arguments of the daemon beside the configuration directory.
    pub fn arguments<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Setup {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable of the server's environment.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Where it listens unless told otherwise.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory for what the test needs beside configuration and state.
    pub fn aside(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the server with rsmtpd.yaml as it is, and waits until it greets at `address`.
    pub fn start_as_written(self, address: SocketAddr) -> Server {
        let text = self.read("rsmtpd.yaml");
        Server::start_with(self, &text, address)
    }

    /// Runs the server, which is expected to end by itself: its exit status and what it said.
    pub fn refuse(&self) -> (Option<i32>, String) {
        let mut child = self
            .command()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut said = child.stderr.take().expect("piped");
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = said.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        if !wait_until(|| !matches!(child.try_wait(), Ok(None))) {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        }
        let status = child.wait().ok().and_then(|status| status.code());
        (status, reader.join().unwrap_or_default())
    }

    /// Runs the binary once more as it would start, but with another subcommand: whether it succeeded and all
    /// that it wrote.
    pub fn run(&self, subcommand: &str) -> (bool, String) {
        run(&mut self.command_of(subcommand), b"")
    }

    fn command(&self) -> Command {
        self.command_of("serve")
    }

    fn command_of(&self, subcommand: &str) -> Command {
        let binary = binary();
        let mut words = self.launcher.iter().chain([&binary]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command.args(words);
        if self.cloned {
            command.current_dir(root()).env_remove("XDG_STATE_HOME");
        } else {
            command
                .arg("-c")
                .arg(self.config())
                .args(&self.arguments)
                .arg(subcommand);
            command.current_dir(self.directory.path());
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .envs(self.environment.clone())
            .process_group(0);
        command
    }

    /// Starts the server at the shipped configuration's port; what it said when it did not.
    pub fn start_cloned(self) -> Result<Server, String> {
        Server::launch(self).map_err(|failed| failed.1)
    }

    /// Starts the server and waits until it greets.
    pub fn start(mut self) -> Server {
        for _ in 0..3 {
            let (setup, said) = match Server::launch(self) {
                Ok(server) => return server,
                Err(failed) => *failed,
            };
            assert!(said.contains("in use"), "rsmtpd did not start; it said:\n{said}");
            self = setup; // somebody else took the port meanwhile
            self.renew_port();
        }
        panic!("no free port");
    }
}

/// `text` without the block of a top-level key.
fn without_key(text: &str, key: &str) -> String {
    let mut result = String::new();
    let mut inside = false;
    for line in text.lines() {
        let top = line.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '"');
        if top {
            inside = line.split(':').next() == Some(key);
        }
        if !inside || line.starts_with('#') {
            result += line;
            result.push('\n');
        }
    }
    result
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    listener.local_addr().expect("address").port()
}

/// A process of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its parent's id.
    pub parent: i32,
}

/// A free port that only root may bind, chosen by this process's id so that two rarely choose the same.
pub fn free_low_port() -> u16 {
    let first = std::process::id() % 300;
    (0..300)
        .map(|step| 700 + ((first + step) % 300) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port below 1024")
}

/// A running server; ends with all its processes when dropped.
pub struct Server {
    setup: Setup,
    address: SocketAddr,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Server {
    /// With the ordinary test configuration.
    pub fn start() -> Server {
        Setup::new().start()
    }

    fn launch(setup: Setup) -> Result<Server, Box<(Setup, String)>> {
        let address = SocketAddr::from(([127, 0, 0, 1], setup.port));
        Server::launch_at(setup, address)
    }

    fn launch_at(setup: Setup, address: SocketAddr) -> Result<Server, Box<(Setup, String)>> {
        let mut child = setup
            .command()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let sink = Arc::clone(&said);
        thread::spawn(move || collect(stderr, &sink));
        let mut server = Server {
            setup,
            address,
            child,
            said,
        };
        let listening = format!("listening on {}", server.address());
        let up = wait_until(|| server.said().contains(&listening) || server.has_ended());
        if up && !server.has_ended() && (server.setup.silent || server.greets()) {
            return Ok(server);
        }
        thread::sleep(Duration::from_millis(50)); // let the last words arrive
        let said = server.said();
        Err(Box::new((server.take_setup(), said)))
    }

    /// With `text` as rsmtpd.yaml, which listens on `address` at least, its last one.
    pub fn start_with(setup: Setup, text: &str, address: SocketAddr) -> Server {
        setup.write("rsmtpd.yaml", text);
        match Server::launch_at(setup, address) {
            Ok(server) => server,
            Err(failed) => panic!("rsmtpd did not start; it said:\n{}", failed.1),
        }
    }

    fn take_setup(mut self) -> Setup {
        self.end();
        let fresh = Setup::bare(tempfile::tempdir().expect("temporary directory"));
        std::mem::replace(&mut self.setup, fresh)
    }

    /// Ends it in good order; its configuration and its state are there for another start.
    pub fn into_setup(mut self) -> Setup {
        if !self.has_ended() {
            self.signal(Signal::SIGTERM);
            self.wait();
        }
        self.take_setup()
    }

    /// All its processes, with their names as in /proc/PID/comm and their parents; programs it runs are not among them.
    pub fn processes(&self) -> Vec<Process> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some((front, rest)) = stat.rsplit_once(')') else {
                continue;
            };
            let Some((pid, name)) = front.split_once(" (") else {
                continue;
            };
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i32>().ok());
            if let (Ok(pid), Some(parent), Some(group)) = (pid.parse(), number(1), number(2))
                && group == self.pid()
                && fields.first() != Some(&"Z")
            {
                let name = name.to_owned();
                found.push(Process { pid, name, parent });
            }
        }
        found
    }

    /// The working half of a helper, e.g. "delivery"; waits until there is one.
    pub fn working_half(&self, role: &str) -> i32 {
        let comm: String = format!("rsmtpd: {role}").chars().take(15).collect();
        let mut found = None;
        wait_until(|| {
            let all = self.processes();
            let parents: Vec<i32> = all
                .iter()
                .filter(|one| one.parent == self.pid() && one.name == comm)
                .map(|one| one.pid)
                .collect();
            found = all.iter().find(|one| parents.contains(&one.parent)).map(|one| one.pid);
            found.is_some()
        });
        found.expect("a working half")
    }

    fn greets(&self) -> bool {
        let stream = TcpStream::connect(self.address()).ok();
        stream.is_some_and(|stream| {
            let mut client = Client::over(stream);
            let greeted = client.try_reply().is_ok_and(|r| matches!(r.code, 220 | 521));
            client.send(b"QUIT\r\n");
            greeted
        })
    }

    /// Whether the master is gone.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// The master's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process id")
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal");
    }

    /// Waits for the master's end; its exit status.
    pub fn wait(&mut self) -> Option<i32> {
        wait_until(|| self.has_ended());
        self.child.try_wait().ok().flatten().and_then(|s| s.code())
    }

    /// The processes of this name ("rsmtpd: worker"; the kernel keeps 15 octets) whose parent is `parent`.
    pub fn children(&self, parent: i32, name: &str) -> Vec<i32> {
        let name: String = name.chars().take(15).collect();
        let all = self.processes().into_iter();
        all.filter(|one| one.parent == parent && one.name == name)
            .map(|one| one.pid)
            .collect()
    }

    /// The two halves of a helper, e.g. "logger": its parent, and the one that works.
    pub fn helper(&self, role: &str) -> (i32, i32) {
        let working = self.working_half(role);
        let parent = self.processes().into_iter().find(|one| one.pid == working);
        (parent.expect("it lives").parent, working)
    }

    /// Waits until it has said these words `count` times in all.
    pub fn await_said(&self, words: &str, count: usize) {
        let heard = wait_until(|| self.said().matches(words).count() >= count);
        let said = self.said();
        assert!(heard, "it never said {words:?} {count} times; it said:\n{said}");
    }

    /// Ends it; its configuration and state stay until it is dropped.
    pub fn stop(&mut self) {
        self.end();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its mail is.
    pub fn state(&self) -> PathBuf {
        self.setup.state()
    }

    /// Its configuration, to be edited while it runs.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// All it has written to standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("not poisoned").clone()
    }

    /// A new connection, greeting not yet read.
    pub fn connect(&self) -> Client {
        Client::over(TcpStream::connect(self.address()).expect("connection"))
    }

    /// A new connection, greeted, EHLO said.
    pub fn hello(&self) -> Client {
        let mut client = self.connect();
        assert_eq!(client.reply().code, 220);
        assert_eq!(client.command("EHLO client.example").code, 250);
        client
    }

    /// What EHLO is answered on a new connection.
    pub fn hello_text(&self) -> String {
        let mut client = self.connect();
        assert_eq!(client.reply().code, 220);
        client.command("EHLO client.example").text()
    }

    /// The Maildir of a mailbox, e.g. `mail/example.com/test`.
    pub fn maildir(&self, address: &str) -> PathBuf {
        let (local, domain) = address.rsplit_once('@').expect("local@domain");
        self.setup.state().join("mail").join(domain).join(local)
    }

    /// Every message in `new` and `cur` of the mailbox, oldest name first.
    pub fn mail(&self, address: &str) -> Vec<Vec<u8>> {
        messages_below(&self.maildir(address))
    }

    /// Waits until the mailbox has at least `count` messages; all of them.
    pub fn await_mail(&self, address: &str, count: usize) -> Vec<Vec<u8>> {
        wait_until(|| self.mail(address).len() >= count);
        let mail = self.mail(address);
        assert!(
            mail.len() >= count,
            "{address} has {} messages instead of {count}; the server said:\n{}",
            mail.len(),
            self.said()
        );
        mail
    }

    fn end(&mut self) {
        let group = Pid::from_raw(self.pid());
        if !self.has_ended() {
            let _ = kill(group, Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(1);
            while !self.has_ended() && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("--- the server said:\n{}---", self.said());
        }
    }
}

fn collect(mut from: impl BufRead, into: &Mutex<String>) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        into.lock()
            .expect("not poisoned")
            .push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// Every message in `new` and `cur` of a Maildir, oldest name first.
pub fn messages_below(maildir: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = ["new", "cur"]
        .iter()
        .flat_map(|sub| fs::read_dir(maildir.join(sub)).into_iter().flatten())
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.iter().filter_map(|p| fs::read(p).ok()).collect()
}

/// What a client sent, as a stored message without the fields in front that
/// the server added (Return-Path, Delivered-To, Received); lines end in CRLF.
/// Panics if something else stands in front or anything is different.
pub fn assert_same_message(stored: &[u8], sent: &[u8]) {
    let stored = with_crlf(stored);
    let sent = with_crlf(sent);
    let Some(front) = stored.strip_suffix(sent.as_slice()) else {
        panic!(
            "the message differs\n--- stored:\n{}\n--- sent:\n{}",
            String::from_utf8_lossy(&stored),
            String::from_utf8_lossy(&sent)
        );
    };
    let front = String::from_utf8_lossy(front);
    let mut received = 0;
    for line in front.lines().filter(|l| !l.starts_with([' ', '\t'])) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        received += usize::from(name == "received");
        let known = ["return-path", "delivered-to", "received"];
        assert!(known.contains(&name.as_str()), "{line} stands in front");
    }
    assert_eq!(received, 1, "one Received field in front:\n{front}");
}

/// Text stored with LF alone, as some agents do, gets CRLF; all else stays.
pub fn with_crlf(text: &[u8]) -> Vec<u8> {
    if text.windows(2).any(|w| w == b"\r\n") {
        return text.to_vec();
    }
    let mut result = Vec::with_capacity(text.len() + 64);
    for &byte in text {
        if byte == b'\n' {
            result.push(b'\r');
        }
        result.push(byte);
    }
    result
}

/// One reply of any number of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of each line after `ddd-` or `ddd `.
    pub lines: Vec<String>,
}

impl Reply {
    /// All lines, joined by a line feed.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// An SMTP client that does only what it is told.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Over an open connection.
    pub fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client {
            reader: BufReader::new(stream),
        }
    }

    /// The stream beneath.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are; a broken connection shows at the next reply.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Sends a line and its CRLF, reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// The next reply; panics if there is none or it breaks RFC 5321 §4.2.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|e| panic!("no reply: {e}"))
    }

    /// The next reply, or why there is none.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply {
            code: 0,
            lines: Vec::new(),
        };
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let shown = String::from_utf8_lossy(&line).into_owned();
            let bad = |why| io::Error::other(format!("{why}: {shown:?}"));
            if line.len() > 512 || !line.ends_with(b"\r\n") {
                return Err(bad("a reply line ends in CRLF and has at most 512 octets"));
            }
            let text = shown.trim_end_matches("\r\n");
            if text.contains(|c: char| c.is_control() || !c.is_ascii()) {
                return Err(bad("a reply is printable ASCII"));
            }
            let code = text.get(..3).and_then(|c| c.parse().ok());
            let code: u16 = code.ok_or_else(|| bad("no reply code"))?;
            if reply.code != 0 && reply.code != code {
                return Err(bad("another code than on the line before"));
            }
            reply.code = code;
            reply.lines.push(text.get(4..).unwrap_or_default().to_owned());
            match text.as_bytes().get(3) {
                Some(b'-') => {}
                Some(b' ') | None => return Ok(reply),
                Some(_) => return Err(bad("neither space nor hyphen")),
            }
        }
    }

    /// Whether nothing arrives for a quarter of a second.
    pub fn is_quiet(&mut self) -> bool {
        let quarter = Some(Duration::from_millis(250));
        self.stream().set_read_timeout(quarter).expect("timeout");
        let quiet = match self.reader.fill_buf() {
            Ok(_) => false,
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        };
        self.stream().set_read_timeout(Some(PATIENCE)).expect("timeout");
        quiet
    }

    /// Whether the server has closed; what it still said is dropped.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// A whole transaction; the reply after the data (or the first refusal).
    pub fn deliver(&mut self, from: &str, to: &[&str], message: &[u8]) -> Reply {
        let mail = self.command(&format!("MAIL FROM:<{from}>"));
        if mail.code != 250 {
            return mail;
        }
        for recipient in to {
            let reply = self.command(&format!("RCPT TO:<{recipient}>"));
            if reply.code != 250 {
                return reply;
            }
        }
        let data = self.command("DATA");
        if data.code != 354 {
            return data;
        }
        self.send(&stuffed(message));
        self.send(b".\r\n");
        self.reply()
    }
}

/// A message whose lines end in CRLF, with dots doubled as RFC 5321 §4.5.2.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|&b| b == b'\n') {
        if line.first() == Some(&b'.') {
            result.push(b'.');
        }
        result.extend_from_slice(line);
    }
    result
}

/// Runs a program with `input` and returns whether it succeeded and all it
/// wrote; a program that hangs is ended with the test's patience.
pub fn run(command: &mut Command, input: &[u8]) -> (bool, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let mut outputs = Vec::new();
    for mut pipe in [
        Box::new(child.stdout.take().expect("piped")) as Box<dyn Read + Send>,
        Box::new(child.stderr.take().expect("piped")),
    ] {
        outputs.push(thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }));
    }
    let ended = wait_until(|| !matches!(child.try_wait(), Ok(None)));
    if !ended {
        let _ = child.kill();
    }
    let success = child.wait().is_ok_and(|status| status.success());
    let _ = writer.join();
    let said: Vec<String> = outputs.into_iter().flat_map(|o| o.join()).collect();
    (success && ended, said.concat())
}
