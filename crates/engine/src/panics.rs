//! Panics of code that the engine does not control: workspace types, populate sources and the database.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `run`, so that its panic does not end the thread: the error is "`what` panicked: …".
pub(crate) fn caught<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| format!("{what} panicked: {}", text(&*panic)))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
