//! What hostile or unlucky surroundings do to the daemon: it may refuse, and must go on.

mod common;

use common::{Setup, tool, wait_until};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const FROM: &str = "sender@example.org";
const TO: &str = "test@example.com";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\nbody\r\n";

/// Sets how many descriptors a process may have, as its own user; its hard limit stays.
fn limit_descriptors(prlimit: &Path, pid: i32, limit: &str) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("process");
    let id = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|ids| ids.split_whitespace().next()?.parse().ok())
            .expect("id")
    };
    let set = Command::new(prlimit)
        .args(["--pid", &pid.to_string(), &format!("--nofile={limit}")])
        .uid(id("Uid:"))
        .gid(id("Gid:"))
        .status();
    assert!(set.is_ok_and(|status| status.success()), "prlimit {pid} {limit}");
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Helpers that can take no more doors refuse them; those that they have, and later ones, are served.
#[test]
fn helpers_without_a_free_descriptor_refuse_doors_and_go_on() {
    let name = "helpers_without_a_free_descriptor_refuse_doors_and_go_on";
    let Some(prlimit) = tool(name, "prlimit") else {
        return;
    };
    let server = Setup::new().start();
    let helpers = ["delivery", "logger"].map(|role| server.working_half(role));
    if helpers.iter().any(|pid| descriptors(*pid) == 0) {
        return common::skip(name, "the descriptors of other processes cannot be seen");
    }
    let mut served = server.hello();
    for pid in helpers {
        limit_descriptors(&prlimit, pid, "8:");
    }
    // Each takes a spare, for which another is forked, with a door to each helper.
    let mut idle: Vec<_> = (0..30).map(|_| server.hello()).collect();
    let deferred = idle
        .iter_mut()
        .any(|client| client.deliver(FROM, &[TO], MESSAGE).code == 451);
    assert!(deferred, "{}", server.said());
    for pid in helpers {
        limit_descriptors(&prlimit, pid, "1000:");
    }
    assert!(
        wait_until(|| served.deliver(FROM, &[TO], MESSAGE).code == 250),
        "{}",
        server.said()
    );
    drop(idle);
    assert_eq!(
        server.hello().deliver(FROM, &[TO], MESSAGE).code,
        250,
        "{}",
        server.said()
    );
    assert_eq!(
        ["delivery", "logger"].map(|role| server.working_half(role)),
        helpers,
        "{}",
        server.said()
    );
    server.await_said("event=door-refused worker=", 1);
    server.await_said("event=door-refused pid=", 1);
}
