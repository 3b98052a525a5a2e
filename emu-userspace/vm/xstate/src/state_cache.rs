//! Cache of the extended states of stopped processes.
use std::ffi::c_int;

/// Maximum length of a cached state; UML 6.1 keeps 2,696 bytes.
const LARGEST: usize = 4096;
/// Number of cache entries, one per guest process that takes part in context switches. PIDs
/// that are equal modulo this number evict each other.
const ENTRIES: usize = 512;

/// A cache entry: a stopped process and its state.
struct Entry {
    pid: c_int,
    /// Length of the state in bytes; 0 if the state is unknown.
    length: usize,
    state: [u8; LARGEST],
}

/// The cache, indexed by PID modulo [`ENTRIES`].
pub struct StateCache {
    entries: [Entry; ENTRIES],
}

impl StateCache {
    /// An empty cache.
    pub const fn new() -> Self {
        const NONE: Entry = Entry {
            pid: 0,
            length: 0,
            state: [0; LARGEST],
        };
        Self {
            entries: [NONE; ENTRIES],
        }
    }

    /// Records that a process has this state now, or that its state is unknown.
    pub fn record(&mut self, pid: c_int, state: Option<&[u8]>) {
        let entry = &mut self.entries[index(pid)];
        match state {
            Some(state) if state.len() <= LARGEST => {
                entry.pid = pid;
                entry.length = state.len();
                entry.state[..state.len()].copy_from_slice(state);
            }
            _ if entry.pid == pid => entry.length = 0,
            _ => {}
        }
    }

    /// Whether a process is known to have this state.
    pub fn has(&self, pid: c_int, state: &[u8]) -> bool {
        let entry = &self.entries[index(pid)];
        entry.length > 0 && entry.pid == pid && entry.state[..entry.length] == *state
    }
}

const fn index(pid: c_int) -> usize {
    pid.unsigned_abs() as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn only_the_same_process_with_the_same_state_is_known() {
        // Static because the cache is too large for a test's stack.
        static KNOWN: Mutex<StateCache> = Mutex::new(StateCache::new());
        let mut known = KNOWN.lock().unwrap();
        assert!(!known.has(0, &[]));
        known.record(7, Some(&[1, 2]));
        assert!(known.has(7, &[1, 2]));
        assert!(!known.has(8, &[1, 2]) && !known.has(7, &[1, 3]) && !known.has(7, &[1]));
        known.record(8, Some(&[3]));
        known.record(8, None);
        assert!(
            known.has(7, &[1, 2]) && !known.has(8, &[3]),
            "another process ran"
        );
        let same_place = 7 + 512;
        known.record(same_place, None);
        assert!(known.has(7, &[1, 2]) && !known.has(same_place, &[1, 2]));
        known.record(same_place, Some(&[1, 2]));
        assert!(!known.has(7, &[1, 2]) && known.has(same_place, &[1, 2]));
        known.record(7, Some(&[1, 2]));
        known.record(7, None);
        assert!(!known.has(7, &[1, 2]) && !known.has(7, &[]));
        known.record(7, Some(&[0; LARGEST + 1]));
        assert!(!known.has(7, &[0; LARGEST + 1]));
    }
}
