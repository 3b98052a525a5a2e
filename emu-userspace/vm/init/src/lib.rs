//! The definitions that the first process of the VM shares with the launcher.
#![forbid(unsafe_code)]

pub mod modules;
