//! One connection over the loopback network, with the chain of the shipped configuration.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};

use super::*;
use crate::chain::{ClientGone, Directory, Found, PausePort as _, configured};
use crate::config::Overrides;
use crate::ipc::broker::{FromBroker, ToBroker};
use crate::ipc::channel::Channel;
use crate::ipc::link::{FromWorker, Role, ToWorker};
use crate::ipc::numbered::Numbered;
use crate::ipc::sources::Refused;
use crate::log::Level;
use crate::smtp::address::ForwardPath;
use crate::sys::socket;
use crate::worker::deadlines::Patience;
use crate::worker::transport::listening;

/// Has a fault.
struct Broken;

impl Directory for Broken {
    fn look_up(&self, _: &ForwardPath) -> Found {
        panic!("a fault of ours")
    }
}

/// A dialogue on that connection.
macro_rules! talk {
    ($server:expr, $peer:expr, $session:expr, $chain:expr, $served:expr, $link:expr, $log:expr, $delivery:expr,
     $refused:expr) => {{
        let broker = Rc::new(RefCell::new(Broker::new(Rc::clone($link), None)));
        Talk {
            transport: Transport::new($server.into(), listening($link.as_ref()).unwrap()).unwrap(),
            receiver: Receiver::new($served.receiver_limits()),
            conversation: Box::new(Conversation::new($session, $chain, $served.limits(0))),
            recorder: Recorder::new(Rc::clone($link), $log, "test"),
            staging: Staging::new(Rc::clone(&$delivery)),
            back_end: BackEnd::new(Rc::clone(&broker), $log, "test"),
            broker,
            delivery: $delivery,
            keys: Keys::new($link, $served.certificates(), None),
            front: Front::new($served, 0, $refused.view(), $peer.ip()),
            begins_with_tls: false,
            deadlines: Deadlines::new($served.patience(), Instant::now()),
            out: Vec::new(),
            lost: None,
            link: $link,
            log: $log,
            in_body: false,
        }
    }};
}

/// The shipped configuration.
fn shipped() -> Served {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let (configuration, chains) = configured::load(&path, &[])
        .map_err(|faults| faults.to_string())
        .unwrap();
    Served::new(configuration, Overrides::default(), &chains)
}

#[test]
fn a_panic_is_told_the_client_and_ends_the_process() {
    let served = shipped();
    let directory: Arc<dyn Directory> = Arc::new(Broken);
    let chain = configured::shipped(&directory);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    client
        .write_all(b"EHLO a.example\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nNOOP\r\n")
        .unwrap();

    let ends = || socket::seqpacket_pair().unwrap();
    let ((link, _master), (voice, _logger)) = (ends(), ends());
    let log = Rc::new(Log::new(voice, Level::Info));
    let link = Rc::new(Link::new(link, Rc::clone(&log)));
    let delivery = Rc::new(RefCell::new(Delivery::new(Rc::clone(&link), None)));
    let session = Session::new("s".into(), peer, server.local_addr().unwrap(), "mail.example");
    let refused = Refused::new(Instant::now()).unwrap();
    let mut talk = talk!(server, peer, session, &chain, &served, &link, &log, delivery, refused);
    assert!(catch_unwind(AssertUnwindSafe(|| converse(&mut talk))).is_err());
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert!(heard.starts_with("220 "), "{heard}");
    assert!(
        heard.ends_with("\r\n421 4.3.0 Internal error, closing connection\r\n"),
        "{heard}"
    );
    assert_eq!(
        heard.matches("\r\n250 ").count(),
        2,
        "EHLO and MAIL are answered, RCPT and NOOP are not: {heard}"
    );
}

/// The master and the broker of one worker: gives a door, and over it a connection to `back_end`.
fn broke(master: &Channel<ToWorker, FromWorker>, back_end: TcpStream) {
    let wants_door = |_: &FromWorker| true;
    while master.answer_within(Duration::from_secs(60), wants_door).unwrap()
        != (FromWorker::Open { helper: Role::Broker })
    {}
    let (door, broker) = socket::seqpacket_pair().unwrap();
    master.send_with(&ToWorker::Door, &[door.as_fd()]).unwrap();
    let broker: Channel<Numbered<FromBroker>, Numbered<ToBroker>> = Channel::new(broker);
    let (asked, _) = broker.receive_within(Duration::from_secs(60)).unwrap();
    assert!(matches!(asked.words, ToBroker::Connect(_)), "{asked:?}");
    back_end.set_nonblocking(true).unwrap();
    let connected = Numbered {
        number: asked.number,
        words: FromBroker::Connected {
            to: back_end.peer_addr().unwrap(),
        },
    };
    broker.send_with(&connected, &[back_end.as_fd()]).unwrap();
}

fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, peer) = listener.accept().unwrap();
    near.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (near, far, peer)
}

/// Answers as a mail server does, and says what it heard, with `happened`.
fn be_a_back_end(stream: TcpStream, happened: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut out = stream.try_clone().unwrap();
    out.write_all(b"220 back.example\r\n").unwrap();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        happened.lock().unwrap().push(line);
        if out.write_all(b"250 back.example\r\n").is_err() {
            return;
        }
    }
}

/// While a session is held the back end has not heard of the command, replies to what came before are not held with it, and
/// the master is heard all the while.
#[test]
fn a_delayed_command_reaches_the_back_end_when_the_time_is_over() {
    let served = shipped();
    let chain = crate::chain::conversation::tests::relaying_slowly();
    let (mut client, server, peer) = pair();
    let (near, back_end, _) = pair();
    server.set_nonblocking(true).unwrap();
    let ((link, master), (voice, _logger)) = (socket::seqpacket_pair().unwrap(), socket::seqpacket_pair().unwrap());
    let happened = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    let others = {
        let happened = Arc::clone(&happened);
        std::thread::spawn(move || {
            let heard = Arc::clone(&happened);
            let back_end = std::thread::spawn(move || be_a_back_end(back_end, &heard));
            let master: Channel<ToWorker, FromWorker> = Channel::new(master);
            broke(&master, near);
            client.write_all(b"EHLO a.example\r\nNOOP\r\nMAIL FROM:<>\r\n").unwrap();
            let mut lines = BufReader::new(client).lines().map(Result::unwrap);
            let mut next = || lines.next().unwrap_or_default();
            assert_eq!(next(), "220 back.example");
            assert_eq!(
                [next(), next()],
                ["250 back.example", "250 back.example"],
                "EHLO and NOOP"
            );
            happened.lock().unwrap().push("held".to_owned());
            master.send(&ToWorker::Drain).unwrap();
            assert_eq!(next(), "250 back.example", "MAIL");
            assert!(next().starts_with("421 4.3.2 "));
            back_end.join().unwrap();
        })
    };
    let log = Rc::new(Log::new(voice, Level::Info));
    let link = Rc::new(Link::new(link, Rc::clone(&log)));
    let delivery = Rc::new(RefCell::new(Delivery::new(Rc::clone(&link), None)));
    let session = Session::new("s".into(), peer, server.local_addr().unwrap(), "mail.example");
    let refused = Refused::new(Instant::now()).unwrap();
    {
        let mut talk = talk!(server, peer, session, &chain, &served, &link, &log, delivery, refused);
        converse(&mut talk);
    }
    others.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(100), "the master was not heard");
    let happened = happened.lock().unwrap();
    let last: Vec<&str> = happened
        .iter()
        .map(String::as_str)
        .skip_while(|line| *line != "EHLO a.example")
        .collect();
    assert_eq!(last, ["EHLO a.example", "NOOP", "held", "MAIL FROM:<>"]);
}

/// A delay does not outlast the session, and ends with the client.
#[test]
fn a_pause_ends_with_the_session_and_with_the_client() {
    let (client, server, _) = pair();
    server.set_nonblocking(true).unwrap();
    let ((link, _master), (voice, _logger)) = (socket::seqpacket_pair().unwrap(), socket::seqpacket_pair().unwrap());
    let log = Rc::new(Log::new(voice, Level::Info));
    let link = Link::new(link, log);
    let mut transport = Transport::new(server.into(), listening(&link).unwrap()).unwrap();
    let patience = Patience {
        session: Duration::from_millis(50),
        ..shipped().patience()
    };
    let mut deadlines = Deadlines::new(patience, Instant::now());
    let (mut out, mut lost) = (Vec::new(), None);
    let began = Instant::now();
    let mut waiting = Waiting {
        transport: &mut transport,
        deadlines: &mut deadlines,
        out: &mut out,
        link: &link,
        lost: &mut lost,
    };
    assert_eq!(waiting.pause(Duration::from_secs(200)), Ok(()));
    let mut deadlines = Deadlines::new(shipped().patience(), Instant::now());
    // A connection that is reset: what it had not read is thrown away.
    waiting.out.extend_from_slice(b"250 OK\r\n");
    waiting.flush().unwrap();
    client.peek(&mut [0]).unwrap();
    drop(client);
    waiting.deadlines = &mut deadlines;
    assert_eq!(waiting.pause(Duration::from_secs(200)), Err(ClientGone));
    assert!(lost.is_some() && began.elapsed() < Duration::from_secs(100));
}
