//! The clock of a test's machine, and the accuracy that the clock allows a test to demand.

/// Whether this VM has an emulated clock, which advances with the guest's work: load of the
/// machine then has no effect on a measured time.
pub fn is_virtual() -> bool {
    emu_kernel::clock::page().is_some()
}

/// What entries into the kernel may add to a time in virtual time, in milliseconds: some
/// twenty entries of a microsecond each between a packet's timestamp and its due time
/// (send, softirq, receive), and 256 ns of the clock source for each of at most eight
/// timers. The measured round trip through four stages is 0.006 to 0.01 ms too long.
pub const ENTRIES_MS: f64 = 0.025;

/// A bound in milliseconds: `in_virtual` where time is exact, otherwise `in_real`, which
/// allows for the load of a shared machine.
pub fn bound_ms(in_virtual: f64, in_real: f64) -> f64 {
    if is_virtual() { in_virtual } else { in_real }
}

/// Maximum number of attempts at a measurement: `in_real` on a shared machine, which may
/// disturb an attempt; one in virtual time, where nothing disturbs it.
pub fn tries(in_real: u32) -> u32 {
    if is_virtual() { 1 } else { in_real }
}
