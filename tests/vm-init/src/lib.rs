//! What the first process of the VM shares with the tool that starts it.
#![forbid(unsafe_code)]

pub mod modules;
