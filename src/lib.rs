pub mod ipc;
pub mod helper;
pub mod log;
pub mod logger;
pub mod message;
pub mod smtp;
pub mod sys;
