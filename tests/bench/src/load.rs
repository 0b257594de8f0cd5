//! The client: many sessions in one thread, lock-step (no pipelining), 127.0.0.1 only.
//!
//! Bounded by count and by time. It must cost little, as it shares the machine with the server it measures; how much
//! it took is among the figures.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as Blocking};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustls::{ClientConnection, StreamOwned};

use crate::tls;

/// Recipients are u1 to u50 in turn.
pub const RECIPIENTS: u64 = 50;
/// What is under way may go on for so long after the time is up.
const GRACE: Duration = Duration::from_secs(10);
/// Failures after which nothing new begins.
const TOO_MANY_FAILURES: u64 = 100;

/// What to do in each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// EHLO, messages, QUIT.
    Send,
    /// QUIT after the greeting.
    Quit,
    /// EHLO, STARTTLS, EHLO, QUIT.
    Tls,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub kind: Kind,
    pub port: u16,
    /// At the same time.
    pub sessions: usize,
    /// Messages of a connection; 0: as long as the run lasts.
    pub per_connection: u64,
    /// Octets of a message.
    pub length: usize,
    /// Nothing new begins after this.
    pub time: Duration,
    /// Messages or connections at most.
    pub most: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Messages accepted, or connections that ended with 221.
    pub ok: u64,
    /// Sessions that broke or read an unexpected reply.
    pub failed: u64,
    /// From the first connect to the last success.
    pub seconds: f64,
    /// Connect to 220, in microseconds, sorted.
    pub greeting: Vec<u32>,
    /// ClientHello to the end of the handshake, in microseconds, sorted.
    pub handshake: Vec<u32>,
    /// CPU seconds that the client took.
    pub client_cpu: f64,
    /// How often what went wrong.
    pub faults: HashMap<String, u64>,
}

impl Figures {
    /// Per second.
    pub fn rate(&self) -> f64 {
        self.ok as f64 / self.seconds.max(1e-9)
    }

    /// A quantile of connect to 220, in milliseconds.
    pub fn greeting_ms(&self, quantile: f64) -> f64 {
        milliseconds(&self.greeting, quantile)
    }

    /// A quantile of the handshake, in milliseconds.
    pub fn handshake_ms(&self, quantile: f64) -> f64 {
        milliseconds(&self.handshake, quantile)
    }
}

fn milliseconds(sorted: &[u32], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * quantile) as usize;
    sorted.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1000.0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Greeting,
    Hello,
    StartTls,
    Handshake,
    SecureHello,
    Mail,
    Rcpt,
    Data,
    Text,
    Quit,
}

struct Client {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// When the ClientHello went out.
    shaking: Instant,
    step: Step,
    opened: Instant,
    /// Messages sent on this connection.
    sent: u64,
    recipient: u64,
    input: Vec<u8>,
    /// What goes out first.
    head: Vec<u8>,
    head_sent: usize,
    /// How much of the shared body went out; only in `Step::Text`.
    body_sent: usize,
}

/// What a reply led to.
enum Course {
    Goes,
    Over,
}

struct Run {
    load: Load,
    poll: Poll,
    body: Vec<u8>,
    clients: Vec<Option<Client>>,
    begun: u64,
    start: Instant,
    last: Instant,
    figures: Figures,
}

/// Runs the load to its end.
pub fn run(load: Load) -> io::Result<Figures> {
    let before = cpu()?;
    let now = Instant::now();
    let mut run = Run {
        load,
        poll: Poll::new()?,
        body: body(load.length),
        clients: Vec::new(),
        begun: 0,
        start: now,
        last: now,
        figures: Figures::default(),
    };
    for slot in 0..load.sessions {
        run.clients.push(None);
        run.open(slot)?;
    }
    let mut events = Events::with_capacity(256);
    while run.clients.iter().any(Option::is_some) && run.start.elapsed() < load.time + GRACE {
        run.poll.poll(&mut events, Some(Duration::from_millis(200)))?;
        for event in &events {
            run.serve(event.token().0, event.is_writable())?;
        }
    }
    let stuck = run.clients.iter().flatten().count() as u64;
    let mut figures = run.figures;
    if stuck > 0 {
        figures.failed += stuck;
        *figures.faults.entry("no reply in time".into()).or_default() += stuck;
    }
    figures.seconds = (run.last - run.start).as_secs_f64();
    figures.greeting.sort_unstable();
    figures.handshake.sort_unstable();
    figures.client_cpu = cpu()? - before;
    Ok(figures)
}

fn cpu() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Lines of 76 letters, then the dot; with a header of about 200 octets `length` in all.
fn body(length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length + 16);
    let mut letters = (b'a'..=b'z').cycle();
    while body.len() + 78 + 200 < length || body.is_empty() {
        body.resize(body.len() + 76, letters.next().unwrap_or(b'a'));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b".\r\n");
    body
}

fn target(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Run {
    fn may_begin(&self) -> bool {
        self.begun < self.load.most && self.start.elapsed() < self.load.time && self.figures.failed < TOO_MANY_FAILURES
    }

    /// Opens a connection in a slot, if anything may begin.
    fn open(&mut self, slot: usize) -> io::Result<()> {
        if !self.may_begin() {
            return Ok(());
        }
        if self.load.kind != Kind::Send {
            self.begun += 1;
        }
        let opened = Instant::now();
        let mut stream = match TcpStream::connect(target(self.load.port)) {
            Ok(stream) => stream,
            Err(error) => {
                self.fail(&error.to_string());
                return Ok(());
            }
        };
        let _ = stream.set_nodelay(true);
        self.poll
            .registry()
            .register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
        self.clients[slot] = Some(Client {
            stream,
            tls: None,
            shaking: opened,
            step: Step::Greeting,
            opened,
            sent: 0,
            recipient: 0,
            input: Vec::with_capacity(1024),
            head: Vec::with_capacity(512),
            head_sent: 0,
            body_sent: 0,
        });
        Ok(())
    }

    fn fail(&mut self, why: &str) {
        self.figures.failed += 1;
        *self.figures.faults.entry(why.to_owned()).or_default() += 1;
    }

    fn serve(&mut self, slot: usize, writable: bool) -> io::Result<()> {
        let Some(mut client) = self.clients[slot].take() else {
            return Ok(());
        };
        match self.drive(&mut client, writable) {
            Ok(Course::Goes) => self.clients[slot] = Some(client),
            Ok(Course::Over) => {
                drop(client);
                self.open(slot)?;
            }
            Err(error) => {
                self.fail(&format!("{:?}: {error}", client.step));
                drop(client);
                self.open(slot)?;
            }
        }
        Ok(())
    }

    fn drive(&mut self, client: &mut Client, writable: bool) -> io::Result<Course> {
        if writable {
            client.flush(&self.body)?;
        }
        loop {
            match client.take() {
                Ok(0) => return Err(io::Error::other("closed by the server")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Course::Goes),
                Err(error) => return Err(error),
            }
            if client.step == Step::Handshake {
                client.flush(&self.body)?;
                if client.tls.as_ref().is_some_and(|tls| !tls.is_handshaking()) {
                    let micros = client.shaking.elapsed().as_micros();
                    self.figures.handshake.push(u32::try_from(micros).unwrap_or(u32::MAX));
                    client.say(Step::SecureHello, "EHLO client.example.org\r\n");
                    client.flush(&self.body)?;
                }
            }
            while let Some(code) = client.reply()? {
                if let Course::Over = self.answer(client, code)? {
                    return Ok(Course::Over);
                }
            }
        }
    }

    fn answer(&mut self, client: &mut Client, code: u16) -> io::Result<Course> {
        let expected = match client.step {
            Step::Greeting | Step::StartTls => 220,
            Step::Data => 354,
            Step::Quit => 221,
            _ => 250,
        };
        if code != expected {
            return Err(io::Error::other(format!("reply {code}")));
        }
        match client.step {
            Step::Greeting => {
                let micros = client.opened.elapsed().as_micros();
                self.figures.greeting.push(u32::try_from(micros).unwrap_or(u32::MAX));
                match self.load.kind {
                    Kind::Quit => client.say(Step::Quit, "QUIT\r\n"),
                    Kind::Send | Kind::Tls => client.say(Step::Hello, "EHLO client.example.org\r\n"),
                }
            }
            Step::Hello if self.load.kind == Kind::Tls => client.say(Step::StartTls, "STARTTLS\r\n"),
            Step::StartTls => {
                client.say(Step::Handshake, "");
                client.shaking = Instant::now();
                client.tls = Some(Box::new(tls::client().map_err(io::Error::other)?));
            }
            Step::Handshake => return Err(io::Error::other("a reply within the handshake")),
            Step::SecureHello => client.say(Step::Quit, "QUIT\r\n"),
            Step::Mail => {
                let line = format!("RCPT TO:<u{}@example.com>\r\n", client.recipient);
                client.say(Step::Rcpt, &line);
            }
            Step::Rcpt => client.say(Step::Data, "DATA\r\n"),
            Step::Data => {
                let head = format!(
                    "From: Sender <sender@example.org>\r\nTo: <u{}@example.com>\r\nSubject: benchmark message\r\n\
                     Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{}.{:p}@client.example.org>\r\n\r\n",
                    client.recipient, self.begun, client
                );
                client.say(Step::Text, &head);
            }
            Step::Hello | Step::Text => {
                if client.step == Step::Text {
                    client.sent += 1;
                    self.succeeded();
                }
                self.next_message(client);
            }
            Step::Quit => {
                if self.load.kind != Kind::Send {
                    self.succeeded();
                }
                return Ok(Course::Over);
            }
        }
        client.flush(&self.body)?;
        Ok(Course::Goes)
    }

    fn succeeded(&mut self) {
        self.figures.ok += 1;
        self.last = Instant::now();
    }

    fn next_message(&mut self, client: &mut Client) {
        let full = self.load.per_connection > 0 && client.sent >= self.load.per_connection;
        if full || !self.may_begin() {
            return client.say(Step::Quit, "QUIT\r\n");
        }
        self.begun += 1;
        client.recipient = self.begun % RECIPIENTS + 1;
        client.say(Step::Mail, "MAIL FROM:<sender@example.org>\r\n");
    }
}

impl Client {
    fn say(&mut self, step: Step, text: &str) {
        self.step = step;
        self.head.clear();
        self.head.extend_from_slice(text.as_bytes());
        self.head_sent = 0;
        self.body_sent = 0;
    }

    /// Reads what is there; 0 at the end.
    fn take(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let Some(tls) = &mut self.tls else {
            let length = self.stream.read(&mut buffer)?;
            self.input.extend_from_slice(&buffer[..length]);
            return Ok(length);
        };
        let length = tls.read_tls(&mut self.stream)?;
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let length = tls.reader().read(&mut buffer)?;
            self.input.extend_from_slice(&buffer[..length]);
            left -= length;
        }
        Ok(length)
    }

    /// The same under TLS, where no body is sent.
    fn flush_tls(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        tls.writer().write_all(&self.head[self.head_sent..])?;
        self.head_sent = self.head.len();
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what is pending, as much as there is room for.
    fn flush(&mut self, body: &[u8]) -> io::Result<()> {
        if self.tls.is_some() {
            return self.flush_tls();
        }
        loop {
            let head = &self.head[self.head_sent..];
            let body = if self.step == Step::Text {
                &body[self.body_sent..]
            } else {
                &[]
            };
            if head.is_empty() && body.is_empty() {
                return Ok(());
            }
            match self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(written) => {
                    let of_head = written.min(head.len());
                    self.head_sent += of_head;
                    self.body_sent += written - of_head;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The code of the next whole reply.
    fn reply(&mut self) -> io::Result<Option<u16>> {
        while let Some(end) = self.input.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let code = line
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let code = code.ok_or_else(|| io::Error::other("no reply"))?;
            if line.get(3) != Some(&b'-') {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }
}

/// Connections that said EHLO and wait.
pub struct Held(Vec<Box<dyn Stream>>);

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

impl Held {
    /// Opens so many, under TLS or in clear.
    pub fn open(port: u16, count: usize, under_tls: bool) -> io::Result<Held> {
        let mut held = Held(Vec::with_capacity(count));
        for _ in 0..count {
            let mut stream = Blocking::connect_timeout(&target(port), Duration::from_secs(20))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            expect(&mut stream, 220)?;
            hello(&mut stream)?;
            if !under_tls {
                held.0.push(Box::new(stream));
                continue;
            }
            stream.write_all(b"STARTTLS\r\n")?;
            expect(&mut stream, 220)?;
            let mut secure = StreamOwned::new(tls::client().map_err(io::Error::other)?, stream);
            hello(&mut secure)?;
            held.0.push(Box::new(secure));
        }
        Ok(held)
    }

    /// Ends them; how many were still alive.
    pub fn release(mut self) -> usize {
        for stream in &mut self.0 {
            let _ = stream.write_all(b"QUIT\r\n");
            let _ = stream.flush();
        }
        self.0.iter_mut().filter_map(|stream| expect(stream, 221).ok()).count()
    }
}

fn hello(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(b"EHLO client.example.org\r\n")?;
    stream.flush()?;
    expect(stream, 250)
}

/// Whether the port answers with 220.
pub fn answers(port: u16) -> bool {
    let Ok(mut stream) = Blocking::connect_timeout(&target(port), Duration::from_secs(2)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let greeted = expect(&mut stream, 220).is_ok();
    let _ = stream.write_all(b"QUIT\r\n");
    let _ = expect(&mut stream, 221);
    greeted
}

/// Reads one reply of this code.
fn expect(stream: &mut impl Read, code: u16) -> io::Result<()> {
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => read.extend_from_slice(&buffer[..length]),
        }
        let last = read
            .strip_suffix(b"\r\n")
            .and_then(|text| text.rsplit(|b| *b == b'\n').next());
        if let Some([digits @ .., b' ']) = last.and_then(|line| line.get(..4)) {
            return if digits == code.to_string().as_bytes() {
                Ok(())
            } else {
                Err(io::Error::other(String::from_utf8_lossy(&read).into_owned()))
            };
        }
    }
}
