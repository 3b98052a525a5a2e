//! Cache of the extended states of stopped processes.
use std::ffi::c_int;

/// Maximum length of a cached state; UML 6.1 keeps 2,696 bytes.
const LARGEST: usize = 4096;
/// Number of cache entries, one per guest process that takes part in context switches. PIDs
/// that are equal modulo this number evict each other.
const PLACES: usize = 512;

/// A cache entry: a stopped process and its state.
struct Place {
    pid: c_int,
    /// Length of the state in bytes; 0 if the state is unknown.
    length: usize,
    state: [u8; LARGEST],
}

/// The cache, indexed by PID modulo [`PLACES`].
pub struct Known {
    places: [Place; PLACES],
}

impl Known {
    /// An empty cache.
    pub const fn new() -> Self {
        const NONE: Place = Place {
            pid: 0,
            length: 0,
            state: [0; LARGEST],
        };
        Self {
            places: [NONE; PLACES],
        }
    }

    /// Records that a process has this state now, or that its state is unknown.
    pub fn is(&mut self, pid: c_int, state: Option<&[u8]>) {
        let place = &mut self.places[index(pid)];
        match state {
            Some(state) if state.len() <= LARGEST => {
                place.pid = pid;
                place.length = state.len();
                place.state[..state.len()].copy_from_slice(state);
            }
            _ if place.pid == pid => place.length = 0,
            _ => {}
        }
    }

    /// Whether a process is known to have this state.
    pub fn has(&self, pid: c_int, state: &[u8]) -> bool {
        let place = &self.places[index(pid)];
        place.length > 0 && place.pid == pid && place.state[..place.length] == *state
    }
}

const fn index(pid: c_int) -> usize {
    pid.unsigned_abs() as usize % PLACES
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn only_the_same_process_with_the_same_state_is_known() {
        // Static because the cache is too large for a test's stack.
        static KNOWN: Mutex<Known> = Mutex::new(Known::new());
        let mut known = KNOWN.lock().unwrap();
        assert!(!known.has(0, &[]));
        known.is(7, Some(&[1, 2]));
        assert!(known.has(7, &[1, 2]));
        assert!(!known.has(8, &[1, 2]) && !known.has(7, &[1, 3]) && !known.has(7, &[1]));
        known.is(8, Some(&[3]));
        known.is(8, None);
        assert!(
            known.has(7, &[1, 2]) && !known.has(8, &[3]),
            "another one went on"
        );
        let same_place = 7 + 512;
        known.is(same_place, None);
        assert!(known.has(7, &[1, 2]) && !known.has(same_place, &[1, 2]));
        known.is(same_place, Some(&[1, 2]));
        assert!(!known.has(7, &[1, 2]) && known.has(same_place, &[1, 2]));
        known.is(7, Some(&[1, 2]));
        known.is(7, None);
        assert!(!known.has(7, &[1, 2]) && !known.has(7, &[]));
        known.is(7, Some(&[0; LARGEST + 1]));
        assert!(!known.has(7, &[0; LARGEST + 1]));
    }
}
