//! Measurements of the emulator itself, each beside the formula that it should
//! follow and beside netem with the same setting. They run in scratch network
//! namespaces and never touch the machine's own interfaces.
pub mod model;
pub mod stats;
