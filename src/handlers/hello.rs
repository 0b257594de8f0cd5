//! HELO and EHLO (RFC 5321 §4.1.1.1): greets the client by the name it gave, and names the extensions after EHLO.
//!
//! Never refuses because of the name. With `look_up` it asks the DNS what the name and the client's address have to do
//! with each other, as evidence; that nobody could say is told apart from that there is nothing.
//!
//! Notes: reads none, writes [`ClientName`].

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::{Context, Directory, Evidence, Facts, Handler, HandlerError, Kind, Outcome, Reach, Settings};
use crate::config::{Field, Section};
use crate::ipc::broker::{Answer, Question};
use crate::session::{Note, OfSession, Verdict};
use crate::smtp::command::{Arguments, HelloKind, HelloName, Verb};
use crate::smtp::reply::Reply;
use crate::smtp::xclient;

/// Octets of text in one reply line (RFC 5321 §4.5.3.1.5), without code, separator and CRLF.
const LINE: usize = 512 - "250-".len() - "\r\n".len();

/// `hello.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// First line of the reply.
    pub message: String,
    /// Whether PIPELINING is named. It always works; a client that uses it unasked is worth noting.
    pub advertise_pipelining_extension: bool,
    /// Whether the DNS is asked about the name and the client's address; in a chain in the original's form by default, as
    /// the original always did.
    pub look_up: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            message: "<server_name> Hello <client.advertised_name> (<client.ip> port <client.port>)".into(),
            advertise_pipelining_extension: true,
            look_up: false,
        }
    }
}

/// What the DNS says of the name that a client gave, and of its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName {
    forward: Option<IpAddr>,
    reverse: Option<String>,
    is_confirmed: bool,
}

impl Note for ClientName {
    type Scope = OfSession;
}

impl ClientName {
    /// Of the addresses of the name given the one nearest to the client's.
    pub fn forward(&self) -> Option<IpAddr> {
        self.forward
    }

    /// Whether the name given is a fully qualified one that has an address.
    pub fn is_valid_fqdn(&self) -> bool {
        self.forward.is_some()
    }

    /// Of the names of the client's address the one that is most like the name given.
    pub fn reverse(&self) -> Option<&str> {
        self.reverse.as_deref()
    }

    /// That name, if the address is in turn one of its own: anybody can give an address any name.
    pub fn confirmed(&self) -> Option<&str> {
        self.reverse().filter(|_| self.is_confirmed)
    }
}

/// The handler.
pub struct Hello {
    config: Config,
}

impl Settings for Config {
    fn read(&mut self, section: &Section<'_>) {
        section.read("message", &mut self.message, Field::reply);
        section.read(
            "advertise_pipelining_extension",
            &mut self.advertise_pipelining_extension,
            Field::boolean,
        );
        section.read("look_up", &mut self.look_up, Field::boolean);
    }

    fn as_original(&mut self) {
        self.look_up = true;
    }
}

impl Kind for Hello {
    type Settings = Config;
    const FACTS: &'static Facts = &Facts {
        id: "hello",
        module: "hello",
        class: "HelloHandler",
        verbs: &["HELO", "EHLO"],
        decides: &[Verdict::Accept],
        always_refuses: false,
        taker: false,
        about: "250 and, after EHLO, the extensions",
    };

    fn new(config: Config, _: &Arc<dyn Directory>) -> Hello {
        Hello { config }
    }
}

impl Hello {
    fn extensions(&self, context: &Context<'_>) -> Vec<String> {
        let limits = context.limits();
        let mut lines = Vec::with_capacity(8);
        if self.config.advertise_pipelining_extension {
            lines.push("PIPELINING".to_owned());
        }
        lines.push(format!("SIZE {}", limits.message_size));
        lines.push("8BITMIME".to_owned());
        lines.push("SMTPUTF8".to_owned());
        lines.push("ENHANCEDSTATUSCODES".to_owned());
        if context.chunking() {
            lines.push("CHUNKING".to_owned());
        }
        // A value must have a limit behind it (RFC 9422 §3): no MAILMAX where there is none.
        lines.push(match limits.maximum_messages {
            u32::MAX => format!("LIMITS RCPTMAX={}", limits.maximum_recipients),
            most => format!("LIMITS MAILMAX={most} RCPTMAX={}", limits.maximum_recipients),
        });
        if context.tls_available() {
            lines.push("STARTTLS".to_owned());
        }
        if context.xclient_available() {
            lines.push(xclient::KEYWORD.to_owned());
        }
        if context.verbs().iter().any(|verb| verb == "HELP") {
            lines.push("HELP".to_owned());
        }
        lines
    }
}

impl Handler for Hello {
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError> {
        // One line and no more: a client takes each further one for an extension.
        let text = context
            .expand(&self.config.message)
            .chars()
            .take(LINE)
            .collect::<String>();
        let mut reply = Reply::new(250, None, text);
        if context
            .exchange()
            .is_some_and(|exchange| exchange.command.verb == Verb::Ehlo)
        {
            reply.lines.extend(self.extensions(context));
        }
        let outcome = Outcome::accept(reply);
        let exchange = context.exchange().filter(|exchange| exchange.fault.is_none());
        match exchange.map(|exchange| &exchange.command.parsed) {
            Some(Ok(Arguments::Hello(name))) if self.config.look_up => {
                let name = name.clone();
                Ok(look_up(&name, context, outcome))
            }
            _ => Ok(outcome),
        }
    }

    fn reach(&self) -> Reach {
        Reach {
            names: self.config.look_up,
            ..Reach::default()
        }
    }
}

/// Asks what there is to know, and makes it evidence and a note.
fn look_up(name: &HelloName, context: &mut Context<'_>, mut outcome: Outcome) -> Outcome {
    let peer = context.session().peer.ip().to_canonical();
    let mut questions = vec![Question::Ptr(peer)];
    // What has no dot is no name of the DNS; addresses in brackets are none either.
    if name.kind == HelloKind::Name && name.as_str().contains('.') {
        questions.push(Question::A(name.text.clone()));
        questions.push(Question::Aaaa(name.text.clone()));
    }
    let answers = context.resolve(&questions);
    let forward: Vec<IpAddr> = answers.iter().flat_map(Answer::addresses).copied().collect();
    let reverse = answers
        .first()
        .and_then(|answer| most_alike(name.as_str(), answer.names()));
    let of_name = answers.get(1..).unwrap_or_default();
    let unknown = of_name.iter().find_map(Answer::error).filter(|_| forward.is_empty());
    let nearest = nearest(peer, &forward);
    outcome.evidence.push(match unknown {
        Some(reason) => evidence("HELO_FORWARD", reason, true),
        None => evidence("HELO_FORWARD", &shown(nearest), false),
    });
    outcome.evidence.push(match answers.first().and_then(Answer::error) {
        Some(reason) => evidence("HELO_REVERSE", reason, true),
        None => evidence("HELO_REVERSE", &shown(reverse.as_deref()), false),
    });
    let mut is_confirmed = false;
    if let Some(reverse) = &reverse {
        let answer = confirm(reverse, name, peer, &forward, context);
        is_confirmed = matches!(answer, Ok(true));
        outcome.evidence.push(match answer {
            Ok(confirmed) => evidence("HELO_CONFIRMED", if confirmed { "yes" } else { "no" }, false),
            Err(reason) => evidence("HELO_CONFIRMED", &reason, true),
        });
    }
    context.note_session(ClientName {
        forward: nearest,
        reverse,
        is_confirmed,
    });
    outcome
}

/// Whether the name of the client's address has that address.
fn confirm(
    reverse: &str,
    name: &HelloName,
    peer: IpAddr,
    forward: &[IpAddr],
    context: &mut Context<'_>,
) -> Result<bool, String> {
    if forward.contains(&peer) && reverse.eq_ignore_ascii_case(name.as_str()) {
        return Ok(true);
    }
    let question = match peer {
        IpAddr::V4(_) => Question::A(reverse.to_owned()),
        IpAddr::V6(_) => Question::Aaaa(reverse.to_owned()),
    };
    let answers = context.resolve(&[question]);
    match answers.iter().find_map(Answer::error) {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(answers.iter().any(|answer| answer.addresses().contains(&peer))),
    }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn evidence(symbol: &'static str, value: &str, error: bool) -> Evidence {
    Evidence {
        symbol,
        value: value.to_owned(),
        score: 0.0,
        error,
    }
}

/// The address nearest to `peer`: of its family where there is one, then by the distance of their numbers.
fn nearest(peer: IpAddr, addresses: &[IpAddr]) -> Option<IpAddr> {
    let number = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let far = |ip: &&IpAddr| (ip.is_ipv4() != peer.is_ipv4(), number(ip).abs_diff(number(&peer)));
    addresses.iter().min_by_key(far).copied()
}

/// The name that has most labels at its end in common with `name`; of equals the first in the alphabet.
fn most_alike(name: &str, names: &[String]) -> Option<String> {
    let labels = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    let wanted = labels(name);
    let alike = |other: &&String| {
        let other = labels(other);
        let pairs = wanted.rsplit('.').zip(other.rsplit('.'));
        pairs.take_while(|(left, right)| left == right).count()
    };
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    // The last of the greatest is taken, so that the first in the alphabet has to come last.
    sorted
        .iter()
        .rev()
        .max_by_key(|other| alike(other))
        .map(|name| (*name).clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::conversation::tests::Peer;

    #[test]
    fn ehlo_names_the_extensions() {
        let reply = Peer::open().say("EHLO client.example");
        assert_eq!(
            reply,
            "250-mail.example.com Hello client.example (192.0.2.7 port 4711)\r\n250-PIPELINING\r\n250-SIZE 1000\r\n\
             250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n\
             250-LIMITS MAILMAX=3 RCPTMAX=3\r\n250 HELP\r\n"
        );
    }

    #[test]
    fn a_long_name_cannot_name_extensions() {
        let name = format!("{} STARTTLS AUTH", "x".repeat(440));
        let reply = Peer::open().say(&format!("EHLO {name}"));
        let lines: Vec<&str> = reply.lines().collect();
        assert!(lines[0].len() <= 510 && lines[1] == "250-PIPELINING", "{reply}");
        assert_eq!(Peer::open().say(&format!("HELO {name}")).lines().count(), 1);
    }

    #[test]
    fn helo_names_none() {
        let reply = Peer::open().say("HELO client.example");
        assert_eq!(
            reply,
            "250 mail.example.com Hello client.example (192.0.2.7 port 4711)\r\n"
        );
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn of_several_the_nearest_address_and_the_name_most_alike() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = ["198.51.100.1", "192.0.2.9", "2001:db8::5", "2001:db8::1:1"].map(ip);
        assert_eq!(nearest(ip("192.0.2.7"), &all), Some(ip("192.0.2.9")));
        assert_eq!(nearest(ip("2001:db8::7"), &all), Some(ip("2001:db8::5")));
        assert!(nearest(ip("2001:db8::7"), &all[..2]).is_some_and(|found| found.is_ipv4()));
        assert_eq!(nearest(ip("::"), &[]), None);
        let names = strings(&["z.example.org", "mx.Example.com", "a.other.example", "b.example.com"]);
        for (name, alike) in [
            ("mail.example.com", "b.example.com"),
            ("MX.example.com", "mx.Example.com"),
            ("x.y.org", "z.example.org"),
            ("example", "a.other.example"),
            ("[192.0.2.7]", "a.other.example"),
        ] {
            assert_eq!(most_alike(name, &names).as_deref(), Some(alike), "{name}");
        }
        assert_eq!(most_alike("x", &[]), None);
    }

    const LOOK_UP: &str = "EHLO:\n  - {handler: hello, with: {look_up: yes}}\n";

    /// A client at 192.0.2.7 that is asked about; the lines of evidence.
    fn looked_up(hello: &str, known: &[(Question, Answer)]) -> (Peer, Vec<String>) {
        let mut peer = Peer::chained(LOOK_UP);
        peer.knows(known);
        assert!(peer.say(hello).starts_with("250"));
        let lines = peer.logged("symbol=HELO_");
        (peer, lines)
    }

    #[test]
    fn a_chain_in_the_original_s_form_asks_unless_it_is_told_not_to() {
        let module = "__OPEN__:\n  - module: rsmtpd.handlers.greeting\nEHLO:\n  - module: rsmtpd.handlers.hello\n";
        let ours = "__OPEN__:\n  - handler: greeting\nEHLO:\n  - handler: hello\n";
        for (chain, file, lines) in [
            (module, "message: hi", 2),
            (module, "look_up: no", 0),
            (ours, "message: hi", 0),
            (ours, "look_up: yes", 2),
        ] {
            let mut peer = Peer::only(chain, &[("hello", file)]);
            assert!(peer.say("EHLO client.example").starts_with("250"));
            assert_eq!(peer.logged("symbol=HELO_").len(), lines, "{chain}{file}");
        }
    }

    fn address(text: &str) -> Answer {
        Answer::Addresses(vec![text.parse().unwrap()])
    }

    #[test]
    fn a_name_that_leads_back_to_the_client_is_confirmed_and_in_the_trace() {
        let reverse = Question::Ptr("192.0.2.7".parse().unwrap());
        let names = || Answer::Names(strings(&["x.other.example", "mail.client.example"]));
        let a = |name: &str| Question::A(name.to_owned());
        let known = [
            (reverse.clone(), names()),
            (a("client.example"), address("192.0.2.70")),
            (a("mail.client.example"), address("192.0.2.7")),
        ];
        let (mut peer, lines) = looked_up("EHLO client.example", &known);
        let [forward, reversed, confirmed] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert!(forward.contains("value=\"192.0.2.70\"") && forward.contains("error=false"));
        assert!(reversed.contains("value=\"mail.client.example\"") && confirmed.contains("value=\"yes\""));
        let notes = peer.session().notes.get::<ClientName>().unwrap();
        assert!(notes.is_valid_fqdn() && notes.confirmed() == Some("mail.client.example"));
        assert_eq!(notes.forward(), Some("192.0.2.70".parse().unwrap()));
        peer.begin(&["user"]);
        peer.data("x\r\n");
        let fields = peer.fields(0);
        assert!(
            fields.starts_with("Received: from client.example (mail.client.example [192.0.2.7])\r\n"),
            "{fields}"
        );
        // Anybody can give an address the name of somebody else.
        let known = [(reverse, names()), (a("mail.client.example"), address("192.0.2.8"))];
        let (mut peer, lines) = looked_up("EHLO client.example", &known);
        assert!(
            lines[0].contains("value=\"none\"") && lines[2].contains("value=\"no\""),
            "{lines:?}"
        );
        peer.begin(&["user"]);
        peer.data("x\r\n");
        assert!(
            peer.fields(0)
                .starts_with("Received: from client.example ([192.0.2.7])")
        );
    }

    #[test]
    fn that_nobody_knows_is_no_answer_but_an_error() {
        let silent = [
            (Question::Ptr("192.0.2.7".parse().unwrap()), Answer::TimedOut),
            (
                Question::A("client.example".into()),
                Answer::Failed("Server Failure".into()),
            ),
        ];
        let (peer, lines) = looked_up("EHLO client.example", &silent);
        assert!(
            lines[0].contains("Server Failure") && lines[0].contains("error=true"),
            "{lines:?}"
        );
        assert!(
            lines[1].contains("no answer in time") && lines[1].contains("error=true"),
            "{lines:?}"
        );
        assert!(!peer.session().notes.get::<ClientName>().unwrap().is_valid_fqdn());
    }

    #[test]
    fn only_names_with_a_dot_are_asked_for() {
        for (hello, asked) in [
            ("EHLO localhost", 1),
            ("EHLO [192.0.2.7]", 1),
            ("EHLO a.b", 3),
            ("HELO a.b", 0),
        ] {
            let mut peer = Peer::chained(LOOK_UP);
            peer.say(hello);
            assert_eq!(peer.asked(), asked, "{hello}");
        }
        assert_eq!(Peer::greeted().asked(), 0);
    }

    #[test]
    fn the_name_is_not_expanded_again() {
        let reply = Peer::open().say("HELO <version>");
        assert!(!reply.contains(env!("CARGO_PKG_VERSION")), "{reply}");
    }
}
