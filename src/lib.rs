//! rsmtpd: a mail server for research on spam and phishing.

pub mod chain;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod handlers;
mod helper;
pub mod ipc;
pub mod log;
pub mod logger;
pub mod master;
pub mod message;
pub mod session;
pub mod smtp;
pub mod sys;
pub mod worker;
