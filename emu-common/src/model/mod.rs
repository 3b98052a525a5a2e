//! Arithmetic of the emulation: pure functions of integers, run by the kernel
//! programs and by the host tests alike.
pub mod delay;
pub mod flow;
pub mod identity;
pub mod queue;
pub mod rate;
