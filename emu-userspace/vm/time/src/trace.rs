//! A line for each step of the clock, to find out where two runs differ.
use core::{
    ffi::CStr,
    fmt::Write,
    sync::atomic::{AtomicI64, Ordering::Relaxed},
};

use crate::host;

/// A step of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The kernel read the clock; detail: reads since the last progress.
    Read,
    /// It armed its timer; detail: after how many nanoseconds it fires.
    Arm,
    /// A program entered the kernel.
    Entry,
    /// The timer's interrupt.
    Interrupt,
    /// The VM was idle; detail: the timer's time.
    Idle,
    /// Time jumped although a program computed.
    Spin,
}

/// Where the lines go. They are written as they come, so that the last one is there
/// however the VM ends.
pub struct Trace {
    fd: AtomicI64,
}

/// A line being made, on the stack: a signal handler may write one.
struct TraceLine {
    bytes: [u8; 96],
    length: usize,
}

impl Write for TraceLine {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.len() - self.length;
        let taken = text.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

impl Trace {
    /// Makes the file; none if it cannot be made.
    pub fn create(path: &CStr) -> Option<Self> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        // SAFETY: the path ends with NUL and lives across the call.
        let fd = unsafe {
            host::raw(
                libc::SYS_open,
                [path.as_ptr() as i64, i64::from(flags), 0o644, 0, 0, 0],
            )
        };
        (fd >= 0).then(|| Self {
            fd: AtomicI64::new(fd),
        })
    }

    /// Writes a step.
    pub fn write(&self, step: Step, now_ns: u64, entries: u64, detail: u64) {
        let mut line = TraceLine {
            bytes: [0; 96],
            length: 0,
        };
        let _ = writeln!(line, "{now_ns} {entries} {step:?} {detail}");
        // SAFETY: the buffer lives across the call and has the length given.
        unsafe {
            host::raw(
                libc::SYS_write,
                [
                    self.fd.load(Relaxed),
                    line.bytes.as_ptr() as i64,
                    line.length as i64,
                    0,
                    0,
                    0,
                ],
            )
        };
    }
}
