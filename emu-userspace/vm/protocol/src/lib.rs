//! What a VM's launcher, its kernel process and the programs in it tell each other:
//! names of settings, the page with the emulated clock's counters, messages between
//! VMs that share one emulated time.
//!
//! It must stay free of system calls and of other crates: it is compiled into a library
//! that is preloaded into User-Mode Linux.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod clock_page;
pub mod segment;
pub mod settings;
