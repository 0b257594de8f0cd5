//! What is measured, and what it is expected to be.

use std::io;
use std::time::Duration;

use crate::aids::Reference;
use crate::load::{self, Figures, Held, Kind, Load};
use crate::server::Server;

/// Connections that are held idle.
const HELD: usize = 500;
/// No run sends more than this, as it all has to fit on the disk.
const MOST_OCTETS: usize = 2 << 30;

/// One measured number of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub what: &'static str,
    pub value: f64,
    /// What the second server's number divided by the first one's is expected to be.
    pub expected: Expected,
}

/// A bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Nothing; for information.
    Nothing,
    /// The ratio.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// Our own number.
    OursAtMost(f64),
    OursAtLeast(f64),
}

/// A scenario by name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    measure: fn(&Server, Duration) -> io::Result<Vec<Number>>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "msg10",
        about: "4 KiB, one per connection, 10 at once",
        measure: msg10,
    },
    Scenario {
        name: "keep10",
        about: "4 KiB on kept connections, 10 at once",
        measure: keep10,
    },
    Scenario {
        name: "big1",
        about: "1 MiB, one per connection, 4 at once",
        measure: big1,
    },
    Scenario {
        name: "big10",
        about: "10 MiB, one per connection, 4 at once",
        measure: big10,
    },
    Scenario {
        name: "quit10",
        about: "220, QUIT, 221; 10 at once",
        measure: quit10,
    },
    Scenario {
        name: "mem",
        about: "500 idle connections held",
        measure: memory,
    },
    Scenario {
        name: "idle",
        about: "msg10 beside 500 idle connections",
        measure: idle,
    },
    Scenario {
        name: "tls10",
        about: "EHLO, STARTTLS, EHLO, QUIT; 10 at once",
        measure: tls10,
    },
    Scenario {
        name: "tls1",
        about: "STARTTLS, one at a time",
        measure: tls1,
    },
    Scenario {
        name: "tlsmem",
        about: "500 idle connections held under TLS",
        measure: tls_memory,
    },
    Scenario {
        name: "proxy10",
        about: "4 KiB through the proxy, one per connection, 10 at once",
        measure: proxy10,
    },
    Scenario {
        name: "proxybig",
        about: "1 MiB through the proxy, one per connection, 4 at once",
        measure: proxy_big,
    },
];

impl Scenario {
    /// Starts the server afresh, measures, stops it.
    pub fn run(&self, server: &Server, time: Duration) -> io::Result<Vec<Number>> {
        server.collect()?;
        let running = server.start()?;
        let numbers = (self.measure)(server, time);
        running.stop()?;
        server.collect()?;
        numbers
    }
}

fn messages(server: &Server, sessions: usize, per_connection: u64, length: usize, time: Duration) -> Load {
    let most = (MOST_OCTETS / length).min(100_000) as u64;
    Load {
        kind: Kind::Send,
        port: server.port,
        sessions,
        per_connection,
        length,
        time,
        most,
    }
}

/// One run and the CPU seconds that the server took for it, delivery included; all that was accepted must be there.
fn measure(server: &Server, load: Load) -> io::Result<(Figures, f64)> {
    let warm_up = Load {
        time: Duration::from_millis(700),
        most: load.most / 4 + 1,
        ..load
    };
    load::run(warm_up)?;
    settle(server)?;
    server.collect()?;
    let sunk = || server.aids.sink.as_ref().map_or(0, |sink| sink.taken());
    let (before, sunk_before) = (server.cpu()?, sunk());
    let figures = load::run(load)?;
    settle(server)?;
    let cpu = server.cpu()? - before;
    if figures.failed > 0 || figures.ok == 0 {
        return Err(io::Error::other(format!(
            "{} failed, {} succeeded: {:?}",
            figures.failed, figures.ok, figures.faults
        )));
    }
    let delivered = match load.port == server.proxy {
        true => sunk() - sunk_before,
        false => server.collect()?,
    };
    if load.kind == Kind::Send && delivered != figures.ok {
        return Err(io::Error::other(format!(
            "{} accepted, {delivered} delivered",
            figures.ok
        )));
    }
    Ok((figures, cpu))
}

/// Until the server has been quiet for a while, at most 30 seconds.
fn settle(server: &Server) -> io::Result<()> {
    let mut quiet = 0;
    let mut last = server.cpu()?;
    for _ in 0..300 {
        std::thread::sleep(Duration::from_millis(100));
        let cpu = server.cpu()?;
        quiet = if cpu - last > 0.002 { 0 } else { quiet + 1 };
        last = cpu;
        if quiet >= 6 {
            break;
        }
    }
    Ok(())
}

fn plain(what: &'static str, value: f64) -> Number {
    Number {
        what,
        value,
        expected: Expected::Nothing,
    }
}

fn of_client(figures: &Figures) -> Number {
    plain("client CPU, share of a core", figures.client_cpu / figures.seconds)
}

fn msg10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let (figures, cpu) = measure(server, messages(server, 10, 1, 4096, time))?;
    Ok(vec![
        Number {
            what: "messages/s",
            value: figures.rate(),
            expected: Expected::RatioAtLeast(2.5),
        },
        Number {
            what: "CPU ms/message",
            value: 1000.0 * cpu / figures.ok as f64,
            expected: Expected::RatioAtMost(0.35),
        },
        of_client(&figures),
    ])
}

fn keep10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let (figures, cpu) = measure(server, messages(server, 10, 0, 4096, time))?;
    Ok(vec![
        Number {
            what: "messages/s",
            value: figures.rate(),
            expected: Expected::RatioAtLeast(3.0),
        },
        plain("CPU ms/message", 1000.0 * cpu / figures.ok as f64),
        of_client(&figures),
    ])
}

fn big(server: &Server, length: usize, time: Duration) -> io::Result<Vec<Number>> {
    let (figures, cpu) = measure(server, messages(server, 4, 1, length, time))?;
    let rate = figures.rate() * length as f64 / 1e6;
    Ok(vec![
        Number {
            what: "MB/s",
            value: rate,
            expected: Expected::RatioAtLeast(1.5),
        },
        plain("CPU ms/message", 1000.0 * cpu / figures.ok as f64),
        of_client(&figures),
    ])
}

fn big1(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    big(server, 1 << 20, time)
}

fn big10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    big(server, 10 << 20, time)
}

fn quit10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let load = Load {
        kind: Kind::Quit,
        most: 100_000,
        ..messages(server, 10, 1, 4096, time)
    };
    let (figures, cpu) = measure(server, load)?;
    Ok(vec![
        Number {
            what: "connections/s",
            value: figures.rate(),
            expected: Expected::RatioAtLeast(0.8),
        },
        plain("CPU ms/connection", 1000.0 * cpu / figures.ok as f64),
        plain("connect to 220, p50 ms", figures.greeting_ms(0.5)),
        Number {
            what: "connect to 220, p99 ms",
            value: figures.greeting_ms(0.99),
            expected: Expected::RatioAtMost(1.0),
        },
        of_client(&figures),
    ])
}

fn memory(server: &Server, _: Duration) -> io::Result<Vec<Number>> {
    held(server, false, 64.0)
}

fn tls_memory(server: &Server, _: Duration) -> io::Result<Vec<Number>> {
    held(server, true, 200.0)
}

fn held(server: &Server, under_tls: bool, most: f64) -> io::Result<Vec<Number>> {
    let (empty, _) = server.memory();
    let held = Held::open(server.port, HELD, under_tls)?;
    settle(server)?;
    let (full, processes) = server.memory();
    let alive = held.release();
    if alive != HELD {
        return Err(io::Error::other(format!(
            "{alive} of {HELD} idle connections were alive"
        )));
    }
    let each = full.saturating_sub(empty) as f64 / HELD as f64;
    Ok(vec![
        Number {
            what: "PSS KiB/connection",
            value: each,
            expected: Expected::OursAtMost(most),
        },
        plain("PSS KiB before", empty as f64),
        plain("processes", processes as f64),
    ])
}

fn idle(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let load = messages(server, 10, 1, 4096, time);
    let (before, _) = measure(server, load)?;
    let held = Held::open(server.port, HELD, false)?;
    let (busy, _) = measure(server, load)?;
    let alive = held.release();
    if alive != HELD {
        return Err(io::Error::other(format!(
            "{alive} of {HELD} idle connections were alive"
        )));
    }
    settle(server)?;
    let (after, _) = measure(server, load)?;
    let free = (before.rate() + after.rate()) / 2.0;
    Ok(vec![
        Number {
            what: "rate with / without",
            value: busy.rate() / free,
            expected: Expected::OursAtLeast(0.95),
        },
        plain("messages/s with", busy.rate()),
    ])
}

fn handshakes(port: u16, sessions: usize, time: Duration) -> Load {
    Load {
        kind: Kind::Tls,
        port,
        sessions,
        per_connection: 1,
        length: 0,
        time,
        most: 100_000,
    }
}

fn tls10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let (figures, cpu) = measure(server, handshakes(server.port, 10, time))?;
    Ok(vec![
        Number {
            what: "handshakes/s",
            value: figures.rate(),
            expected: Expected::RatioAtLeast(2.0),
        },
        Number {
            what: "CPU ms/handshake",
            value: 1000.0 * cpu / figures.ok as f64,
            expected: Expected::RatioAtMost(0.5),
        },
        of_client(&figures),
    ])
}

/// What it costs that the key is elsewhere: against a server that forks for each connection as well, and signs itself.
fn tls1(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    let pair = server.aids.pair.as_ref();
    let reference = Reference::start(pair.ok_or_else(|| io::Error::other("--pair is missing"))?)?;
    let slice = time / 4;
    let (mut own, mut local) = (Vec::new(), Vec::new());
    // In turn, as the machine is not the same for long.
    for _ in 0..4 {
        let (figures, _) = measure(server, handshakes(server.port, 1, slice))?;
        own.extend(figures.handshake);
        let figures = load::run(handshakes(reference.port, 1, slice))?;
        if figures.failed > 0 || figures.ok == 0 {
            return Err(io::Error::other(format!("the reference: {:?}", figures.faults)));
        }
        local.extend(figures.handshake);
    }
    let middle = |all: Vec<u32>| {
        let mut figures = Figures {
            handshake: all,
            ..Figures::default()
        };
        figures.handshake.sort_unstable();
        figures.handshake_ms(0.5)
    };
    let (own, local) = (middle(own), middle(local));
    Ok(vec![
        plain("handshake, p50 ms", own),
        plain("of one with the key at hand", local),
        Number {
            what: "difference, ms",
            value: own - local,
            expected: Expected::OursAtMost(0.1),
        },
    ])
}

fn proxied(server: &Server, sessions: usize, length: usize, time: Duration) -> io::Result<Vec<Number>> {
    if server.aids.sink.is_none() {
        return Err(io::Error::other("--sink is missing"));
    }
    let load = Load {
        port: server.proxy,
        ..messages(server, sessions, 1, length, time)
    };
    let (figures, cpu) = measure(server, load)?;
    Ok(vec![
        Number {
            what: "messages/s",
            value: figures.rate(),
            expected: Expected::RatioAtLeast(1.0),
        },
        plain("CPU ms/message", 1000.0 * cpu / figures.ok as f64),
        plain(
            "client and sink CPU, share of a core",
            figures.client_cpu / figures.seconds,
        ),
    ])
}

fn proxy10(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    proxied(server, 10, 4096, time)
}

fn proxy_big(server: &Server, time: Duration) -> io::Result<Vec<Number>> {
    proxied(server, 4, 1 << 20, time)
}
