//! Ten thousand connections that say nothing, each with a process of its own, and one more that is served at once.

mod common;

use common::{Server, Setup, wait_until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const IDLE: usize = 10_000;
const NAME: &str = "ten_thousand_idle_connections_are_held";

/// What this machine lacks for the test.
fn lacking() -> Option<String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if hard < IDLE as u64 + 2500 {
        return Some(format!("a hard limit of {} descriptors, has {hard}", IDLE + 2500));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))
        .unwrap_or_default();
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    if kib < 4 << 20 {
        return Some("4 GiB of free memory".into());
    }
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let most: usize = most.trim().parse().unwrap_or(0);
    (most < 2 * IDLE).then(|| format!("room for {} processes", 2 * IDLE))
}

/// A connection that was greeted.
fn greeted(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("connection");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("timeout");
    let mut octets = [0; 512];
    let length = stream.read(&mut octets).expect("greeting");
    assert!(
        octets[..length].starts_with(b"220 "),
        "{}",
        String::from_utf8_lossy(&octets[..length])
    );
    stream
}

/// The mean of what a worker adds to the memory in use, in KiB.
fn mean_pss(master: i32) -> Option<u64> {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
    let workers: Vec<&str> = children.split_whitespace().collect();
    let (mut sum, mut count) = (0, 0);
    for pid in workers.iter().step_by(workers.len() / 100 + 1) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Pss:"));
        if let Some(kib) = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()) {
            sum += kib;
            count += 1;
        }
    }
    (count > 0).then(|| sum / count)
}

#[test]
fn ten_thousand_idle_connections_are_held() {
    if !common::needs_root(NAME) {
        return;
    }
    if let Some(what) = lacking() {
        return common::skip(NAME, &format!("needs {what}"));
    }
    let mut setup = Setup::new();
    let room = IDLE + 200;
    setup.set(
        "rsmtpd.yaml",
        "workers",
        &format!("{{min_spare: 32, max_spare: 64, max: {room}}}"),
    );
    setup.set("rsmtpd.yaml", "log_level", "warning");
    let server = setup.start();
    let began = Instant::now();
    let mut idle = Vec::with_capacity(IDLE);
    let mut halves = [Duration::ZERO; 2];
    for half in &mut halves {
        let began = Instant::now();
        idle.extend((0..IDLE / 2).map(|_| greeted(&server)));
        *half = began.elapsed();
    }
    let opened = began.elapsed();
    let mut waits: Vec<Duration> = (0..100)
        .map(|_| {
            let began = Instant::now();
            drop(greeted(&server));
            began.elapsed()
        })
        .collect();
    waits.sort();
    let pss = mean_pss(server.pid());
    println!(
        "{IDLE} idle connections, opened in {opened:.1?} ({halves:.1?}); the next is greeted after {:.1?} (median), {:.1?} (longest); \
         PSS of a worker {} KiB",
        waits[50],
        waits[99],
        pss.map_or("?".to_owned(), |kib| kib.to_string())
    );
    assert!(
        waits[50] < Duration::from_millis(250) && waits[99] < Duration::from_secs(5),
        "{waits:?}"
    );
    // A build for debugging has larger code and frames.
    let released = std::env::var_os(common::RELEASE).is_some();
    let most = if released { 64 } else { 128 };
    assert!(pss.is_none_or(|kib| kib <= most), "{pss:?} KiB of {most}");
    assert!(!server.said().contains("event=fork-failed"), "{}", server.said());
    // Each is still served.
    for mut stream in &idle {
        stream.write_all(b"NOOP\r\n").expect("write");
    }
    for mut stream in &idle {
        let mut octets = [0; 512];
        let length = stream.read(&mut octets).expect("reply");
        assert!(octets[..length].starts_with(b"250 "), "{:?}", &octets[..length]);
    }
    for mut stream in idle.iter().step_by(100) {
        stream.write_all(b"QUIT\r\n").expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("reply");
        assert!(text.starts_with("221 "), "{text}");
    }
    drop(idle);
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    let count = || {
        fs::read_to_string(&children)
            .unwrap_or_default()
            .split_whitespace()
            .count()
    };
    // The spares, and one parent for each helper.
    assert!(wait_until(|| count() <= 64 + 4), "{} processes are left", count());
}
