//! Runs a command in a throwaway VM that shares this machine's files, or in several VMs that
//! are the hosts of one network.
//!
//! The crate owns the VM as a whole: its folder, streams and end (`folder`, `channel`,
//! `guest`), for User-Mode Linux (`uml`) and QEMU (`qemu`); its kernel, its clock, and the
//! network between VMs. It must not build or install anything: programs, packages and the
//! folder of caches come from its caller ([`Provider`]). It must not know what a command does.
#![forbid(unsafe_code)]

mod channel;
pub mod clock_settings;
mod folder;
mod guest;
pub mod hosts;
mod initramfs;
pub mod kernel;
mod lockstep;
mod processor;
pub mod provider;
mod qemu;
mod segment;
mod terminal;
mod testing;
mod uml;
pub mod virtual_time;

use std::time::Duration;

use virtual_time::VirtualTime;

pub use guest::TIMED_OUT;
pub use provider::{Need, Provider};

/// A command to run in a VM.
pub struct Request {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Size of the memory, as the options of User-Mode Linux and QEMU state it: `4G`.
    pub memory: String,
    /// Longest time that the VM may run; `None`: without limit.
    pub timeout: Option<Duration>,
    /// Longest time without output; `None`: without limit.
    pub silence: Option<Duration>,
    /// Whether a user types on the terminal.
    pub interactive: bool,
    /// Name before each line of output, if several VMs run at the same time.
    pub name: Option<String>,
    /// The VM's place on a network, which `hosts::run` sets.
    pub plug: Option<segment::Plug>,
    /// The VM's emulated clock; `None`: the machine's clock.
    pub clock: Option<VirtualTime>,
}

impl Request {
    /// A command with 4 GiB of memory, without limits, with the machine's clock.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            memory: "4G".to_owned(),
            timeout: None,
            silence: None,
            interactive: false,
            name: None,
            plug: None,
            clock: None,
        }
    }

    /// The command that checks whether a VM starts.
    fn trial() -> Self {
        Self {
            timeout: Some(Duration::from_secs(60)),
            ..Self::new(vec!["true".to_owned()])
        }
    }
}
