//! Whom the session is about, where the client is not at the other end of the connection: the PROXY header, and XCLIENT.
//!
//! XCLIENT begins the session anew, with the greeting as its reply. Its own list of the chain, if there is one, may refuse
//! it; `__DEFAULT__` is not asked, and it never goes to a server behind a proxy.

use super::{Action, Conversation, Next};
use crate::chain::decision::Stage;
use crate::chain::ports::Ports;
use crate::config::Mode;
use crate::log::{Event, Level};
use crate::session::{Anomaly, Exchange, Verdict, order};
use crate::smtp::proxy_header::{Header, Version};
use crate::smtp::reply::Reply;
use crate::smtp::status::Status;
use crate::smtp::xclient::{self, Attributes, Value};

impl Conversation<'_> {
    /// Before [`Conversation::open`]: the connection began with a PROXY header.
    pub fn proxied(&mut self, header: Header) {
        self.session.proxied(header);
    }

    /// Whoever says the commands may speak for others by XCLIENT.
    pub fn may_introduce(&mut self) {
        self.session.introduced.may_introduce = true;
    }

    /// XCLIENT, on a server that knows it.
    pub(super) fn introduce(&mut self, mut exchange: Exchange, ports: &mut Ports<'_>) -> Action {
        if let Some(reply) = self.session_limit(&exchange.command.verb) {
            return self.finish_early(&exchange, Some(reply), Next::Close, ports);
        }
        let attributes = match self.may_follow(&exchange) {
            Ok(attributes) => attributes,
            Err(refusal) => {
                exchange.fault = Some(refusal.clone());
                return self.finish_early(&exchange, Some(refusal), Next::Command, ports);
            }
        };
        let chain = self.chain;
        let own = chain.links(exchange.command.verb.name()).unwrap_or_default();
        if !own.is_empty() {
            let ran = self.run(own, Stage::Other, Some(&exchange), None, None, ports);
            if ran.decision.verdict >= Verdict::Defer {
                self.by = ran.decision.by.clone();
                let (_, reply, next) = self.answer(&exchange, &ran, &Reply::new(220, None, "ready"));
                let action = self.finish(&exchange, reply, next, ports);
                self.concluded(own, Stage::Other, Some(&exchange), action.reply.as_ref(), ports);
                return action;
            }
        }
        ports.back_end.give_up(); // it knows another client
        self.session.introduce(attributes);
        self.log_introduced();
        let action = self.greet(Some(&exchange), ports);
        // Whoever greets has heard of it already.
        let opened = chain.stage_links("__OPEN__");
        for link in own.iter().filter(|link| link.mode != Mode::Off) {
            if !opened.iter().any(|other| other.facts.id == link.facts.id) {
                self.with_context(link, Stage::Other, Some(&exchange), None, ports, |context| {
                    link.handler.concluded(context, action.reply.as_ref());
                });
            }
        }
        action
    }

    fn may_follow(&mut self, exchange: &Exchange) -> Result<Attributes, Reply> {
        if !self.session.introduced.may_introduce {
            let refused = Reply::new(550, Some(Status::POLICY), "not authorized to speak for others");
            return Err(refused);
        }
        if self.session.transaction.is_some() {
            let late = Reply::new(503, Some(Status::INVALID_COMMAND), "a transaction is under way");
            return Err(late);
        }
        if let Some(fault) = order(&self.session, &exchange.command) {
            return Err(fault);
        }
        xclient::parse(&exchange.command.argument)
            .map_err(|fault| Reply::new(fault.code, Some(fault.status), fault.text))
    }

    /// Notes who says XCLIENT though he may not.
    pub(super) fn note_xclient(&mut self) {
        if !self.session.introduced.may_introduce {
            self.session.observe(Anomaly::UnauthorizedXclient);
        }
    }

    fn log_introduced(&mut self) {
        let introduced = &self.session.introduced;
        let mut event = self
            .event("xclient")
            .field("port", self.session.peer.port())
            .field("local", self.session.local)
            .field("via", introduced.via);
        if let Some(attributes) = &introduced.attributes {
            for (key, value) in [
                ("name", &attributes.name),
                ("helo", &attributes.helo),
                ("login", &attributes.login),
            ] {
                if let Some(value) = value.as_ref().and_then(Value::known) {
                    event = event.quoted(key, value.as_bytes());
                }
            }
            if let Some(is_extended) = attributes.is_extended {
                event = event.field("proto", if is_extended { "ESMTP" } else { "SMTP" });
            }
        }
        self.log.push((Level::Info, event.text()));
    }

    /// What the first event of a session says of a proxy.
    pub(super) fn tell_proxy(&self, event: Event) -> Event {
        let introduced = &self.session.introduced;
        match &introduced.header {
            Some(header) => event.field("via", introduced.via).field(
                "header",
                match header.version {
                    Version::V1 => "v1",
                    Version::V2 => "v2",
                },
            ),
            None => event,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::chain::conversation::tests::Peer;
    use crate::session::Anomaly;

    fn codes(peer: &mut Peer, steps: &[(&str, &str)]) {
        for (line, code) in steps {
            let reply = peer.say(line);
            assert!(reply.starts_with(code), "{line}: {reply}");
        }
    }

    const LINE: &str = "XCLIENT NAME=spike.example ADDR=198.51.100.9 PORT=4712 HELO=spike LOGIN=joe PROTO=ESMTP";

    #[test]
    fn a_session_begins_anew_as_that_of_somebody_else() {
        let mut peer = Peer::in_front();
        let hello = peer.say("EHLO front.example");
        assert!(
            hello.contains("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"),
            "{hello}"
        );
        let greeting = peer.opened().to_owned();
        assert_eq!(peer.say(LINE), greeting);
        assert_eq!(peer.session().peer.to_string(), "198.51.100.9:4712");
        assert_eq!(peer.session().introduced.via.to_string(), "192.0.2.7:4711");
        assert_eq!(peer.session().client_name(), "spike");
        let logged = peer.logged("event=xclient ").pop().unwrap();
        assert!(
            logged
                .contains("peer=198.51.100.9 port=4712 local=127.0.0.1:8025 via=192.0.2.7:4711 name=\"spike.example\""),
            "{logged}"
        );
        codes(
            &mut peer,
            &[
                ("MAIL FROM:<a@client.example>", "503"),
                ("EHLO client.example", "250"),
                ("MAIL FROM:<a@client.example>", "250"),
                ("RCPT TO:<user@example.com>", "250"),
                ("XCLIENT ADDR=198.51.100.10", "503"),
            ],
        );
        assert!(peer.data("x\r\n").starts_with("250"));
        let fields = peer.fields(0);
        assert!(
            fields.contains("from client.example (spike.example [198.51.100.9])"),
            "{fields}"
        );
        // The next client of the same connection has nothing of the one before.
        codes(
            &mut peer,
            &[("XCLIENT ADDR=IPV6:2001:db8::1", "220"), ("EHLO other.example", "250")],
        );
        peer.begin(&["user"]);
        assert!(peer.data("x\r\n").starts_with("250"));
        let fields = peer.fields(1);
        assert!(fields.contains("from other.example ([IPv6:2001:db8::1])"), "{fields}");
        assert_eq!(peer.session().anomalies, []);
    }

    #[test]
    fn what_is_wrong_is_refused_and_changes_nothing() {
        let mut peer = Peer::in_front();
        codes(
            &mut peer,
            &[
                ("EHLO front.example", "250"),
                ("XCLIENT", "501"),
                ("XCLIENT NAME=a+", "501"),
            ],
        );
        codes(&mut peer, &[("XCLIENT REVERSE_NAME=a", "501"), ("MAIL FROM:<>", "250")]);
        assert_eq!(peer.session().peer.to_string(), "192.0.2.7:4711");
        assert_eq!(peer.session().counters.errors, 3);
    }

    #[test]
    fn it_cannot_be_said_for_ever() {
        let mut peer = Peer::in_front();
        for _ in 0..1000 {
            assert!(peer.say("XCLIENT ADDR=198.51.100.9").starts_with("220 "));
        }
        assert!(peer.say("XCLIENT ADDR=198.51.100.9").starts_with("421 ") && peer.is_closed());
    }

    #[test]
    fn nobody_else_is_heard() {
        // Where nobody may, it is a command as unknown as others.
        for (mut peer, code) in [(Peer::with_xclient(), "550 5.7.0"), (Peer::open(), "502 5.5.1")] {
            assert!(!peer.say("EHLO client.example").contains("XCLIENT"));
            let reply = peer.say(LINE);
            assert!(reply.starts_with(code), "{reply}");
            assert_eq!(peer.session().peer.to_string(), "192.0.2.7:4711");
            assert!(peer.session().hello.is_some());
            let odd = |peer: &Peer| {
                peer.session()
                    .anomalies
                    .iter()
                    .any(|seen| seen.anomaly == Anomaly::UnauthorizedXclient)
            };
            assert!(odd(&peer));
        }
    }

    #[test]
    fn tls_forgets_who_was_introduced_before_it() {
        let mut peer = Peer::in_front();
        codes(
            &mut peer,
            &[(LINE, "220"), ("EHLO client.example", "250"), ("STARTTLS", "220")],
        );
        assert_eq!(peer.session().peer.to_string(), "192.0.2.7:4711");
        assert_eq!(peer.session().introduced.attributes, None);
        codes(&mut peer, &[(LINE, "220")]);
        assert!(peer.session().tls.is_some(), "XCLIENT ends no TLS");
    }

    /// A verdict about the server in front is none about the client, and the other way round.
    #[test]
    fn the_greeting_is_for_the_client() {
        let list = "__OPEN__: [{handler: greeting}, {handler: transaction_log}]\nXCLIENT: [{handler: transaction_log}]";
        let mut peer = Peer::in_front_of(list);
        codes(&mut peer, &[(LINE, "220"), ("XCLIENT x", "501")]);
        let (names, text) = peer.records();
        assert_eq!(names.len(), 2, "a file a client: {names:?}");
        assert_eq!(text.matches("] XCLIENT NAME=").count(), 1, "{text}");
        assert_eq!(text.matches("] __OPEN__").count(), 1, "{text}");
        assert_eq!(text.matches("< 220 ").count(), 2, "{text}");
    }
    /// A record of what a server in front says is told apart from one of what a proxy's header says.
    #[test]
    fn records_say_that_xclient_named_the_client() {
        let log = "{handler: transaction_log, with: {log_path: /l, format: jsonl}}";
        let list = format!("__OPEN__: [{{handler: greeting}}, {log}]\nEHLO: [{{handler: hello}}, {log}]");
        let mut peer = Peer::in_front_of(&list);
        codes(&mut peer, &[("EHLO front.example", "250"), (LINE, "220")]);
        codes(&mut peer, &[("EHLO spike.example", "250"), ("STARTTLS", "220")]);
        codes(&mut peer, &[("EHLO front.example", "250")]);
        let (_, text) = peer.records();
        let mark = r#","via":"192.0.2.7:4711","xclient":true,"#;
        let marked = |line: &str| {
            let spike = line.contains(r#""peer":"198.51.100.9:4712""#);
            assert_eq!(line.contains(mark), spike, "{line}");
            assert_eq!(line.contains("xclient\""), spike, "{line}");
            spike
        };
        let all: Vec<bool> = text.lines().map(marked).collect();
        assert!(all.len() > 6 && all.contains(&true), "{text}");
        assert!(!all[0] && !all[all.len() - 1], "{text}");
    }

    #[test]
    fn a_proxy_s_header_is_no_xclient() {
        use crate::smtp::proxy_header::{Version, parse, write};
        let log = "{handler: transaction_log, with: {log_path: /l, format: jsonl}}";
        let wire = write(
            Version::V2,
            "198.51.100.1:7".parse().unwrap(),
            "192.0.2.25:25".parse().unwrap(),
        );
        let header = parse(&wire).unwrap().unwrap().0;
        let mut peer = Peer::behind(header, &format!("NOOP: [{{handler: noop}}, {log}]"));
        codes(&mut peer, &[("NOOP", "250")]);
        let (_, text) = peer.records();
        assert!(
            text.contains(r#""via":"192.0.2.7:4711""#) && !text.contains("xclient"),
            "{text}"
        );
    }
}
