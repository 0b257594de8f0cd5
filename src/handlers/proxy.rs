//! Relays all of a session to another server, the back end: each command that nobody before it has refused goes there,
//! and its reply is the answer.
//!
//! Commands are passed on as they were understood, never as they were sent, and only those that cannot change what the
//! two sides mean by what follows: no AUTH, no XCLIENT, nothing unknown. STARTTLS is served here (RFC 3207). BDAT (RFC
//! 3030) is served here and goes on as DATA. Of the extensions that the back end names after EHLO only those are named
//! again that a client can use through us. TLS towards the back end is the connection's, and none of the client's. No
//! trace field is added: as far as mail is concerned, we are not there.
//!
//! Whom the back end serves it learns by the PROXY protocol or by XCLIENT. It may trust this host with more than the
//! client: until it knows of the client, or cannot know, nothing of the client's gets there but EHLO, whose reply tells
//! whether it takes XCLIENT, and QUIT. Which of them it is the connection itself keeps, so that it ends with it.
//!
//! Notes: reads none, writes one about the connection for itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::handler::Passing;
use crate::chain::{
    BackEndPatience, BackEndWay, Context, Directory, Facts, Handler, HandlerError, Kind, Outcome, Reach, Settings,
};
use crate::config::{Field, PeerTls, Section};
use crate::ipc::broker::Endpoint;
use crate::session::{Exchange, Note, OfSession, Transaction, Verdict};
use crate::smtp::command::{Arguments, Command, Verb};
use crate::smtp::params::{Body, MailParameters};
use crate::smtp::proxy_header::{self, Version};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;
use crate::smtp::xclient;

mod introduction;

use introduction::{Introduction, hello, introduce};

/// Extensions that a client can use through us, where the back end has them (SIZE is made, see [`size`]).
const CARRIED: [&str; 7] = [
    "PIPELINING",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "VRFY",
    "HELP",
];

/// Those of them that the back end itself has to know, for what the client may say after EHLO.
const PROMISED: [&str; 3] = ["SIZE", "8BITMIME", "SMTPUTF8"];

/// `proxy.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name or address of the back end.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Which PROXY header says who the client is.
    pub send_proxy: Option<Version>,
    /// Whether XCLIENT says it where the back end offers that.
    pub xclient: bool,
    /// Whether it is spoken to under TLS.
    pub tls: PeerTls,
    /// How long it may take to be reached.
    pub connect_timeout: Duration,
    /// How long for each reply.
    pub command_timeout: Duration,
    /// How long for each part of a message, and for the reply at its end.
    pub data_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "localhost".into(),
            port: 25,
            send_proxy: None,
            xclient: true,
            tls: PeerTls::default(),
            connect_timeout: Duration::from_secs(30),
            command_timeout: Duration::from_secs(240),
            data_timeout: Duration::from_secs(570),
        }
    }
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("host", &mut self.host, host);
        section.read("port", &mut self.port, |field| field.integer(1..=65535));
        section.read("send_proxy", &mut self.send_proxy, |field| {
            field.choice(&[("no", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))])
        });
        section.read("xclient", &mut self.xclient, Field::boolean);
        self.tls.read(section, &self.host);
        let limits = || Duration::from_secs(1)..=Duration::from_secs(600);
        section.read("connect_timeout", &mut self.connect_timeout, |field| {
            field.duration(limits())
        });
        section.read("command_timeout", &mut self.command_timeout, |field| {
            field.duration(limits())
        });
        section.read("data_timeout", &mut self.data_timeout, |field| field.duration(limits()));
    }
}

fn host(field: &Field<'_>) -> Option<String> {
    let name = |text: &String| {
        let octet = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b':');
        (1..=253).contains(&text.len()) && text.bytes().all(octet)
    };
    let found = field.scalar().filter(name);
    if found.is_none() {
        field.expected("a host name or an IP address");
    }
    found
}

/// The handler.
pub struct Proxy {
    config: Config,
}

/// What the back end has been told on this connection, to be told again on another one.
#[derive(Clone)]
struct Told {
    /// The last HELO or EHLO it accepted: the line.
    hello: Vec<u8>,
    /// Keywords of its last reply to EHLO, in capitals.
    keywords: Vec<String>,
}

impl Told {
    fn has(&self, keyword: &str) -> bool {
        self.keywords.iter().any(|known| known == keyword)
    }
}

impl Note for Told {
    type Scope = OfSession;
}

impl Kind for Proxy {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "proxy",
        module: "proxy",
        class: "Proxy",
        verbs: Facts::ANYWHERE,
        decides: &[Verdict::Accept, Verdict::Defer, Verdict::Reject, Verdict::Disconnect],
        always_refuses: false,
        taker: true,
        about: "relays the session to another server",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Proxy {
        Proxy { config }
    }
}

impl Handler for Proxy {
    fn handle(&self, _: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        Ok(Outcome::none())
    }

    fn reach(&self) -> Reach {
        Reach {
            endpoints: vec![self.endpoint()],
            names: false,
            files: self.config.tls.file().map(Path::to_path_buf).into_iter().collect(),
        }
    }

    fn pass_on(&self, context: &mut Context<'_>, what: Passing) -> Result<Reply, HandlerError> {
        match what {
            Passing::Client => self.connect(context),
            Passing::Command => match context.exchange() {
                Some(exchange) => {
                    let exchange = exchange.clone();
                    self.command(context, &exchange)
                }
                None => Err(HandlerError::Failed("no command".into())),
            },
            Passing::End => context.back_end().end_text().map_err(failed),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> HandlerError {
    HandlerError::Failed(error.to_string())
}

impl Proxy {
    fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.config.host.clone(),
            port: self.config.port,
        }
    }

    /// Makes the connection; the greeting.
    fn connect(&self, context: &mut Context<'_>) -> Result<Reply, HandlerError> {
        let session = context.session();
        let header = self.config.send_proxy;
        let preface = header.map(|version| proxy_header::write(version, session.peer, session.local));
        let name = session.server_name.clone();
        let back_end = context.back_end();
        let way = BackEndWay {
            to: &self.endpoint(),
            preface: &preface.unwrap_or_default(),
            tls: &self.config.tls,
            name: &name,
            patience: self.patience(),
        };
        let greeting = back_end.open(&way).map_err(failed)?;
        if (200..400).contains(&greeting.code) {
            expect(&greeting, 220, "the greeting")?;
        }
        if !self.config.xclient {
            back_end.set_introduced();
        }
        Ok(greeting)
    }

    fn patience(&self) -> BackEndPatience {
        BackEndPatience {
            connect: self.config.connect_timeout,
            command: self.config.command_timeout,
            data: self.config.data_timeout,
        }
    }

    /// Sees to it that the back end can be told a command of the client, unless that is EHLO, which sees to it itself.
    /// Connects again where the connection was given up, introduces the client, and says what the back end knew; the
    /// reply where it cannot be told now. One that lacks what the client was offered before, as another of its kind may
    /// that stands behind the same name, cannot go on with it.
    fn ensure(&self, context: &mut Context<'_>, verb: &Verb) -> Result<Option<Reply>, HandlerError> {
        let mut begins = !context.back_end().is_open();
        if begins {
            let greeting = self.connect(context)?;
            expect(&greeting, 220, "the greeting")?;
        }
        if *verb != Verb::Ehlo && !context.back_end().is_introduced() {
            if let Introduction::Later(reply) = introduce(context)? {
                return Ok(Some(reply));
            }
            begins = true;
        }
        let told = context.session().notes.get::<Told>();
        let again = begins && !matches!(verb, Verb::Helo | Verb::Ehlo);
        let Some(told) = told.filter(|_| again).cloned() else {
            return Ok(None);
        };
        let reply = context.back_end().command(&told.hello).map_err(failed)?;
        expect(&reply, 250, "HELO or EHLO")?;
        let keywords = keywords_of(&reply);
        let missing = |word: &&&str| told.has(word) && !keywords.iter().any(|known| known == *word);
        match PROMISED.iter().find(missing) {
            Some(word) => Err(HandlerError::Failed(format!("back end: it offers {word} no more"))),
            None => Ok(None),
        }
    }

    /// The answer to a command between two chunks of a message: the back end hears text there, no command. What gives the
    /// message up gives the connection up; none where the command goes on over another one.
    fn between_chunks(&self, context: &mut Context<'_>, verb: &Verb) -> Option<Reply> {
        match verb {
            Verb::Bdat => None,
            Verb::Noop => Some(ok()),
            Verb::Rset => {
                context.back_end().give_up();
                Some(ok())
            }
            Verb::Helo | Verb::Ehlo | Verb::Quit | Verb::StartTls => {
                context.back_end().give_up();
                None
            }
            _ => Some(Reply::new(503, Some(Status::INVALID_COMMAND), "BDAT has begun")),
        }
    }

    fn command(&self, context: &mut Context<'_>, exchange: &Exchange) -> Result<Reply, HandlerError> {
        let command = &exchange.command;
        let keywords = context.session().notes.get::<Told>().map(|told| told.keywords.clone());
        if context.transaction().is_some_and(Transaction::is_chunking)
            && let Some(reply) = self.between_chunks(context, &command.verb)
        {
            return Ok(reply);
        }
        if command.verb == Verb::StartTls {
            // The conversation has refused it where it cannot be had.
            return Ok(Reply::new(220, Some(Status::OK), "Ready to start TLS"));
        }
        let Some(line) = line(command, &keywords.unwrap_or_default()) else {
            return Ok(not_relayed(&command.verb));
        };
        if command.verb == Verb::Quit {
            return Ok(quit(context, &line));
        }
        if let Some(reply) = self.ensure(context, &command.verb)? {
            return Ok(reply);
        }
        let mut reply = context.back_end().command(&line).map_err(failed)?;
        if !context.back_end().is_introduced() {
            reply = hello(context, &line, reply)?;
        }
        let asks = matches!(command.verb, Verb::Data | Verb::Bdat);
        if (300..400).contains(&reply.code) && !asks {
            return Err(HandlerError::Failed(format!(
                "back end: {} was answered {}",
                command.verb.name(),
                reply.code
            )));
        }
        if matches!(command.verb, Verb::Helo | Verb::Ehlo) && reply.is_positive() {
            let keywords = keywords_of(&reply);
            if command.verb == Verb::Ehlo {
                reply = offered(&reply, context.limits().message_size);
                if context.tls_available() {
                    reply.lines.push("STARTTLS".to_owned());
                }
                if context.xclient_available() {
                    reply.lines.push(xclient::KEYWORD.to_owned());
                }
            } else {
                reply.lines.truncate(1);
            }
            context.note_session(Told { hello: line, keywords });
        }
        Ok(reply)
    }
}

/// 250.
fn ok() -> Reply {
    Reply::new(250, Some(Status::OK), "OK")
}

fn expect(reply: &Reply, code: u16, what: &str) -> Result<(), HandlerError> {
    if reply.code == code {
        return Ok(());
    }
    let said = reply.code;
    Err(HandlerError::Failed(format!(
        "back end: {what} was answered {said}, not {code}"
    )))
}

/// A client may always go.
fn quit(context: &mut Context<'_>, line: &[u8]) -> Reply {
    let farewell = Reply::new(
        221,
        Some(Status::OK),
        context.expand("<server_name> closing connection"),
    );
    let back_end = context.back_end();
    if !back_end.is_open() {
        return farewell;
    }
    match back_end.command(line) {
        Ok(reply) if reply.code == 221 => reply,
        _ => farewell,
    }
}

/// The command as the back end is to hear it; none where it is not.
fn line(command: &Command, keywords: &[String]) -> Option<Vec<u8>> {
    let has = |keyword: &str| keywords.iter().any(|known| known == keyword);
    let with_argument = |verb: &str| [verb.as_bytes(), b" ", &command.argument].concat();
    let text = match (&command.verb, &command.parsed) {
        (verb @ (Verb::Helo | Verb::Ehlo), Ok(Arguments::Hello(name))) => format!("{} {name}", verb.name()),
        (
            Verb::Mail,
            Ok(Arguments::Mail {
                reverse_path,
                parameters,
            }),
        ) => format!("MAIL FROM:{reverse_path}{}", mail_parameters(parameters, &has)),
        (Verb::Rcpt, Ok(Arguments::Rcpt { forward_path, .. })) => format!("RCPT TO:{forward_path}"),
        (Verb::Data | Verb::Bdat, Ok(_)) => "DATA".to_owned(),
        (verb @ (Verb::Rset | Verb::Quit), Ok(_)) => verb.name().to_owned(),
        (verb @ (Verb::Noop | Verb::Help), Ok(_)) if command.argument.is_empty() => verb.name().to_owned(),
        (verb @ (Verb::Noop | Verb::Help | Verb::Vrfy | Verb::Expn), Ok(_)) => return Some(with_argument(verb.name())),
        _ => return None,
    };
    Some(text.into_bytes())
}

fn mail_parameters(parameters: &MailParameters, has: &impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    if let Some(size) = parameters.size.filter(|_| has("SIZE")) {
        text.push_str(&format!(" SIZE={size}"));
    }
    if let Some(body) = parameters.body.filter(|_| has("8BITMIME")) {
        text.push_str(match body {
            Body::SevenBit => " BODY=7BIT",
            Body::EightBitMime => " BODY=8BITMIME",
        });
    }
    if parameters.smtputf8 {
        text.push_str(" SMTPUTF8");
    }
    text
}

/// What commands are answered that the back end never hears.
fn not_relayed(verb: &Verb) -> Reply {
    let (code, text) = match verb {
        Verb::Other(_) | Verb::Auth => (500, "command not recognized"),
        _ => (502, "command not implemented"),
    };
    Reply::new(code, Some(Status::INVALID_COMMAND), text)
}

fn keyword(line: &str) -> String {
    line.split([' ', '=']).next().unwrap_or_default().to_ascii_uppercase()
}

fn keywords_of(reply: &Reply) -> Vec<String> {
    reply.lines.iter().skip(1).map(|line| keyword(line)).collect()
}

/// The reply to EHLO with the extensions that can be used through us.
fn offered(reply: &Reply, limit: u64) -> Reply {
    let mut lines: Vec<String> = reply.lines.iter().take(1).cloned().collect();
    if lines.is_empty() {
        lines.push(String::new());
    }
    for line in reply.lines.iter().skip(1) {
        match keyword(line).as_str() {
            "SIZE" => lines.push(size(line, limit)),
            word if CARRIED.contains(&word) => lines.push(word.to_owned()),
            _ => {}
        }
    }
    Reply::multi(reply.code, None, lines)
}

/// The smaller of two limits; 0 and nothing are none (RFC 1870 §4).
fn size(line: &str, ours: u64) -> String {
    let theirs = line.split(' ').nth(1).and_then(|digits| digits.parse::<u64>().ok());
    let both = [theirs.unwrap_or(0), ours].into_iter().filter(|limit| *limit > 0);
    format!("SIZE {}", both.min().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::{Advertised, parse};
    use crate::smtp::line::{CommandLine, LineEnding};

    fn passed(text: &str, keywords: &[&str]) -> Option<String> {
        let line = CommandLine {
            bytes: text.as_bytes().to_vec(),
            ending: LineEnding::CrLf,
            too_long: false,
        };
        let advertised = Advertised {
            smtputf8: true,
            eightbit: true,
            chunking: true,
            ..Advertised::default()
        };
        let keywords: Vec<String> = keywords.iter().map(|word| (*word).to_owned()).collect();
        let command = parse(&line, &advertised);
        super::line(&command, &keywords).map(|line| String::from_utf8(line).unwrap())
    }

    #[test]
    fn commands_go_on_as_they_were_understood() {
        let all = ["SIZE", "8BITMIME"];
        for (said, heard) in [
            ("ehlo  Client.example ", Some("EHLO Client.example")),
            ("mail from: a@b.example size=7", Some("MAIL FROM:<a@b.example> SIZE=7")),
            ("MAIL FROM:<@relay:a@b.example>", Some("MAIL FROM:<a@b.example>")),
            ("RCPT TO:<Postmaster>", Some("RCPT TO:<Postmaster>")),
            ("BDAT 7 LAST", Some("DATA")),
            ("DATA now", None),
            ("HELP", Some("HELP")),
            ("NOOP  a  b", Some("NOOP a  b")),
            ("VRFY", None),
            ("AUTH LOGIN", None),
            ("XCLIENT NAME=x", None),
            ("BURL imap://x", None),
        ] {
            assert_eq!(passed(said, &all).as_deref(), heard, "{said}");
        }
        let bare = passed("MAIL FROM:<> SIZE=7 BODY=8BITMIME SMTPUTF8", &[]);
        assert_eq!(bare.as_deref(), Some("MAIL FROM:<> SMTPUTF8"));
    }

    /// The original passed on whatever the back end offered, though it could carry none of it.
    #[test]
    fn extensions_that_cannot_be_carried_are_not_offered() {
        let lines = [
            "back.example",
            "PIPELINING",
            "size 100",
            "ETRN",
            "STARTTLS",
            "AUTH PLAIN LOGIN",
            "AUTH=LOGIN",
            "DSN",
            "XCLIENT NAME",
            "XFORWARD NAME",
            "BINARYMIME",
            "chunking",
            "SMTPUTF8",
            "LIMITS RCPTMAX=5",
            "BURL imap",
        ];
        let reply = Reply::multi(250, None, lines.map(str::to_owned).to_vec());
        let expected = ["back.example", "PIPELINING", "SIZE 50", "CHUNKING", "SMTPUTF8"];
        assert_eq!(offered(&reply, 50).lines, expected);
        for (theirs, ours, both) in [("SIZE", 9, "SIZE 9"), ("SIZE 0", 0, "SIZE 0"), ("SIZE 5", 0, "SIZE 5")] {
            assert_eq!(size(theirs, ours), both);
        }
    }
}
