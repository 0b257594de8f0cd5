//! Seqpacket frames with at most one descriptor, and listening sockets.
//!
//! Every descriptor made or received here is close-on-exec and owned. A frame is a packet: what does
//! not fit is an error, never a part. A frame of no octets does not exist; 0 read means end-of-file.

use super::{checked, counted, uninterrupted};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The descriptor number of the client's connection: the only one on which the sandbox of a worker allows
/// `shutdown` and a change of the file status flags. It is the last below [`FIRST_CONTROL`].
pub const CLIENT_FD: RawFd = 63;

/// The first descriptor number of what a worker shares with others: listeners and the configuration directory with the
/// master; its Link, its voice and the doors that it was lent with the workers that come after it; from here to below
/// [`CLIENT_FD`]. The sandbox lets nobody, the master included, give what has a number from here to below
/// [`FIRST_CONTROL`] another one, least of all the client's.
pub const FIRST_SHARED: RawFd = 30;

/// The first descriptor number on which the sandbox allows `sendmsg`, the call that can pass descriptors.
pub const FIRST_CONTROL: RawFd = 64;

/// Connections that wait at a listener until a worker takes them; the kernel may allow fewer.
pub const BACKLOG: i32 = 4096;

/// Room for the descriptors of one message: one is legal, more are taken only to be closed.
const CONTROL_WORDS: usize = 16;

/// A connected pair of seqpacket sockets, blocking.
///
/// # Errors
/// What socketpair(2) says, mostly that descriptors ran out.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for the two descriptors that the kernel writes.
    checked(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    Ok((owned(pair[0]), owned(pair[1])))
}

/// Sends one frame with at most one descriptor; waits where the socket is blocking.
///
/// Without a descriptor this is `sendto` with no address, which workers may call on every descriptor;
/// with one it is `sendmsg`, which the sandbox allows from [`FIRST_CONTROL`] on.
///
/// # Errors
/// `InvalidInput` for an empty frame or more than one descriptor; `BrokenPipe` (never a signal) when the
/// other end is gone; what send(2) says.
pub fn send_frame(fd: impl AsFd, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(fd.as_fd(), frame, fds, libc::MSG_NOSIGNAL)
}

/// [`send_frame`] that answers `WouldBlock` rather than wait, whatever the socket's mode.
///
/// # Errors
/// As [`send_frame`], and `WouldBlock` when the other end's queue is full.
pub fn send_frame_nowait(fd: impl AsFd, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(fd.as_fd(), frame, fds, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
}

fn send(fd: BorrowedFd<'_>, frame: &[u8], fds: &[BorrowedFd<'_>], flags: libc::c_int) -> io::Result<()> {
    if frame.is_empty() || fds.len() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a frame has octets and at most one descriptor",
        ));
    }
    let sent = uninterrupted(|| match fds.first() {
        // SAFETY: pointer and length are those of a live slice.
        None => counted(unsafe { libc::send(fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags) }),
        Some(passed) => send_with_descriptor(fd, frame, *passed, flags),
    })?;
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::WriteZero, "a frame was cut"))
    }
}

fn send_with_descriptor(
    fd: BorrowedFd<'_>,
    frame: &[u8],
    passed: BorrowedFd<'_>,
    flags: libc::c_int,
) -> io::Result<usize> {
    let number = passed.as_raw_fd();
    let mut part = libc::iovec {
        iov_base: frame.as_ptr().cast_mut().cast(),
        iov_len: frame.len(),
    };
    let mut control = [0_usize; CONTROL_WORDS]; // usize: aligned as cmsghdr asks
    // SAFETY: msghdr is plain data, for which all zeroes is a value. CMSG_SPACE only computes.
    let (mut message, space, length) = unsafe {
        let one = size_of::<RawFd>() as libc::c_uint;
        (
            std::mem::zeroed::<libc::msghdr>(),
            libc::CMSG_SPACE(one),
            libc::CMSG_LEN(one),
        )
    };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    // SAFETY: `control` outlives the call, is aligned, and is longer than `space`, so the first header and the
    // one descriptor behind it lie inside; sendmsg reads `frame` and `control` only.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Err(io::Error::other("no room for a control message"));
        }
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(number);
        counted(libc::sendmsg(fd.as_raw_fd(), &raw const message, flags))
    }
}

/// Receives one frame into `buffer`: its length (0 is end-of-file) and the descriptor that came with it. A process with
/// no number free for the descriptor gets the frame alone; the kernel has closed what came with it.
///
/// # Errors
/// `InvalidData` when the frame is longer than `buffer` or brings more than one descriptor (all of them are
/// closed); `WouldBlock` on a non-blocking socket without a frame; what recvmsg(2) says.
pub fn recv_frame(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let received = receive(fd.as_fd(), buffer, libc::MSG_CMSG_CLOEXEC)?;
    Ok((received.length, received.descriptor))
}

/// [`recv_frame`] that answers `WouldBlock` rather than wait, whatever the socket's mode.
///
/// # Errors
/// As [`recv_frame`].
pub fn recv_frame_nowait(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let received = receive(fd.as_fd(), buffer, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT)?;
    Ok((received.length, received.descriptor))
}

/// [`recv_frame_nowait`] for a frame without a descriptor: its length, and the process that sent it if the kernel tells.
///
/// # Errors
/// As [`recv_frame_nowait`].
pub fn recv_signed_frame(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let received = receive(fd.as_fd(), buffer, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT)?;
    Ok((received.length, received.sender))
}

/// Asks the kernel to tell which process sent each frame that is sent from now on (unix(7), SO_PASSCRED).
///
/// # Errors
/// What setsockopt(2) says.
pub fn tell_senders(socket: impl AsFd) -> io::Result<()> {
    set_option(&socket, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)
}

/// What one frame brought.
struct Received {
    length: usize,
    descriptor: Option<OwnedFd>,
    sender: Option<u32>,
}

fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Received> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut control = [0_usize; CONTROL_WORDS];
    // SAFETY: msghdr is plain data, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let length = uninterrupted(|| {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: `message` points at live buffers of the lengths it states.
        counted(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) })
    })?;
    let (mut received, sender) = beside(&message);
    let too_many = message.msg_flags & libc::MSG_CTRUNC != 0 && !received.is_empty();
    if message.msg_flags & libc::MSG_TRUNC != 0 || too_many || received.len() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a frame too long or with too many descriptors",
        ));
    }
    Ok(Received {
        length,
        descriptor: received.pop(),
        sender,
    })
}

/// Takes octets for a TCP connection that is about to be shut down, so that they leave with its end and not before it;
/// how many.
///
/// # Errors
/// What send(2) says.
pub fn send_before_end(fd: impl AsFd, octets: &[u8]) -> io::Result<usize> {
    let (fd, flags) = (fd.as_fd().as_raw_fd(), libc::MSG_NOSIGNAL | libc::MSG_MORE);
    uninterrupted(|| {
        // SAFETY: pointer and length are those of a live slice.
        counted(unsafe { libc::send(fd, octets.as_ptr().cast(), octets.len(), flags) })
    })
}

/// Whether the other end of a local socket has not read yet all that this end has sent.
pub fn has_unread(fd: impl AsFd) -> bool {
    queue(fd.as_fd(), libc::TIOCOUTQ) > 0
}

/// Whether the other end of a local socket has sent what this end has not read yet.
pub fn has_input(fd: impl AsFd) -> bool {
    queue(fd.as_fd(), libc::FIONREAD) > 0
}

/// The length of the queue that ioctl_unix(2) calls `which`.
fn queue(fd: BorrowedFd<'_>, which: libc::Ioctl) -> libc::c_int {
    let mut octets: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which lives through the call.
    let asked = unsafe { libc::ioctl(fd.as_raw_fd(), which, &raw mut octets) };
    if asked == 0 { octets } else { 0 }
}

/// What came beside a received message: every descriptor, now owned, and the process that sent it.
fn beside(message: &libc::msghdr) -> (Vec<OwnedFd>, Option<u32>) {
    let mut found = Vec::new();
    let mut sender = None;
    // SAFETY: recvmsg has just filled `message`; the CMSG macros stay inside its control buffer, which lives
    // as long as it. Each number of an SCM_RIGHTS message is a fresh descriptor that nobody else owns.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let kind = ((*header).cmsg_level, (*header).cmsg_type);
            if kind == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
                // 0: the frame was sent before anybody asked.
                let credentials = libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned();
                sender = u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0);
            }
            if kind == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let octets = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..octets / size_of::<RawFd>() {
                    found.push(OwnedFd::from_raw_fd(first.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    (found, sender)
}

/// A listening TCP socket: non-blocking, SO_REUSEADDR, and IPv6 only where the address is one. What it accepts sends small
/// segments at once (TCP_NODELAY), as connections have from it.
///
/// # Errors
/// What bind(2) and listen(2) say: the address is in use, or the port needs a privilege.
pub fn listen(addr: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointer is passed.
    let socket = owned(checked(unsafe { libc::socket(family, kind, 0) })?);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if addr.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let (storage, length) = to_kernel(addr);
    // SAFETY: `storage` holds an address of `length` octets.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// Accepts one connection (non-blocking, close-on-exec) and says who the client is.
///
/// # Errors
/// `WouldBlock` when nobody waits; what accept(2) says, for example that descriptors ran out.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    // SAFETY: sockaddr_storage is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let listener = listener.as_fd().as_raw_fd();
    let socket = uninterrupted(|| {
        // SAFETY: the address buffer is as long as `length` says.
        checked(unsafe { libc::accept4(listener, (&raw mut storage).cast(), &raw mut length, flags) })
    })?;
    let socket = owned(socket);
    Ok((socket, from_kernel(&storage)?))
}

/// The local address of a socket.
///
/// # Errors
/// What getsockname(2) says; `InvalidData` when it is neither IPv4 nor IPv6.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    // SAFETY: sockaddr_storage is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the address buffer is as long as `length` says.
    checked(unsafe { libc::getsockname(socket, (&raw mut storage).cast(), &raw mut length) })?;
    from_kernel(&storage)
}

/// A UDP socket that sends to `addr` and hears nobody else: non-blocking, on a port that the kernel chooses.
///
/// # Errors
/// What socket(2) and connect(2) say.
pub fn datagrams_with(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointer is passed.
    let socket = owned(checked(unsafe { libc::socket(family, kind, 0) })?);
    let (storage, length) = to_kernel(addr);
    // SAFETY: `storage` holds an address of `length` octets.
    checked(unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    Ok(socket)
}

/// Watches `fd` for input so that one waiting process is woken by a connection, not all (EPOLLEXCLUSIVE,
/// which mio does not set). `token` is what the event carries.
///
/// # Errors
/// What epoll_ctl(2) says.
pub fn add_exclusive(epoll: RawFd, fd: impl AsFd, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32,
        u64: token,
    };
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: `event` lives through the call, which only reads it.
    checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

/// Says whether calls on `fd` wait. In a sandboxed process only for [`CLIENT_FD`].
///
/// # Errors
/// What fcntl(2) says.
pub fn set_nonblocking(fd: impl AsFd, nonblocking: bool) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no pointer is passed.
    let flags = checked(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    let flags = if nonblocking {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::fcntl(fd, libc::F_SETFL, flags) }).map(drop)
}

/// Gives a descriptor the lowest free number from `min` on.
///
/// # Errors
/// What fcntl(2) says; `fd` is closed then.
pub fn move_fd_at_least(fd: OwnedFd, min: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= min {
        return Ok(fd);
    }
    duplicate_at_least(&fd, min)
}

/// Another descriptor of the same file, with the lowest free number from `min` on.
///
/// # Errors
/// What fcntl(2) says.
pub fn duplicate_at_least(fd: impl AsFd, min: RawFd) -> io::Result<OwnedFd> {
    let number = fd.as_fd().as_raw_fd();
    // SAFETY: no pointer is passed.
    Ok(owned(checked(unsafe {
        libc::fcntl(number, libc::F_DUPFD_CLOEXEC, min)
    })?))
}

/// Gives the client's connection its number, [`CLIENT_FD`], which must be free or hold an earlier client whose
/// owner has been dropped.
///
/// # Errors
/// `AlreadyExists` when something is open there; what fcntl(2) says.
pub fn place_client(fd: OwnedFd) -> io::Result<OwnedFd> {
    let placed = move_fd_at_least(fd, CLIENT_FD)?;
    if placed.as_raw_fd() == CLIENT_FD {
        return Ok(placed);
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "the client's descriptor number is taken",
    ))
}

fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the option's value is an int that lives through the call.
    checked(unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), length) }).map(drop)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes a number that a system call has just made and nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn to_kernel(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain data.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let target = &raw mut storage;
    match addr {
        SocketAddr::V4(v4) => {
            // SAFETY: sockaddr_storage is as long and as aligned as every address of the kernel.
            let to = unsafe { &mut *target.cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *target.cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_flowinfo = v6.flowinfo();
            to.sin6_scope_id = v6.scope_id();
            (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

fn from_kernel(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let source: *const libc::sockaddr_storage = storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which address it is; the storage is long and aligned enough for each.
            let from = unsafe { &*source.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(from.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let from = unsafe { &*source.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
            let port = u16::from_be(from.sin6_port);
            Ok(SocketAddrV6::new(ip, port, from.sin6_flowinfo, from.sin6_scope_id).into())
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "neither an IPv4 nor an IPv6 address",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn frames_keep_their_bounds_and_end_in_end_of_file() {
        let (a, b) = seqpacket_pair().unwrap();
        send_frame(&a, b"one", &[]).unwrap();
        send_frame_nowait(&a, b"second", &[]).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(recv_frame(&b, &mut buffer).unwrap().0, 3);
        let (length, fd) = recv_frame(&b, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fd.is_none()), (&b"second"[..], true));
        assert_eq!(
            recv_frame_nowait(&b, &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(a);
        assert_eq!(recv_frame(&b, &mut buffer).unwrap().0, 0);
        assert_eq!(send_frame(&b, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_descriptor_rides_with_its_frame_and_is_close_on_exec() {
        let (a, b) = seqpacket_pair().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        send_frame(&a, b"take", &[reader.as_fd()]).unwrap();
        send_frame(&a, b"none", &[]).unwrap();
        let (_, fd) = recv_frame(&b, &mut [0; 16]).unwrap();
        let fd = fd.unwrap();
        // SAFETY: no pointer is passed.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(recv_frame(&b, &mut [0; 16]).unwrap().1.is_none());
    }

    /// With no number free for it the descriptor is lost, and its frame tells so by coming without one.
    #[test]
    fn a_descriptor_that_finds_no_number_loses_itself_and_not_the_frame() {
        let ended = crate::sys::in_child(|| {
            use nix::sys::resource::{Resource, setrlimit};
            let Ok((a, b)) = seqpacket_pair() else { return 1 };
            let Ok((reader, mut writer)) = std::io::pipe() else {
                return 2;
            };
            let sent =
                send_frame(&a, b"take", &[reader.as_fd()]).and_then(|()| send_frame(&a, b"next", &[reader.as_fd()]));
            drop(reader);
            if sent.is_err() || setrlimit(Resource::RLIMIT_NOFILE, 0, 4096).is_err() {
                return 3;
            }
            let Ok((4, None)) = recv_frame(&b, &mut [0; 16]) else {
                return 4;
            };
            if setrlimit(Resource::RLIMIT_NOFILE, 4096, 4096).is_err() {
                return 5;
            }
            let Ok((4, Some(next))) = recv_frame(&b, &mut [0; 16]) else {
                return 6;
            };
            drop(next);
            i32::from(writer.write(b"x").is_ok()) * 7
        });
        assert_eq!(ended, crate::sys::process::Ended::Exited(0));
    }

    #[test]
    fn what_the_other_end_has_not_read_is_known() {
        let (a, b) = seqpacket_pair().unwrap();
        assert!(!has_unread(&a));
        send_frame(&a, b"x", &[b.as_fd()]).unwrap();
        assert!(has_unread(&a) && !has_unread(&b));
        assert!(has_input(&b) && !has_input(&a));
        recv_frame(&b, &mut [0; 16]).unwrap();
        assert!(!has_unread(&a) && !has_input(&b));
    }

    #[test]
    fn a_frame_too_long_is_an_error_and_closes_its_descriptor() {
        let (a, b) = seqpacket_pair().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        send_frame(&a, b"0123456789", &[reader.as_fd()]).unwrap();
        drop(reader);
        assert_eq!(
            recv_frame(&b, &mut [0; 4]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(
            send_frame(&a, b"", &[]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        let two = [a.as_fd(), a.as_fd()];
        assert_eq!(
            send_frame(&a, b"x", &two).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    fn sends_at_once(socket: &OwnedFd) -> bool {
        nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::TcpNoDelay).unwrap()
    }

    #[test]
    fn a_listener_accepts_and_names_the_client() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = listen(address.parse().unwrap(), 16) else {
                continue;
            };
            assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let there = local_addr(&listener).unwrap();
            let client = std::net::TcpStream::connect(there).unwrap();
            let (socket, peer) = accept(&listener).unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
            assert!(sends_at_once(&socket));
            set_nonblocking(&socket, false).unwrap();
        }
    }

    #[test]
    fn a_moved_descriptor_has_at_least_the_number_asked_for() {
        let (a, _b) = seqpacket_pair().unwrap();
        let moved = move_fd_at_least(a, 200).unwrap();
        assert!(moved.as_raw_fd() >= 200);
        let same = moved.as_raw_fd();
        assert_eq!(move_fd_at_least(moved, 100).unwrap().as_raw_fd(), same);
    }
}
