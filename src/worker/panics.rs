//! Where a panic happened, for the log: a worker must not write to a standard error that may block it.

use std::cell::RefCell;

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic of this process is remembered instead of being written to standard error.
pub(super) fn remember() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        PLACE.with_borrow_mut(|known| *known = place);
    }));
}

/// File, line and column of the last panic.
pub(super) fn place() -> String {
    PLACE.with_borrow(String::clone)
}
