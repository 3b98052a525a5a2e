//! The emulated clock and its one timer: pure arithmetic over the fields of the clock page.
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vm_protocol::clock_page::{WORDS, Word};

/// Emulated time at which the kernel's process starts.
pub const START_NS: u64 = 1_000_000_000;
/// Emulated time of the first program's first entry into the kernel, whatever the loops
/// of the boot took: two boots are alike from there on.
pub const FIRST_ENTRY_NS: u64 = 2_000_000_000;
/// Resolution of the guest's clock source (arch/um/kernel/time.c, `timer_clocksource`):
/// a timer that fires earlier within one of these is too early for the guest.
const GRAIN_NS: u64 = 256;

/// The fields of the clock page.
pub type Words = [AtomicU64; WORDS];

/// The clock of a VM's kernel.
pub struct Clock {
    words: &'static Words,
    /// When the timer fires; 0: it is not armed.
    deadline_ns: AtomicU64,
    /// Its period after that; 0: once.
    interval_ns: AtomicU64,
}

impl Clock {
    /// A clock that stands at [`START_NS`].
    pub fn new(words: &'static Words) -> Self {
        let clock = Self {
            words,
            deadline_ns: AtomicU64::new(0),
            interval_ns: AtomicU64::new(0),
        };
        clock.set(Word::NowNs, START_NS);
        clock
    }

    /// A field of the page.
    pub fn get(&self, word: Word) -> u64 {
        self.words[word as usize].load(Relaxed)
    }

    /// Sets a field of the page. Only one thread writes, so no addition is lost.
    pub fn set(&self, word: Word, value: u64) {
        self.words[word as usize].store(value, Relaxed);
    }

    /// Counts one more of something.
    pub fn count(&self, word: Word) {
        self.set(word, self.get(word) + 1);
    }

    /// The time.
    pub fn now_ns(&self) -> u64 {
        self.get(Word::NowNs)
    }

    /// Time is at least this from now on; it never goes back.
    pub fn reach(&self, time_ns: u64) {
        self.set(Word::NowNs, self.now_ns().max(time_ns));
    }

    /// Arms the timer, or disarms it with 0, as timer_settime(2) does.
    pub fn arm(&self, after_ns: u64, interval_ns: u64) {
        let deadline = match after_ns {
            0 => 0,
            after => (self.now_ns().saturating_add(after)).next_multiple_of(GRAIN_NS),
        };
        self.deadline_ns.store(deadline, Relaxed);
        self.interval_ns.store(interval_ns, Relaxed);
    }

    /// When the timer fires, if it is armed.
    pub fn deadline_ns(&self) -> Option<u64> {
        let deadline = self.deadline_ns.load(Relaxed);
        (deadline != 0).then_some(deadline)
    }

    /// Time until the timer fires, as timer_gettime(2) tells it: at least 1 while it is
    /// armed, 0 if not.
    pub fn remaining_ns(&self) -> u64 {
        self.deadline_ns()
            .map_or(0, |deadline| deadline.saturating_sub(self.now_ns()).max(1))
    }

    /// Takes the timer's interrupt if its time has come: it is disarmed, or armed for
    /// the next period.
    pub fn take_interrupt(&self) -> bool {
        let due = self.deadline_ns().is_some_and(|at| at <= self.now_ns());
        if due {
            self.count(Word::Interrupts);
            let interval = self.interval_ns.load(Relaxed);
            let next = if interval == 0 {
                0
            } else {
                self.now_ns() + interval
            };
            self.deadline_ns.store(next, Relaxed);
        }
        due
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A page of a test's own.
    pub fn words() -> &'static Words {
        Box::leak(Box::new([const { AtomicU64::new(0) }; WORDS]))
    }

    #[test]
    fn a_timer_fires_once_at_its_time_and_not_within_a_grain_before() {
        let clock = Clock::new(words());
        assert_eq!((clock.remaining_ns(), clock.deadline_ns()), (0, None));
        clock.arm(1_000, 0);
        let deadline = clock.deadline_ns().unwrap();
        assert!(deadline >= START_NS + 1_000 && deadline.is_multiple_of(GRAIN_NS));
        clock.reach(deadline - 1);
        assert_eq!(clock.remaining_ns(), 1);
        assert!(!clock.take_interrupt());
        clock.reach(deadline);
        assert_eq!(
            clock.remaining_ns(),
            1,
            "armed until the interrupt is taken"
        );
        assert!(clock.take_interrupt() && !clock.take_interrupt());
        assert_eq!(clock.remaining_ns(), 0);
    }

    #[test]
    fn a_periodic_timer_goes_on() {
        let clock = Clock::new(words());
        clock.arm(256, 1_000);
        clock.reach(START_NS + 512);
        assert!(clock.take_interrupt());
        assert_eq!(clock.remaining_ns(), 1_000);
        clock.arm(0, 0);
        assert_eq!(clock.deadline_ns(), None);
    }

    #[test]
    fn time_never_goes_back() {
        let clock = Clock::new(words());
        clock.reach(START_NS + 5);
        clock.reach(START_NS);
        assert_eq!(clock.now_ns(), START_NS + 5);
    }
}
