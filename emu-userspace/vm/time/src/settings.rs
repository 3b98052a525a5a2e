//! What the launcher asked for, read from the environment once.
use std::{env, ffi::CString, os::unix::ffi::OsStrExt};

use vm_protocol::settings as names;

use crate::host;

/// How the emulated clock goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// File of the clock page; none: a page of its own, which nobody sees.
    pub page: Option<CString>,
    /// Emulated nanoseconds for each entry into the kernel.
    pub call_ns: u64,
    /// Processor time without progress that is a spin; 0: nothing is one.
    pub spin_ms: u64,
    /// Seed of random bytes; none: the host's.
    pub seed: Option<u64>,
    /// Time of day at which the kernel's process starts, in nanoseconds since 1970.
    pub start_ns: u64,
    /// Emulated time for processor time, in thousandths.
    pub cpu_permille: u64,
    /// Whether idle time is waited for.
    pub paced: bool,
    /// Socket to the controller of several VMs.
    pub control_fd: Option<i32>,
    /// The number under which the kernel expects its Ethernet segment.
    pub segment_fd: Option<i32>,
    /// File for a line about each step.
    pub trace: Option<CString>,
}

impl Settings {
    /// Those of this process.
    pub fn from_environment() -> Self {
        Self::of(|name| env::var_os(name).map(|value| value.as_bytes().to_vec()))
    }

    /// Those that a look-up by name gives. A value that is not understood is as if it
    /// were not there: the launcher has checked what people write.
    pub fn of(look_up: impl Fn(&str) -> Option<Vec<u8>>) -> Self {
        let number = |name: &str| -> Option<u64> {
            let text = String::from_utf8(look_up(name)?).ok()?;
            text.parse().ok()
        };
        let path = |name: &str| CString::new(look_up(name)?).ok();
        let fd = |name: &str| number(name).and_then(|n| i32::try_from(n).ok());
        Self {
            page: path(names::PAGE),
            call_ns: number(names::CALL_NS).unwrap_or(names::DEFAULT_CALL_NS),
            spin_ms: number(names::SPIN_MS).unwrap_or(names::DEFAULT_SPIN_MS),
            seed: number(names::SEED),
            start_ns: number(names::START_NS)
                .unwrap_or_else(|| host::clock_ns(libc::CLOCK_REALTIME)),
            cpu_permille: number(names::CPU_PERMILLE).unwrap_or(0),
            paced: number(names::PACED) == Some(1),
            control_fd: fd(names::CONTROL_FD),
            segment_fd: fd(names::SEGMENT_FD),
            trace: path(names::TRACE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default() {
        let settings = Settings::of(|_| None);
        assert_eq!((settings.call_ns, settings.spin_ms), (1_000, 50));
        assert_eq!((settings.seed, settings.cpu_permille), (None, 0));
        assert!(
            settings.start_ns > 1_700_000_000_000_000_000,
            "the host's time"
        );
    }

    #[test]
    fn what_is_said_is_taken() {
        let settings = Settings::of(|name| match name {
            names::CALL_NS => Some(b"250".to_vec()),
            names::SEED => Some(b"7".to_vec()),
            names::PAGE => Some(b"/a/page".to_vec()),
            names::PACED => Some(b"1".to_vec()),
            names::CONTROL_FD => Some(b"-4".to_vec()),
            _ => None,
        });
        assert_eq!((settings.call_ns, settings.seed), (250, Some(7)));
        assert_eq!(settings.page.unwrap().to_bytes(), b"/a/page");
        assert!(settings.paced);
        assert_eq!(settings.control_fd, None, "no such number");
    }
}
