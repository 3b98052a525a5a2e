//! The page with the emulated clock and what drove it: a file of 64-bit little-endian
//! 64-bit words that the kernel's process maps, the launcher watches, and a program in the VM
//! reads.

/// Number of 64-bit words of the page.
pub const WORDS: usize = 16;
/// Length of the file in bytes.
pub const BYTES: usize = WORDS * 8;
/// First 64-bit word of a page that is in use; its last byte counts versions of the layout.
pub const MAGIC: u64 = 0x656d_7563_6c6b_0001;

/// A field of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// [`MAGIC`].
    Magic = 0,
    /// Emulated monotonic time of the kernel's process, in nanoseconds.
    NowNs = 1,
    /// Times that a program entered the kernel: system calls, page faults, signals.
    Entries = 2,
    /// Times that the VM was idle and time jumped to its next timer.
    Idles = 3,
    /// Timer interrupts.
    Interrupts = 4,
    /// Times that a program computed for so long that time jumped although it was not idle.
    Spins = 5,
    /// Times that the kernel read the clock.
    Reads = 6,
    /// Host time since the kernel's process started, in nanoseconds.
    WallNs = 7,
    /// The same when the first program ran.
    BootWallNs = 8,
    /// Spins before the first program ran: loops of the kernel's boot.
    BootSpins = 9,
    /// Emulated nanoseconds for each entry.
    CallNs = 10,
    /// Emulated time for the VM's own processor time, in thousandths.
    CpuPermille = 11,
    /// Processor time that was charged, in nanoseconds.
    CpuNs = 12,
    /// Emulated time at which the first program ran, in nanoseconds.
    BootNs = 13,
    /// 1 if random bytes follow from a seed.
    Seeded = 14,
}

/// What a page says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockPage([u64; WORDS]);

impl ClockPage {
    /// Reads the bytes of a page; none if they are not one of this layout.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = [0; WORDS];
        if bytes.len() < BYTES {
            return None;
        }
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        (words[Word::Magic as usize] == MAGIC).then_some(Self(words))
    }

    /// A word's value.
    pub const fn get(&self, word: Word) -> u64 {
        self.0[word as usize]
    }

    /// Emulated time since the first program ran, in nanoseconds.
    pub const fn emulated_ns(&self) -> u64 {
        self.get(Word::NowNs).saturating_sub(self.get(Word::BootNs))
    }

    /// Host time since the first program ran, in nanoseconds.
    pub const fn wall_ns(&self) -> u64 {
        self.get(Word::WallNs)
            .saturating_sub(self.get(Word::BootWallNs))
    }

    /// Spins since the first program ran.
    pub const fn spins(&self) -> u64 {
        self.get(Word::Spins)
            .saturating_sub(self.get(Word::BootSpins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_of_this_layout_are_read() {
        let mut bytes = [0; BYTES];
        assert_eq!(ClockPage::parse(&bytes), None, "no magic");
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        let spins = Word::Spins as usize * 8;
        bytes[spins] = 7;
        bytes[Word::BootSpins as usize * 8] = 3;
        let page = ClockPage::parse(&bytes).unwrap();
        assert_eq!((page.get(Word::Spins), page.spins()), (7, 4));
        assert_eq!(ClockPage::parse(&bytes[1..]), None, "too short");
    }
}
