//! Changes of files as inotify(7) reports them: one process watches, all that it forks see with one call whether anything
//! has happened.
//!
//! What is inherited is an epoll descriptor in which the inotify one lies. It is ready as long as an event waits there,
//! and through it no event can be read, whoever has it: a process that was taken over cannot hide a change from the
//! others. It must not be able to add to it either, which its sandbox sees to.

use super::{checked, socket, uninterrupted};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What is reported of a file: content, rights and links, times. Content written through a mapping is not, until that is
/// unmapped.
const OF_FILES: u32 =
    libc::IN_MODIFY | libc::IN_CLOSE_WRITE | libc::IN_ATTRIB | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;

/// What is reported of a directory: its names, and who may look at them. (Of the files in it IN_ATTRIB as well.)
const OF_DIRECTORIES: u32 =
    libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO | libc::IN_ATTRIB | libc::IN_ONLYDIR;

/// Watches, and the descriptor that tells children of events.
#[derive(Debug)]
pub struct Inotify {
    inotify: OwnedFd,
    sign: OwnedFd,
    watches: Vec<libc::c_int>,
}

impl Inotify {
    /// Without watches, numbered from `first_own` on: no child may have it. What they inherit is numbered from
    /// [`FIRST_SHARED`](socket::FIRST_SHARED) on.
    ///
    /// # Errors
    /// What inotify_init1(2) says (there are limits for each user), or epoll_create1(2).
    pub fn new(first_own: i32) -> io::Result<Inotify> {
        // SAFETY: no pointer is passed; nobody else owns what is made.
        let inotify = unsafe {
            let made = checked(libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC))?;
            OwnedFd::from_raw_fd(made)
        };
        let inotify = socket::move_fd_at_least(inotify, first_own)?;
        // SAFETY: as above.
        let sign = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let sign = socket::move_fd_at_least(sign, socket::FIRST_SHARED)?;
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        // SAFETY: `event` lives through the call, which only reads it.
        checked(unsafe {
            libc::epoll_ctl(
                sign.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                inotify.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(Inotify {
            inotify,
            sign,
            watches: Vec::new(),
        })
    }

    /// What children inherit, for [`is_quiet`].
    pub fn sign(&self) -> BorrowedFd<'_> {
        self.sign.as_fd()
    }

    /// Watches the directory and, as far as there are any, these files in it; nothing else any more. What was reported
    /// before is forgotten: nobody may go by that afterwards.
    ///
    /// # Errors
    /// What inotify_add_watch(2) says: there are limits, and what is watched must be readable. No proc(5).
    pub fn watch<S: AsRef<str>>(&mut self, directory: BorrowedFd<'_>, names: &[S]) -> io::Result<()> {
        for watch in self.watches.drain(..) {
            // SAFETY: no pointer is passed. Of a file that is gone the kernel has removed it.
            unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), watch) };
        }
        self.forget()?;
        // By its descriptor: another directory may have its name by now.
        let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
        self.add(format!("{directory}/."), OF_DIRECTORIES)?;
        for name in names {
            let watched = self.add(
                format!("{directory}/{}", name.as_ref()),
                OF_FILES | libc::IN_DONT_FOLLOW,
            );
            match watched {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether nothing was reported since.
    pub fn is_quiet(&self) -> bool {
        is_quiet([self.inotify.as_fd()])
    }

    fn add(&mut self, path: String, events: u32) -> io::Result<()> {
        let path = CString::new(path)?;
        // SAFETY: the path lives through the call.
        let watch = checked(unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), path.as_ptr(), events) })?;
        self.watches.push(watch);
        Ok(())
    }

    /// Reads all events. There are no watches that could make more of them.
    fn forget(&self) -> io::Result<()> {
        let mut events = [0_u8; 4096];
        loop {
            let (to, length) = (events.as_mut_ptr().cast(), events.len());
            let read = uninterrupted(|| {
                // SAFETY: the buffer is as long as `length` says.
                super::counted(unsafe { libc::read(self.inotify.as_raw_fd(), to, length) })
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
        }
    }
}

/// Whether none of these descriptors has anything to read, nor has come to its end. One call.
pub fn is_quiet<const N: usize>(all: [BorrowedFd<'_>; N]) -> bool {
    let mut all = all.map(|fd| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array is as long as is said.
    unsafe { libc::poll(all.as_mut_ptr(), N as libc::nfds_t, 0) == 0 }
}
