//! Environment variables by which the launcher configures the emulated clock. They are
//! those of the kernel's process on the host, not of programs in the VM.

/// Path of the clock page's file. The emulated clock is on if it is set.
pub const PAGE: &str = "EMU_CLOCK_PAGE";
/// Emulated nanoseconds for each entry of a program into the kernel.
pub const CALL_NS: &str = "EMU_CLOCK_CALL_NS";
/// Milliseconds of processor time without a sign of progress after which a computing
/// program is interrupted and time jumps to the next timer.
pub const SPIN_MS: &str = "EMU_CLOCK_SPIN_MS";
/// Seed of every random byte that the kernel asks the host for; unset: real randomness.
pub const SEED: &str = "EMU_CLOCK_SEED";
/// Time of day at which the VM boots, in nanoseconds since 1970.
pub const START_NS: &str = "EMU_CLOCK_START_NS";
/// Emulated time for the VM's own processor time, in thousandths; 0: computing is free.
pub const CPU_PERMILLE: &str = "EMU_CLOCK_CPU_PERMILLE";
/// Set to 1: idle time is waited for and not skipped, so that a person can take part.
pub const PACED: &str = "EMU_CLOCK_PACED";
/// File descriptor of the socket to the controller of several VMs.
pub const CONTROL_FD: &str = "EMU_CLOCK_CONTROL_FD";
/// File descriptor of the VM's end of the Ethernet segment.
pub const SEGMENT_FD: &str = "EMU_CLOCK_SEGMENT_FD";
/// Path of a file for a line about each step of the clock, for finding out where two
/// runs differ.
pub const TRACE: &str = "EMU_CLOCK_TRACE";

/// Parameter of the VM's kernel that says that its clock is emulated.
pub const GUEST_PARAMETER: &str = "EMU_VIRTUAL_TIME=1";
/// Its name.
pub const GUEST_VARIABLE: &str = "EMU_VIRTUAL_TIME";
/// Parameter with the path of the library that lets C++ programs take random numbers from
/// the VM's kernel; there only if those follow from a seed.
pub const GUEST_RANDOM: &str = "EMU_RANDOM_LIBRARY";
/// File name of that library.
pub const RANDOM_LIBRARY: &str = "libvm_random.so";
/// Folder in the VM of what belongs to its clock.
pub const GUEST_FOLDER: &str = "/run/emu-vm";
/// Path in the VM of the clock page; there only if the clock is emulated.
pub const GUEST_PAGE: &str = "/run/emu-vm/clock";

/// Default of [`CALL_NS`]. At 0 a program that polls the clock never sees it move; at
/// 10,000 a round trip over four pipes is 0.9 ms too long.
pub const DEFAULT_CALL_NS: u64 = 1_000;
/// Default of [`SPIN_MS`].
pub const DEFAULT_SPIN_MS: u64 = 50;
