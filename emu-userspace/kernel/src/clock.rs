//! Whether this system's clock is the machine's or an emulated one.
//!
//! A VM in virtual time has a page with its clock and the settings that drive it
//! (`vm-protocol`). Code must not use it to decide what happens in the emulated network:
//! results only record which clock they had.
use std::{fs::File, io::Read};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::{Deserialize, Serialize};
use vm_protocol::{
    clock_page::{BYTES, ClockPage, Word},
    settings::GUEST_PAGE,
};

/// A copy of the emulated clock's page; `None` if the clock is the machine's.
pub fn page() -> Option<ClockPage> {
    let mut file = File::open(GUEST_PAGE).ok()?;
    // The launcher changes the page, so what this kernel has cached of it is outdated.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).ok()?;
    let mut bytes = Vec::with_capacity(BYTES);
    file.read_to_end(&mut bytes).ok()?;
    ClockPage::parse(&bytes)
}

/// Whether the clock is an emulated one that computing does not advance: then the machine's
/// speed cannot have limited a measurement.
pub fn is_computing_free() -> bool {
    page().is_some_and(|page| page.get(Word::CpuPermille) == 0)
}

/// The cost of a period of virtual time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct VirtualTime {
    /// Emulated time, in seconds.
    pub emulated_s: f64,
    /// Time on the machine, in seconds.
    pub wall_s: f64,
    /// Number of system calls and other entries into the kernel.
    pub entries: u64,
    /// Number of times that a program computed so long that the clock jumped; if there are
    /// any, two runs may differ in details.
    pub spins: u64,
    /// Emulated time of each entry, in nanoseconds.
    pub call_ns: u64,
    /// Emulated time per CPU time; 0: computing was free, and results say nothing about the
    /// speed of processors.
    pub cpu_factor: f64,
    /// Whether all random numbers came from a seed.
    pub is_seeded: bool,
}

/// Measures a period of virtual time.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(ClockPage);

impl Stopwatch {
    /// Starts now; `None` if the clock is the machine's.
    pub fn start() -> Option<Self> {
        page().map(Self)
    }

    /// The cost up to now.
    pub fn elapsed(&self) -> VirtualTime {
        let now = page().unwrap_or(self.0);
        let since = |word| now.get(word).saturating_sub(self.0.get(word));
        VirtualTime {
            emulated_s: since(Word::NowNs) as f64 / 1e9,
            wall_s: since(Word::WallNs) as f64 / 1e9,
            entries: since(Word::Entries),
            spins: since(Word::Spins),
            call_ns: now.get(Word::CallNs),
            cpu_factor: now.get(Word::CpuPermille) as f64 / 1e3,
            is_seeded: now.get(Word::Seeded) == 1,
        }
    }
}

impl VirtualTime {
    /// Speed relative to the machine's clock.
    pub fn speed(&self) -> f64 {
        self.emulated_s / self.wall_s.max(1e-3)
    }
}

/// Prints both clocks, the settings that drove the emulated one, and what the results do not
/// show.
impl std::fmt::Display for VirtualTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "virtual time: {:.1} s emulated in {:.1} s ({:.1} times real time), {} entries of {} ns",
            self.emulated_s,
            self.wall_s,
            self.speed(),
            self.entries,
            self.call_ns
        )?;
        match self.spins {
            0 => {}
            n => write!(f, ", {n} spins")?,
        }
        if self.cpu_factor > 0.0 {
            write!(
                f,
                "; computing took {} times its time here",
                self.cpu_factor
            )
        } else {
            write!(f, "; computing was free")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VirtualTime;

    #[test]
    fn people_read_both_clocks() {
        let mut time = VirtualTime {
            emulated_s: 200.0,
            wall_s: 14.0,
            entries: 5,
            call_ns: 1_000,
            ..VirtualTime::default()
        };
        let text = time.to_string();
        assert!(
            text.contains("200.0 s emulated in 14.0 s (14.3 times real time)"),
            "{text}"
        );
        assert!(
            text.ends_with("computing was free") && !text.contains("spins"),
            "{text}"
        );
        time.spins = 2;
        time.cpu_factor = 4.0;
        let text = time.to_string();
        assert!(text.contains("2 spins; computing took 4 times"), "{text}");
    }
}
