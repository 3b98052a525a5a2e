//! emu, a kernel-side network emulator: thousands of unmodified programs on one
//! machine, each behind its own access line.

pub mod agent;
