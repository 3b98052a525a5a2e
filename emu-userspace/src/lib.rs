//! emu
pub mod kernel;
pub mod plan;
pub mod topology;
pub mod verify;
