//! The command line: arguments to one subcommand each, errors to sysexits(3).

mod chain;
mod check;
mod completions;
mod serve;
mod spool;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::LogLevel;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

/// Exit statuses of sysexits(3) that this program uses.
pub mod exit {
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// Something asked for is not there.
    pub const NOINPUT: u8 = 66;
    /// A needed service is not running.
    pub const UNAVAILABLE: u8 = 69;
    /// The system refused something.
    pub const OSERR: u8 = 71;
    /// Not enough rights.
    pub const NOPERM: u8 = 77;
    /// The configuration is broken.
    pub const CONFIG: u8 = 78;
}

/// A mail server for research on spam and phishing.
#[derive(Debug, Parser)]
#[command(name = "rsmtpd", version, about, disable_help_subcommand = true)]
#[command(after_help = "Without a command it serves. Files: rsmtpd.yaml(5); handlers: rsmtpd-handlers(7).")]
pub struct Arguments {
    /// Directory of the configuration files [default: the first of ~/.rsmtpd, /etc/rsmtpd, ./config]
    #[arg(short = 'c', long, value_name = "DIR", global = true)]
    pub config_path: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the command line says instead of rsmtpd.yaml.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Address to listen on; localhost means both loopbacks, * both wildcards
    #[arg(short, long)]
    pub address: Option<String>,
    /// Port to listen on
    #[arg(short, long)]
    pub port: Option<u16>,
    /// User to serve as
    #[arg(short, long)]
    pub user: Option<String>,
    /// Group to serve as
    #[arg(short, long)]
    pub group: Option<String>,
    /// Go to the background once everything is ready
    #[arg(short, long)]
    pub background: bool,
    /// File to log to
    #[arg(short, long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// Least grave events to log
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Word>,
}

/// Names of log levels, as rsmtpd.yaml has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Critical,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl From<Word> for LogLevel {
    fn from(word: Word) -> LogLevel {
        match word {
            Word::Critical => LogLevel::Critical,
            Word::Error => LogLevel::Error,
            Word::Warning => LogLevel::Warning,
            Word::Notice => LogLevel::Notice,
            Word::Info => LogLevel::Info,
            Word::Debug => LogLevel::Debug,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Serve,
    /// Read every configuration file and print every fault
    Check,
    /// Print, per verb, the handlers in order and what each may decide
    Chain {
        /// The chain's name [default: the one worker.yaml names]
        name: Option<String>,
    },
    /// Look after messages that wait, have failed, or are in quarantine
    Spool {
        #[command(subcommand)]
        action: spool::Action,
    },
    /// Print the pool of a running daemon, its spool and the state of its configuration
    Status,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that `arguments` name; the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::sys::arena::lasting();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let config = arguments.config_path.as_deref();
    let result = match arguments.command {
        None | Some(Command::Serve) => serve::run(config, &arguments.overrides),
        Some(Command::Check) => check::run(config),
        Some(Command::Chain { name }) => chain::run(config, name.as_deref()),
        Some(Command::Spool { action }) => spool::run(config, &action),
        Some(Command::Status) => status::run(config),
        Some(Command::Completions { shell }) => completions::run(shell, &mut Arguments::command()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("rsmtpd: {}", failure.message);
            }
            ExitCode::from(failure.status)
        }
    }
}

/// Why a command failed: what to say and how to exit.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// A failure with this exit status; an empty message is not printed.
    pub fn new(status: u8, message: impl std::fmt::Display) -> Failure {
        Failure {
            status,
            message: message.to_string(),
        }
    }
}
