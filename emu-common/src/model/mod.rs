//! Arithmetic of the emulation: pure functions of integers, run by the kernel
//! programs and by the host tests alike.
pub mod aqm;
pub mod checksum;
pub mod delay;
pub mod filter;
pub mod flow;
pub mod identity;
pub mod jitter;
pub mod loss;
pub mod order;
pub mod port;
pub mod queue;
pub mod queue_delay;
pub mod random;
pub mod rate;
pub mod schedule;
