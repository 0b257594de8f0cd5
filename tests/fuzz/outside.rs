//! What the broker hears: frames of a worker, messages of name servers; and what a worker hears of the broker.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rsmtpd::broker::client::Client;
use rsmtpd::broker::message::{self, Reading};
use rsmtpd::ipc::broker::{Answer, Endpoint, FromBroker, Question, ToBroker};
use rsmtpd::ipc::frame;
use rsmtpd::ipc::numbered::Numbered;
use rsmtpd::sys::socket;

/// Octets of a question that fit into any datagram (RFC 1035 §4.2.1).
const DATAGRAM: usize = 512;
/// Records that an answer has at most, and seconds for which it holds at most, one that says nothing in brackets.
const RECORDS: usize = 32;
const LONGEST: u32 = 3600;
const LONGEST_NOTHING: u32 = 300;

/// First octet: who hears the rest. 0: the broker, which asks the DNS if it is a question; else a worker, which has asked
/// for a connection, or for a name, as the answer's words.
pub(crate) fn broker(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    match choice % 3 {
        0 => {
            let Ok(heard) = frame::decode::<Numbered<ToBroker>>(bytes) else {
                return;
            };
            assert!(frame::encode(&heard).expect("what was a frame fits into one").len() <= bytes.len());
            if let ToBroker::Resolve(question) = heard.words {
                check_question((heard.number & 0xffff) as u16, &question);
            }
        }
        choice => hear_broker(bytes, choice == 1),
    }
}

/// What is sent for a question asks it, once, and fits.
fn check_question(id: u16, question: &Question) {
    let Some(octets) = message::ask(id, question) else {
        return;
    };
    assert!(octets.len() <= DATAGRAM, "{question:?}: {} octets", octets.len());
    let [high, low] = id.to_be_bytes();
    // One question, recursion desired, no record but the one of EDNS.
    assert_eq!(octets[..12], [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1], "{question:?}");
    assert_eq!(
        message::read(id, question, &octets),
        Reading::Foreign,
        "a question is no answer"
    );
}

/// A worker that asks, and hears `bytes`.
fn hear_broker(bytes: &[u8], connects: bool) {
    let (ours, theirs) = socket::seqpacket_pair().expect("a pair");
    let client = Client::new(theirs);
    let end = Instant::now() + Duration::from_secs(60);
    let answer = move || {
        let mut asked = [0; 512];
        let (length, _) = socket::recv_frame(&ours, &mut asked).expect("a question");
        let asked: Numbered<ToBroker> = frame::decode(&asked[..length]).expect("of ours");
        let number = asked.number;
        let mut answer = frame::encode(&Numbered { number, words: () }).expect("short");
        answer.extend_from_slice(bytes);
        socket::send_frame_nowait(&ours, &answer, &[]).expect("room for one frame");
        frame::decode::<Numbered<FromBroker>>(&answer)
    };
    if connects {
        let endpoint = Endpoint {
            host: "back.example".into(),
            port: 25,
        };
        let connected = std::thread::scope(|scope| {
            scope.spawn(answer);
            client.connect(&endpoint, end)
        });
        return assert!(connected.is_err(), "no descriptor came with it");
    }
    let question = [Question::A("client.example".into())];
    let (told, answers) = std::thread::scope(|scope| {
        let told = scope.spawn(answer);
        let answers = client.resolve(&question, end);
        (told.join().expect("told"), answers)
    });
    match (told.map(|told| told.words), answers) {
        (Ok(FromBroker::Answer(told)), Ok(answers)) => assert_eq!(answers, [told]),
        (told, answers) => assert!(answers.is_err(), "{told:?}, {answers:?}"),
    }
}

/// First octet: the question, and whether the header and the question in front of the rest are as they should be, but for
/// its flags and counts, which are the next octets then. The number asked for is the one that comes.
pub(crate) fn dns(input: &[u8]) {
    let [choice, bytes @ ..] = input else { return };
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let questions = [
        Question::A("mail.example.com".into()),
        Question::Aaaa("mail.example.com".into()),
        Question::Ptr(address("192.0.2.7")),
        Question::Ptr(address("2001:db8::7")),
    ];
    let chosen = usize::from(choice & 3);
    let question = &questions[chosen];
    let octets = match (choice & 4, bytes) {
        (0, _) => bytes.to_vec(),
        (_, behind) if behind.len() >= 8 => {
            let asked = message::ask(7, question).expect("a question");
            let end = asked.len() - 11; // the record of EDNS
            let (head, rest) = bytes.split_at(8);
            let mut octets = asked[..2].to_vec();
            octets.extend(&head[..2]);
            octets.extend([0, 1]);
            octets.extend(&head[2..]);
            octets.extend(&asked[12..end]);
            octets.extend(rest);
            octets
        }
        _ => return,
    };
    let id = octets.first_chunk().map_or(0, |number| u16::from_be_bytes(*number));
    let reading = message::read(id, question, &octets);
    check_reading(question, &reading);
    assert_eq!(
        message::read(!id, question, &octets),
        Reading::Foreign,
        "another number"
    );
    if matches!(reading, Reading::Answer(..)) {
        for (at, other) in questions.iter().enumerate().filter(|(at, _)| *at != chosen) {
            let read = message::read(id, other, &octets);
            assert_eq!(read, Reading::Foreign, "an answer to question {at} as well");
        }
    }
}

fn check_reading(question: &Question, reading: &Reading) {
    match reading {
        Reading::Answer(answer, seconds) => {
            let longest = match answer {
                Answer::Addresses(addresses) => {
                    let kind = match question {
                        Question::A(_) => IpAddr::is_ipv4,
                        Question::Aaaa(_) => IpAddr::is_ipv6,
                        Question::Ptr(_) => panic!("addresses of an address"),
                    };
                    assert!((1..=RECORDS).contains(&addresses.len()) && addresses.iter().all(kind));
                    LONGEST
                }
                Answer::Names(names) => {
                    assert!(matches!(question, Question::Ptr(_)) && (1..=RECORDS).contains(&names.len()));
                    let graphic = |name: &String| name.bytes().all(|octet| octet.is_ascii_graphic());
                    assert!(names.iter().all(graphic), "{names:?}");
                    LONGEST
                }
                Answer::NoData | Answer::NoName => LONGEST_NOTHING,
                Answer::TimedOut | Answer::Failed(_) => panic!("{answer:?} is none"),
            };
            assert!(*seconds <= longest, "{answer:?} for {seconds} s");
            let (number, words) = (0, FromBroker::Answer(answer.clone()));
            frame::encode(&Numbered { number, words }).expect("an answer fits into a frame");
        }
        Reading::Failed(reason) => {
            assert!(
                !reason.is_empty() && reason.len() < 200 && !reason.contains(|c: char| c.is_control()),
                "{reason:?}"
            );
        }
        Reading::Truncated | Reading::Foreign => {}
    }
}
