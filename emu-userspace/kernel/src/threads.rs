//! Threads whose start may fail, as it does at the limit of processes: `thread::spawn` panics
//! then.
use std::{io, thread};

/// Runs `work` on a thread of its own, for what does not come back from a namespace; waits for
/// its end.
///
/// # Errors
/// The kernel's error if the thread cannot be started.
pub(crate) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        let ended = thread.join();
        ended.map_err(|_| io::Error::other("the thread panicked"))
    })
}
