//! Facts about this machine: its identity among the hosts, and the speed of its interfaces.
use std::{env, fs};

use emu_model::host_selector::HostHints;

/// Hints in the environment and the host name about which host of a topology this machine is;
/// see [`HostHints::from_lookup`] for the variables.
pub fn host_hints() -> HostHints {
    let host = fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.map(|name| name.trim().to_owned());
    HostHints::from_lookup(|key| env::var(key).ok(), host.ok())
}

/// Speed of an interface of this machine in bits per second; `None` if there is no such
/// interface, or its driver does not know the speed.
pub fn link_speed(interface: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    // -1 if the driver does not know.
    let mbit: u64 = text.trim().parse().ok()?;
    Some(mbit * 1_000_000)
}
