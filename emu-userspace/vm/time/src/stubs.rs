//! Which host process runs a guest's address space.
//!
//! A kernel that catches system calls with seccomp waits on a 32-bit word of memory that it
//! shares with that process, and nothing tells whose it is; but it waits for the first
//! time right after it has made the process.
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};

/// Address spaces at a time, a power of two.
const PLACES: usize = 1 << 16;

struct WaitPlace {
    word: AtomicUsize,
    pid: AtomicI32,
}

/// 32-bit words that are waited on, and the processes behind them.
pub struct Stubs {
    places: [WaitPlace; PLACES],
    /// A process that was made and not waited for yet.
    made: AtomicI32,
}

impl Stubs {
    /// None.
    pub const fn new() -> Self {
        Self {
            places: [const {
                WaitPlace {
                    word: AtomicUsize::new(0),
                    pid: AtomicI32::new(0),
                }
            }; PLACES],
            made: AtomicI32::new(0),
        }
    }

    /// A process was made.
    pub fn made(&self, pid: i32) {
        self.made.store(pid, Relaxed);
    }

    /// The process behind a 32-bit word that is waited on now; 0 if it is not known.
    pub fn behind(&self, word: usize) -> i32 {
        let first = (word >> 12).wrapping_mul(2_654_435_761) % PLACES;
        let made = self.made.swap(0, Relaxed);
        for step in 0..PLACES {
            let place = &self.places[(first + step) % PLACES];
            let known = place.word.load(Relaxed);
            if known != 0 && known != word {
                continue;
            }
            if made != 0 {
                place.word.store(word, Relaxed);
                place.pid.store(made, Relaxed);
            }
            return place.pid.load(Relaxed);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::Stubs;

    #[test]
    fn the_first_wait_after_a_process_was_made_is_for_it() {
        static STUBS: Stubs = Stubs::new();
        assert_eq!(STUBS.behind(0x5000), 0);
        STUBS.made(7);
        assert_eq!(STUBS.behind(0x5000), 7);
        STUBS.made(8);
        assert_eq!(STUBS.behind(0x9000), 8);
        assert_eq!((STUBS.behind(0x5000), STUBS.behind(0x9000)), (7, 8));
        // Memory that was let go of is used by another process later.
        STUBS.made(9);
        assert_eq!(STUBS.behind(0x5000), 9);
        // 32-bit words that fall on one place are told apart.
        STUBS.made(10);
        assert_eq!(STUBS.behind(0x5000 + (1 << 28)), 10);
        assert_eq!(STUBS.behind(0x5000), 9);
    }
}
