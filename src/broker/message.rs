//! Messages of the DNS (RFC 1035): a question to octets, octets to an answer. Pure.
//!
//! Octets come from the network: whatever they are, what is made of them is bounded, and only a message that repeats
//! the question and its number counts as an answer to it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};

use crate::ipc::broker::{Answer, Question};

/// Records of an answer that are taken.
const MOST_RECORDS: usize = 32;
/// Aliases that are followed (RFC 1034 §3.6.2).
const MOST_ALIASES: usize = 8;
/// Seconds for which an answer holds at most, and one that says that there is nothing (RFC 2308 §5).
const LONGEST: u32 = 3600;
const LONGEST_NOTHING: u32 = 300;

/// What a message from a server means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// An answer, and the seconds for which it holds.
    Answer(Answer, u32),
    /// Too long for a datagram: ask again by TCP.
    Truncated,
    /// The server cannot say; why.
    Failed(String),
    /// Not an answer to this question: somebody else's, or forged.
    Foreign,
}

/// Whether a question can be asked: its name is one.
fn query(question: &Question) -> Option<Query> {
    let (name, kind) = match question {
        Question::A(name) => (Name::from_ascii(name).ok()?, RecordType::A),
        Question::Aaaa(name) => (Name::from_ascii(name).ok()?, RecordType::AAAA),
        Question::Ptr(address) => (Name::from(address.to_canonical()), RecordType::PTR),
    };
    let mut name = name;
    name.set_fqdn(true);
    Some(Query::query(name, kind))
}

/// The message that asks `question`; none where it cannot be asked.
pub fn ask(id: u16, question: &Question) -> Option<Vec<u8>> {
    // Not `Message::query`: it makes a number of its own first, by a generator whose seed a static program does not get.
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query(question)?);
    message.set_edns(Edns::new()); // RFC 6891, and the payload that passes everywhere
    message.to_vec().ok()
}

/// Reads what a server sent.
pub fn read(id: u16, question: &Question, octets: &[u8]) -> Reading {
    let Some(asked) = query(question) else {
        return Reading::Foreign;
    };
    // What cannot be read at all is told by its number whether it is for us.
    let Ok(message) = Message::from_vec(octets) else {
        let ours = octets.get(..2) == Some(&id.to_be_bytes());
        return match ours {
            true => Reading::Failed("a malformed answer".to_owned()),
            false => Reading::Foreign,
        };
    };
    let head = &message.metadata;
    if head.id != id || head.message_type != MessageType::Response {
        return Reading::Foreign;
    }
    let repeats = |query: &Query| {
        query.query_type == asked.query_type && query.query_class == DNSClass::IN && query.name == asked.name
    };
    match message.queries.as_slice() {
        [query] if repeats(query) => {}
        // Some servers leave the question out when they refuse it; what says that there is nothing must repeat it.
        [] if !matches!(head.response_code, ResponseCode::NoError | ResponseCode::NXDomain) => {}
        _ => return Reading::Foreign,
    }
    if head.truncation {
        return Reading::Truncated;
    }
    match head.response_code {
        ResponseCode::NXDomain => Reading::Answer(Answer::NoName, nothing_holds(&message)),
        ResponseCode::NoError => records(&message, &asked),
        code => Reading::Failed(code.to_string()),
    }
}

/// How long it holds that there is nothing: what the zone says (RFC 2308 §5); without it not at all.
fn nothing_holds(message: &Message) -> u32 {
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    soa.unwrap_or(0).min(LONGEST_NOTHING)
}

fn records(message: &Message, asked: &Query) -> Reading {
    let mut owner = asked.name.clone();
    let mut ttl = LONGEST;
    for _ in 0..=MOST_ALIASES {
        let of_owner = message.answers.iter().filter(|record| record.name == owner);
        let (mut addresses, mut names, mut alias) = (Vec::new(), Vec::new(), None);
        for record in of_owner.take(MOST_RECORDS) {
            match (&record.data, asked.query_type) {
                (RData::A(address), RecordType::A) => addresses.push(IpAddr::V4(address.0)),
                (RData::AAAA(address), RecordType::AAAA) => addresses.push(IpAddr::V6(address.0)),
                (RData::PTR(name), RecordType::PTR) => names.push(text(&name.0)),
                (RData::CNAME(name), _) => alias = Some(name.0.clone()),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        if !addresses.is_empty() {
            return Reading::Answer(Answer::Addresses(addresses), ttl);
        }
        if !names.is_empty() {
            return Reading::Answer(Answer::Names(names), ttl);
        }
        match alias {
            Some(target) => owner = target,
            None => return Reading::Answer(Answer::NoData, nothing_holds(message)),
        }
    }
    Reading::Failed("too many aliases".to_owned())
}

/// A name as text, without its last dot; what is not printable is escaped as in zone files.
fn text(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA};
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn question() -> Question {
        Question::A("mail.Example.com".into())
    }

    /// An answer to number 7, changed.
    fn answer(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(query(&question()).unwrap());
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn address(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    fn read_it(octets: &[u8]) -> Reading {
        read(7, &question(), octets)
    }

    #[test]
    fn a_question_is_one_and_asks_for_recursion() {
        let octets = ask(7, &question()).unwrap();
        let message = Message::from_vec(&octets).unwrap();
        assert!(message.metadata.recursion_desired && message.queries.len() == 1 && message.metadata.id == 7);
        let reverse = ask(1, &Question::Ptr("192.0.2.7".parse().unwrap())).unwrap();
        let asked = Message::from_vec(&reverse).unwrap().queries.remove(0);
        assert_eq!(asked.name.to_ascii(), "7.2.0.192.in-addr.arpa.");
        assert!(ask(1, &Question::A("a..b".into())).is_none() && ask(1, &Question::A("x".repeat(64))).is_none());
    }

    #[test]
    fn records_and_aliases_and_nothing() {
        let two = answer(|message| {
            message.add_answer(address("MAIL.example.com.", 300, 1));
            message.add_answer(address("mail.example.com.", 20, 2));
            message.add_answer(address("other.example.com.", 5, 3));
        });
        let addresses = |last: &[u8]| Answer::Addresses(last.iter().map(|n| IpAddr::from([192, 0, 2, *n])).collect());
        assert_eq!(read_it(&two), Reading::Answer(addresses(&[1, 2]), 20));
        let aliased = answer(|message| {
            message.add_answer(address("b.example.", 999_999, 9));
            message.add_answer(alias("mail.example.com.", "a.example."));
            message.add_answer(alias("a.example.", "b.example."));
        });
        assert_eq!(read_it(&aliased), Reading::Answer(addresses(&[9]), 60));
        let soa = SOA::new(name("ns."), name("x."), 1, 1, 1, 1, 40);
        let nothing = |code| {
            let soa = soa.clone();
            answer(move |message| {
                message.metadata.response_code = code;
                message.add_authority(Record::from_rdata(name("example.com."), 90, RData::SOA(soa)));
            })
        };
        assert_eq!(
            read_it(&nothing(ResponseCode::NXDomain)),
            Reading::Answer(Answer::NoName, 40)
        );
        assert_eq!(
            read_it(&nothing(ResponseCode::NoError)),
            Reading::Answer(Answer::NoData, 40)
        );
        assert!(matches!(read_it(&nothing(ResponseCode::ServFail)), Reading::Failed(_)));
        assert_eq!(
            read_it(&answer(|message| message.metadata.truncation = true)),
            Reading::Truncated
        );
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let good = answer(|message| {
            message.add_answer(address("mail.example.com.", 300, 1));
        });
        assert_eq!(read(8, &question(), &good), Reading::Foreign);
        assert_eq!(read(7, &Question::A("other.example".into()), &good), Reading::Foreign);
        assert_eq!(
            read(7, &Question::Aaaa("mail.example.com".into()), &good),
            Reading::Foreign
        );
        assert_eq!(read_it(&ask(7, &question()).unwrap()), Reading::Foreign);
        assert_eq!(read_it(b""), Reading::Foreign);
        let without = |code| {
            answer(move |message| {
                message.queries.clear();
                message.metadata.response_code = code;
            })
        };
        assert_eq!(read_it(&without(ResponseCode::NXDomain)), Reading::Foreign);
        assert!(matches!(read_it(&without(ResponseCode::Refused)), Reading::Failed(_)));
        assert!(matches!(read_it(b"\0\x07xx"), Reading::Failed(_)));
        let endless = answer(|message| {
            message.add_answer(alias("mail.example.com.", "a.example."));
            message.add_answer(alias("a.example.", "mail.example.com."));
        });
        assert!(matches!(read_it(&endless), Reading::Failed(_)));
        let many = answer(|message| {
            for n in 0..=200 {
                message.add_answer(address("mail.example.com.", 300, n));
            }
        });
        match read_it(&many) {
            Reading::Answer(Answer::Addresses(addresses), _) => assert_eq!(addresses.len(), MOST_RECORDS),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_printable_whatever_their_owner_put_there() {
        let reverse = Question::Ptr("192.0.2.7".parse().unwrap());
        let hostile = Name::from_labels([&b"a\r\nb"[..], b"\xff \0", b"example"]).unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(query(&reverse).unwrap());
        message.add_answer(Record::from_rdata(
            name("7.2.0.192.in-addr.arpa."),
            1,
            RData::PTR(PTR(hostile)),
        ));
        let Reading::Answer(answer, 1) = read(7, &reverse, &message.to_vec().unwrap()) else {
            panic!("no answer")
        };
        let [found] = answer.names() else { panic!("{answer:?}") };
        assert!(
            found.bytes().all(|octet| octet.is_ascii_graphic()) && found.ends_with(".example"),
            "{found}"
        );
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..100) {
            let _ = read_it(&octets);
            let mut message = answer(|message| { message.add_answer(alias("mail.example.com.", "a.example.")); });
            for (place, octet) in message.iter_mut().skip(at).zip(&octets) {
                *place = *octet;
            }
            let _ = read_it(&message);
        }
    }
}
