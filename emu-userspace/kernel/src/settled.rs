//! What is loaded, as it is while nobody changes it.
//!
//! Readers take no lock, so a comparison with the kernel may fall into a change in place, a load
//! or an unload, and find objects missing that are only on their way.
use std::{
    fs,
    os::unix::fs::MetadataExt,
    thread,
    time::{Duration, Instant},
};

use crate::{
    drift,
    session::{Loaded, SessionError},
    state::StateDir,
};

/// Time that a reader waits for the end of a change; a load takes some seconds at most.
const MOST: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Loaded {
    /// As [`Loaded::find`], with the objects of the load that are not in place. While another
    /// process is changing the namespace, an error or a missing object does not count: it reads
    /// again, for at most ten seconds.
    ///
    /// # Errors
    /// As [`Loaded::find`]; [`SessionError::Drift`] if the kernel cannot be read.
    pub fn find_settled() -> Result<(Self, Vec<String>), SessionError> {
        let dir = StateDir::here()?;
        let end = Instant::now() + MOST;
        loop {
            let (is_changing, mark) = (dir.is_being_changed(), mark(&dir));
            let found = Self::find().and_then(|loaded| {
                let missing = drift::find(&loaded.plan, &loaded.state)?;
                Ok((loaded, missing))
            });
            let is_whole = found.as_ref().is_ok_and(|(_, missing)| missing.is_empty());
            let changed = is_changing || dir.is_being_changed() || mark != self::mark(&dir);
            if is_whole || !changed || Instant::now() >= end {
                return found;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Differs after each change of the state.
fn mark(dir: &StateDir) -> Option<(u64, i64, i64)> {
    let data = fs::metadata(dir.state_path()).ok()?;
    Some((data.ino(), data.mtime(), data.mtime_nsec()))
}
