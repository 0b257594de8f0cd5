//! Copies of messages as files of their own, `copies/rsmtpd-ID.txt` below the state directory, for research.
//!
//! They are nobody's mail: a copy that cannot be written is said in the log, and changes nothing for the client.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::content::{Content, Source};
use super::file::{self, Unnamed};
use crate::ipc::delivery::Commit;

/// The directory of copies.
pub(super) const COPIES: &str = "copies";
/// Names tried for one message: it may come again after a delivery process has died.
const NAMES: u32 = 9;

/// Writes one, with the reverse-path and the fields that we add in front; its name.
pub(super) fn save(state: &Path, commit: &Commit, source: Source<'_>) -> io::Result<String> {
    let directory = state.join(COPIES);
    file::make_directory(&directory)?;
    let content = Content::new(&commit.fields, &commit.removed, source)?;
    let mut copy = Unnamed::create(&directory)?;
    let head = format!("Return-Path: <{}>\r\n", commit.reverse_path);
    content.write(head.as_bytes(), &copy.file)?;
    let mut name = format!("rsmtpd-{}.txt", commit.id);
    for number in 2..=NAMES {
        match copy.link(&directory.join(&name)) {
            Err(error) if error.raw_os_error() == Some(Errno::EEXIST as i32) => {
                name = format!("rsmtpd-{}.{number}.txt", commit.id);
            }
            linked => return linked.map(|()| name),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
