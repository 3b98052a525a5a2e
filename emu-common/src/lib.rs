//! What the kernel programs and user space share: map layouts, names, counted
//! reasons, and every formula of the emulation.
//!
//! The crate must stay free of clocks, random sources, maps and allocation:
//! time and chance are arguments, so that the same function runs in a unit test
//! and inside the kernel.
#![cfg_attr(not(test), no_std)]

pub mod layout;
pub mod model;
pub mod names;
pub mod reason;

pub use reason::Reason;
