//! A master that gives doors, and behind them delivery processes that come and go.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::ipc::channel::Channel;
use crate::ipc::delivery::{Disposition, FromDelivery, Recipient, RecipientResult, ToDelivery};
use crate::ipc::link::{FromWorker, ToWorker};
use crate::log::Level;
use crate::logger::client::Client as Log;
use crate::sys::socket::seqpacket_pair;

type Behind = Channel<FromDelivery, ToDelivery>;

/// Answers `Open` with one door after the other; who is behind each does what `behind` does.
fn master(theirs: OwnedFd, behind: Vec<Process>) -> JoinHandle<usize> {
    std::thread::spawn(move || {
        let link = Channel::<ToWorker, FromWorker>::new(theirs);
        let mut given = 0;
        while let Ok((asked, _)) = link.receive() {
            if matches!(asked, FromWorker::Close { .. }) {
                link.send(&ToWorker::Closed).unwrap();
                continue;
            }
            let (ours, door) = seqpacket_pair().unwrap();
            match behind.get(given) {
                Some(Some(behind)) => drop(std::thread::spawn({
                    let behind = *behind;
                    move || behind(Channel::new(ours))
                })),
                Some(None) => drop(ours),
                None => break,
            }
            given += 1;
            link.send_with(&ToWorker::Door, &[door.as_fd()]).unwrap();
        }
        given
    })
}

/// What a delivery process does; none is there where it has left already.
type Process = Option<fn(Behind)>;
const GONE: Process = None;

/// Gives a file, but takes no message any more.
fn leaves_with_the_body(behind: Behind) {
    let (asked, _) = behind.receive().unwrap();
    assert_eq!(asked, ToDelivery::Begin { size_hint: 0 });
    nix::sys::socket::shutdown(behind.as_raw_fd(), nix::sys::socket::Shutdown::Read).unwrap();
    let file = tempfile::tempfile().unwrap();
    behind.send_with(&FromDelivery::Staged, &[file.as_fd()]).unwrap();
}

/// Gives a file where it is asked for one, and leaves while the message lies there unread.
fn leaves_without_looking(behind: Behind) {
    let mut there = [PollFd::new(behind.as_fd(), PollFlags::POLLIN)];
    poll(&mut there, PollTimeout::NONE).unwrap();
    let mut kind = [0; 2];
    let flags = nix::sys::socket::MsgFlags::MSG_PEEK;
    nix::sys::socket::recv(behind.as_raw_fd(), &mut kind, flags).unwrap();
    let begin = frame::encode(&ToDelivery::Begin { size_hint: 0 }).unwrap();
    if begin.starts_with(&kind) {
        behind.receive().unwrap();
        let file = tempfile::tempfile().unwrap();
        behind.send_with(&FromDelivery::Staged, &[file.as_fd()]).unwrap();
        poll(&mut there, PollTimeout::NONE).unwrap();
    }
}

/// Takes the message, and leaves without a word.
fn dies(behind: Behind) {
    while let (ToDelivery::Begin { .. }, _) = behind.receive().unwrap() {
        let file = tempfile::tempfile().unwrap();
        behind.send_with(&FromDelivery::Staged, &[file.as_fd()]).unwrap();
    }
}

fn serves(behind: Behind) {
    let mut staged = None;
    loop {
        match behind.receive().unwrap().0 {
            ToDelivery::Begin { .. } => {
                let file = tempfile::tempfile().unwrap();
                behind.send_with(&FromDelivery::Staged, &[file.as_fd()]).unwrap();
                staged = Some(file);
            }
            ToDelivery::Commit(commit) => {
                if let Body::Staged { length } = commit.body {
                    let staged = staged.unwrap();
                    let mut octets = vec![0; length as usize];
                    staged.read_exact_at(&mut octets, 0).unwrap();
                    assert_eq!(staged.metadata().unwrap().len(), length);
                    assert!(octets.iter().all(|octet| *octet == b'x'));
                }
                let results = vec![RecipientResult::Delivered];
                let (id, outcome) = (commit.id, Outcome { results });
                return behind.send(&FromDelivery::Outcome { id, outcome }).unwrap();
            }
        }
    }
}

/// Hands one message of `length` octets on; what became of it, and how many doors it took.
fn hand_over(length: usize, behind: Vec<Process>) -> (Result<Outcome, DeliveryError>, usize) {
    let (outcome, doors, _) = hand_over_by(None, length, behind);
    (outcome, doors)
}

/// The same with a lent door; whether that may be lent again.
fn hand_over_by(
    lent: Option<OwnedFd>,
    length: usize,
    behind: Vec<Process>,
) -> (Result<Outcome, DeliveryError>, usize, bool) {
    let (ours, theirs) = seqpacket_pair().unwrap();
    let (voice, _listener) = seqpacket_pair().unwrap();
    let master = master(theirs, behind);
    let link = Rc::new(Link::new(ours, Rc::new(Log::new(voice, Level::Critical))));
    let delivery = Rc::new(RefCell::new(Delivery::new(Rc::clone(&link), lent)));
    let mut staging = Staging::new(Rc::clone(&delivery));
    staging.write(&vec![b'x'; length]).unwrap();
    let mut port = Rc::clone(&delivery);
    let outcome = port.commit(message(staging.finish().unwrap()));
    let is_kept = delivery.borrow().has_kept_its_door();
    drop((port, staging, delivery, link));
    (outcome, master.join().unwrap(), is_kept)
}

fn message(body: Body) -> Commit {
    Commit {
        id: "a.1".into(),
        reverse_path: String::new(),
        recipients: vec![Recipient {
            original: "a@example.com".into(),
            domain: "example.com".into(),
            mailbox: "a".into(),
            disposition: Disposition::Deliver,
        }],
        fields: Vec::new(),
        removed: Vec::new(),
        body,
        smtputf8: false,
        helo: String::new(),
        peer: "192.0.2.1".into(),
        received_at: 0,
    }
}

#[test]
fn a_message_that_lay_there_unread_is_offered_again() {
    for length in [10, INLINE_BODY + 1] {
        let (outcome, doors) = hand_over(length, vec![Some(leaves_without_looking), Some(serves)]);
        assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered], "{length}");
        assert_eq!(doors, 2, "{length}");
    }
}

#[test]
fn a_message_outlives_one_replacement_after_the_other() {
    let (outcome, doors) = hand_over(10, vec![GONE, GONE, GONE, GONE, Some(serves)]);
    assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered]);
    assert_eq!(doors, 5);
}

#[test]
fn so_does_a_long_one_with_its_body() {
    let leaves: Process = Some(leaves_with_the_body);
    let behind = vec![GONE, leaves, GONE, leaves, leaves, Some(serves)];
    let (outcome, doors) = hand_over(INLINE_BODY + 100_000, behind);
    assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered]);
    assert_eq!(doors, 6);
}

#[test]
fn what_may_have_been_taken_is_never_offered_twice() {
    for length in [10, INLINE_BODY + 1] {
        let (outcome, doors) = hand_over(length, vec![Some(dies), Some(serves)]);
        assert!(outcome.is_err());
        assert_eq!(doors, 1);
    }
}

#[test]
fn offering_ends() {
    let (outcome, doors) = hand_over(10, vec![GONE; 2 * OFFERS as usize]);
    assert!(outcome.is_err());
    assert_eq!(doors, OFFERS as usize);
}

#[test]
fn a_lent_door_takes_what_travels_whole_and_no_answer_of_another() {
    let (lent, end) = seqpacket_pair().unwrap();
    let behind = Behind::new(end);
    let answer = |id: &str, results| {
        let (id, outcome) = (id.to_owned(), Outcome { results });
        behind.send(&FromDelivery::Outcome { id, outcome }).unwrap();
    };
    // What the worker before may have left behind.
    answer("b.1", vec![RecipientResult::Spooled]);
    behind.send(&FromDelivery::Full).unwrap();
    answer("a.1", vec![RecipientResult::Delivered]);
    let (outcome, doors, is_kept) = hand_over_by(Some(lent), 10, Vec::new());
    assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered]);
    assert_eq!((doors, is_kept), (0, true));
}

#[test]
fn a_longer_message_goes_by_a_door_of_its_own() {
    let (lent, _end) = seqpacket_pair().unwrap();
    let (outcome, doors, is_kept) = hand_over_by(Some(lent), INLINE_BODY + 1, vec![Some(serves)]);
    assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered]);
    assert_eq!((doors, is_kept), (1, true));
}

#[test]
fn a_lent_door_that_closes_is_given_up() {
    let (lent, end) = seqpacket_pair().unwrap();
    drop(end);
    let (outcome, doors, is_kept) = hand_over_by(Some(lent), 10, vec![Some(serves)]);
    assert_eq!(outcome.unwrap().results, [RecipientResult::Delivered]);
    assert_eq!((doors, is_kept), (1, false));
    // And not offered again where it may have been taken.
    let (lent, end) = seqpacket_pair().unwrap();
    let dying = std::thread::spawn(move || dies(Behind::new(end)));
    let (outcome, doors, is_kept) = hand_over_by(Some(lent), 10, vec![Some(serves)]);
    assert!(outcome.is_err());
    assert_eq!((doors, is_kept), (0, false));
    dying.join().unwrap();
}

/// The master keeps a lent door open when the worker closes it: as long as nobody has told it, delivery can answer.
#[test]
fn nobody_is_told_over_a_lent_door_that_was_given_up() {
    for in_time in [false, true] {
        let (lent, end) = seqpacket_pair().unwrap();
        let (copy, behind) = (lent.try_clone().unwrap(), Behind::new(end));
        let (ours, theirs) = seqpacket_pair().unwrap();
        let (voice, _listener) = seqpacket_pair().unwrap();
        let master = std::thread::spawn(move || {
            let link = Channel::<ToWorker, FromWorker>::new(theirs);
            let helper = Role::Delivery;
            assert_eq!(link.receive().unwrap().0, FromWorker::Close { helper });
            let results = vec![RecipientResult::Delivered];
            let (id, outcome) = ("a.1".to_owned(), Outcome { results });
            let answer = FromDelivery::Outcome { id, outcome };
            if in_time {
                behind.send(&answer).unwrap();
            }
            nix::sys::socket::shutdown(copy.as_raw_fd(), nix::sys::socket::Shutdown::Read).unwrap();
            drop(copy);
            link.send(&ToWorker::Retire).unwrap();
            link.send(&ToWorker::Closed).unwrap();
            let late = behind.send(&answer);
            assert!(matches!(late, Err(Fault::Closed)), "{late:?}");
        });
        let link = Rc::new(Link::new(ours, Rc::new(Log::new(voice, Level::Critical))));
        let mut delivery = Delivery::patient(Rc::clone(&link), Some(lent), Duration::from_millis(10));
        let outcome = delivery.commit(message(Body::Inline(b"x".to_vec())));
        assert_eq!(outcome.is_ok(), in_time, "{outcome:?}");
        assert!(!delivery.has_kept_its_door());
        assert_eq!(link.order(), super::super::link::Order::Retire);
        master.join().unwrap();
    }
}

/// Counts calls.
#[derive(Default)]
struct Counted(Vec<u8>, usize);

impl Write for Counted {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.1 += usize::from(!octets.is_empty());
        self.0.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn pieces_of_any_size_are_written_in_order_and_in_few_calls() {
    for size in [1, 3, 1000, HELD / 2, HELD / 2 + 1, HELD, 3 * HELD] {
        let body: Vec<u8> = (0..10 * HELD).map(|at| (at / 7) as u8).collect();
        let (mut file, mut held) = (Counted::default(), Vec::new());
        for piece in body.chunks(size) {
            hold_or_write(&mut file, &mut held, piece).unwrap();
            assert!(held.len() <= HELD);
        }
        file.write_all(&held).unwrap();
        assert!(file.0 == body, "{size}");
        assert!(file.1 <= 21, "{size}: {} calls", file.1);
    }
}
