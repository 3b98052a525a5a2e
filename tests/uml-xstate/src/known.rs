//! The extended state that one process is known to have.
use std::ffi::c_int;

/// Larger than what UML 6.1 keeps (2,696 bytes).
const LARGEST: usize = 4096;

/// A process and its state while it is stopped.
pub struct Known {
    pid: c_int,
    /// 0: not known.
    length: usize,
    state: [u8; LARGEST],
}

impl Known {
    /// Of no process.
    pub const fn new() -> Self {
        Self {
            pid: 0,
            length: 0,
            state: [0; LARGEST],
        }
    }

    /// A process has this state now, or one that is not known.
    pub fn is(&mut self, pid: c_int, state: Option<&[u8]>) {
        match state {
            Some(state) if state.len() <= LARGEST => {
                self.pid = pid;
                self.length = state.len();
                self.state[..state.len()].copy_from_slice(state);
            }
            _ if self.pid == pid => self.length = 0,
            _ => {}
        }
    }

    /// Whether a process is known to have this state.
    pub fn has(&self, pid: c_int, state: &[u8]) -> bool {
        self.length > 0 && self.pid == pid && self.state[..self.length] == *state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_process_with_the_same_state_is_known() {
        let mut known = Known::new();
        assert!(!known.has(0, &[]));
        known.is(7, Some(&[1, 2]));
        assert!(known.has(7, &[1, 2]));
        assert!(!known.has(8, &[1, 2]) && !known.has(7, &[1, 3]) && !known.has(7, &[1]));
        known.is(8, None);
        assert!(known.has(7, &[1, 2]), "another process went on");
        known.is(7, None);
        assert!(!known.has(7, &[1, 2]) && !known.has(7, &[]));
        known.is(7, Some(&[0; LARGEST + 1]));
        assert!(!known.has(7, &[0; LARGEST + 1]));
    }
}
