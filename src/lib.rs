//! rsmtpd: a mail server for research on spam and phishing.
//!
//! It receives mail by SMTP (RFC 5321) and delivers it to local mailboxes. Each connection has a process of its own, and in it
//! chains of small handlers, chosen in YAML, look at every step and decide what happens. Four sentences settle most arguments:
//!
//! 1. Octets from the network are parsed only in a [`worker`], and a worker can do almost nothing else: it holds its client, a
//!    few channels to its siblings, and a read-only view of the configuration directory.
//! 2. A 250 after the end of the data means that somebody other than the worker has the message on disk.
//! 3. What a handler finds, what the chain decides, what the client is told and what becomes of the message are four things,
//!    recorded apart.
//! 4. Every input of a decision reaches a handler through [`chain::Context`].
//!
//! # Processes
//!
//! ```text
//! root: binds ──► MASTER ──── fork ───► WORKER ×N ────── Begin, Commit ──► DELIVERY ► Maildir, dovecot-lda, LMTP
//! HUP TERM CHLD ──► │ ▲                 │ │ │   ├─────── Sign ───────────► KEEPER ───► private keys; new listeners
//!                   │ │                 │ │ └─────────── Resolve, Connect→fd ► BROKER ─► DNS, the server behind a proxy
//!                   │ └─ link: a pair   │ │     └─────── lines ──────────► LOGGER ──► syslog, a file, standard error
//!                   │    per worker ────┘ client                              ▲   ▲   ▲
//!                   └─ control channels and doors ────────────────────────────┴───┴───┘
//! ```
//!
//! | process      | user                | may                                                      | may never                              |
//! |--------------|---------------------|----------------------------------------------------------|----------------------------------------|
//! | [`master`]   | `rsmtpd`            | hold listeners, fork, count, refuse with 421             | parse a client's octets, regain root   |
//! | [`worker`]   | `rsmtpd`, sandboxed | serve one client, ask its siblings                       | open a socket, write a file by name    |
//! | [`logger`]   | `rsmtpd-log`        | write lines to syslog or the log file                    | anything else                          |
//! | [`broker`]   | `rsmtpd-broker`     | ask the DNS, connect to what it has read that it may       | connect anywhere else                  |
//! | [`keeper`]   | `rsmtpd-keeper` and two capabilities | sign handshakes, bind configured listeners, read keys | read the network, run a program, let a key out |
//! | [`delivery`] | `delivery.user`     | keep the spool, write Maildirs, run agents, speak LMTP   | open an internet socket, trust a worker |
//!
//! [`master::startup`] is the order of things: read and check the configuration, bind, fork the helpers and await each, drop to
//! the service user and prove that root cannot come back, enter the sandbox, and only then fork workers. A helper is two
//! processes of its user: a parent that forks the working half again when it dies, and that half. They hear the master on a
//! control channel; its end means that the daemon ends.
//!
//! # A connection and a message
//!
//! 1. A spare [`worker`] accepts, and says so to the master on its link. [`worker::served::Served`] is the set of configuration
//!    and chains that it serves with; when files changed since, they are read again for this connection.
//! 2. Octets go into [`smtp::receiver::Receiver`], which is pure: any split of the same octets gives the same events.
//! 3. [`chain::Conversation`] takes the events, keeps order and limits (RFC 5321 §4.1.4, §4.5.3), runs the [`chain::Chain`] of the
//!    verb, and makes its outcomes into one decision, and that into a reply and dispositions.
//! 4. What is known lives in owned scopes, [`session::Session`], [`session::Transaction`], [`session::Recipient`] and
//!    [`session::Exchange`], each dropped whole.
//! 5. STARTTLS, or a listener with TLS from the first octet: [`tls`] shakes hands, the [`keeper`] signs, and the session begins
//!    anew (RFC 3207).
//! 6. The body is staged by the worker, in memory when small, else in a nameless file that delivery opened; at the end of the
//!    data [`delivery::client`] offers it with its envelope. Delivery copies it for each recipient, syncs it, and says per
//!    recipient what came of it. That alone makes the 250.
//!
//! # Where what is
//!
//! [`smtp`] and [`message`] are pure and import nothing of ours; [`session`] knows both; [`chain`] knows these and [`config`];
//! [`handlers`] reach the world only through their context. [`ipc`] has one file a boundary between processes. [`broker`]
//! connects for workers and asks the DNS for them. [`sys`] is the only place for unsafe code, and speaks the kernel's terms.
//! [`cli`] is one file a subcommand. [`log`] makes an event into a
//! line. `tests/architecture.rs` reads the source and fails where a module imports what it must not.
//!
//! A handler is one file in `handlers/`, one line in [`chain::registry`], one commented YAML file where it has settings, and one
//! section in rsmtpd-handlers(7); a test holds the four together.

pub mod broker;
pub mod chain;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod handlers;
mod helper;
pub mod ipc;
pub mod keeper;
pub mod log;
pub mod logger;
pub mod master;
pub mod message;
pub mod session;
pub mod smtp;
pub mod sys;
pub mod tls;
pub mod worker;
