//! sandbox stub
use std::io;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode { Require, BestEffort, Off }
#[derive(Debug, Clone)]
pub struct Profile;
pub fn enter(_: &Profile, _: Mode) -> io::Result<Vec<String>> { Ok(Vec::new()) }
