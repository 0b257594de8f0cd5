//! The command line: arguments to one subcommand each, errors to sysexits(3).

mod chain;
mod check;
mod completions;
pub mod from_python;
mod serve;
mod spool;
mod status;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{self, LogLevel};

/// Exit statuses of sysexits(3) that this program uses.
pub mod exit {
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// What is on disk is damaged.
    pub const DATAERR: u8 = 65;
    /// Something asked for is not there.
    pub const NOINPUT: u8 = 66;
    /// A needed service is not running.
    pub const UNAVAILABLE: u8 = 69;
    /// The system refused something.
    pub const OSERR: u8 = 71;
    /// What was asked for cannot be written out.
    pub const IOERR: u8 = 74;
    /// It may work later.
    pub const TEMPFAIL: u8 = 75;
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
    #[arg(short, long, value_parser = address)]
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
    #[arg(short, long, value_name = "FILE", value_parser = absolute())]
    pub log_path: Option<PathBuf>,
    /// Least grave events to log
    #[arg(long, value_name = "LEVEL", value_parser = levels())]
    pub log_level: Option<LogLevel>,
}

impl Overrides {
    /// These, with the word of `later` where it has one.
    fn with(self, later: &Overrides) -> Overrides {
        let later = later.clone();
        Overrides {
            address: later.address.or(self.address),
            port: later.port.or(self.port),
            user: later.user.or(self.user),
            group: later.group.or(self.group),
            background: later.background || self.background,
            log_path: later.log_path.or(self.log_path),
            log_level: later.log_level.or(self.log_level),
        }
    }

    /// The name of one that is given.
    fn given(&self) -> Option<&'static str> {
        let names = [
            ("--address", self.address.is_some()),
            ("--port", self.port.is_some()),
            ("--user", self.user.is_some()),
            ("--group", self.group.is_some()),
            ("--background", self.background),
            ("--log-path", self.log_path.is_some()),
            ("--log-level", self.log_level.is_some()),
        ];
        names.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }
}

/// A path as it is meant here: the daemon goes elsewhere.
fn absolute() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(std::path::absolute)
}

fn address(text: &str) -> Result<String, String> {
    if config::is_listening_address(text) {
        Ok(text.to_owned())
    } else {
        Err("expected an IP address, localhost or *".to_owned())
    }
}

/// Names of log levels, as rsmtpd.yaml has them.
fn levels() -> impl TypedValueParser<Value = LogLevel> {
    PossibleValuesParser::new(LogLevel::WORDS.iter().map(|(word, _)| *word)).try_map(|word| {
        let found = LogLevel::WORDS.iter().find(|(name, _)| *name == word);
        found.map(|(_, level)| *level).ok_or("no such level")
    })
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default)
    Serve(Overrides),
    /// Read every configuration file and print every fault
    Check {
        /// Print instead what is done otherwise than by the original in Python with its configuration in DIR
        #[arg(long, value_name = "DIR")]
        from_python: Option<PathBuf>,
    },
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
    let result = dispatch(&arguments);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.say();
            ExitCode::from(failure.status)
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.config_path.as_deref();
    let overrides = &arguments.overrides;
    let command = match &arguments.command {
        None => return serve::run(config, overrides),
        Some(Command::Serve(later)) => return serve::run(config, &overrides.clone().with(later)),
        Some(command) => command,
    };
    if let Some(name) = overrides.given() {
        return Err(Failure::new(exit::USAGE, format!("{name} goes with serve only")));
    }
    match command {
        Command::Serve(_) => Ok(()),
        Command::Check { from_python: None } => check::run(config),
        Command::Check {
            from_python: Some(directory),
        } => from_python::run(directory),
        Command::Chain { name } => chain::run(config, name.as_deref()),
        Command::Spool { action } => spool::run(config, action),
        Command::Status => status::run(config),
        Command::Completions { shell } => completions::run(*shell, &mut Arguments::command()),
    }
}

/// The text without anything that a terminal would take for a command, or that would turn it round; but for what is `kept`.
fn safe(text: &str, kept: &[char]) -> String {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) && !kept.contains(&c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Writes a line, or several, to standard error, which need not be open.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", safe(text, &['\n', '\t']));
}

/// Writes to standard output. A reader that has gone, as `head` does, has what it wanted.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IOERR, format!("standard output: {error}")))
        }
        _ => Ok(()),
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

    fn say(&self) {
        if !self.message.is_empty() {
            complain(&format!("rsmtpd: {}", self.message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_but_text() {
        let text = "a\u{1b}[2J\u{9b}\u{202e}ü\t";
        assert_eq!(safe(text, &[]), "a\\u{1b}[2J\\u{9b}\\u{202e}ü\\t");
        assert_eq!(safe(text, &['\t']), "a\\u{1b}[2J\\u{9b}\\u{202e}ü\t");
    }
}
