//! One connection over the loopback network, with the chain of the shipped configuration.

use std::io::Read as _;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::*;
use crate::chain::{Directory, Found, configured};
use crate::config::Overrides;
use crate::ipc::sources::Refused;
use crate::log::Level;
use crate::smtp::address::ForwardPath;
use crate::sys::socket;
use crate::worker::transport::listening;

/// Has a fault.
struct Broken;

impl Directory for Broken {
    fn look_up(&self, _: &ForwardPath) -> Found {
        panic!("a fault of ours")
    }
}

#[test]
fn a_panic_is_told_the_client_and_ends_the_process() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let (configuration, chains) = configured::load(&path, &[])
        .map_err(|faults| faults.to_string())
        .unwrap();
    let served = Served::new(configuration, Overrides::default(), &chains);
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
    let broker = Rc::new(RefCell::new(Broker::new(Rc::clone(&link))));
    let refused = Refused::new(Instant::now()).unwrap();
    let mut talk = Talk {
        transport: Transport::new(server.into(), listening(link.as_ref()).unwrap()).unwrap(),
        receiver: Receiver::new(served.receiver_limits()),
        conversation: Box::new(Conversation::new(session, &chain, served.limits(0))),
        recorder: Recorder::new(Rc::clone(&link), &log, "test"),
        staging: Staging::new(Rc::clone(&delivery)),
        back_end: BackEnd::new(Rc::clone(&broker), &log, "test"),
        broker,
        delivery,
        keys: Keys::new(&link, served.certificates(), None),
        front: Front::new(&served, 0, refused.view(), peer.ip()),
        begins_with_tls: false,
        deadlines: Deadlines::new(served.patience(), Instant::now()),
        out: Vec::new(),
        link: &link,
        log: &log,
        in_body: false,
    };
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
