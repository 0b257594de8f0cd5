//! That a handler could not do its work.

/// A handler could not do its work; what follows is the entry's `on_error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// Something it waited for did not come in time.
    #[error("no answer in time from {0}")]
    TimedOut(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
