pub mod ipc;
pub mod helper;
pub mod log;
pub mod logger;
pub mod sys;
