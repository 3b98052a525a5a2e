//! Whose time a test runs in, and what that allows it to demand.

/// Whether this VM's clock is an emulated one: it goes on with the work in the VM, so nothing
/// that the machine does shows in a measured time.
pub fn is_virtual() -> bool {
    emu_kernel::clock::page().is_some()
}

/// What entries into the kernel may add to a time in virtual time, in milliseconds: some
/// twenty of a microsecond each between a packet's stamp and its due time (send, softirq,
/// receive), and 256 ns of the clock source for each of at most eight timers. The round trip
/// of four stages is measured 0.006 to 0.01 ms too long.
pub const ENTRIES_MS: f64 = 0.025;

/// A bound in milliseconds: `in_virtual` where time is exact, else `in_real`, which leaves
/// room for a machine that others use.
pub fn bound_ms(in_virtual: f64, in_real: f64) -> f64 {
    if is_virtual() { in_virtual } else { in_real }
}

/// How often a measurement may be made until it holds: a machine that others use may spoil
/// one, and nothing spoils one in virtual time.
pub fn tries(in_real: u32) -> u32 {
    if is_virtual() { 1 } else { in_real }
}
