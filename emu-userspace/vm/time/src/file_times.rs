//! Times of files that the VM changes on the file system that it shares with the host:
//! those of the emulated clock, which its programs compare them with.
use core::ffi::c_int;

use crate::{host, state::State};

/// A file was made or written: its time of modification is the emulated one.
pub fn changed(state: &State, fd: c_int) {
    let now = state.time_of_day_ns();
    let times = [
        libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        libc::timespec {
            tv_sec: (now / 1_000_000_000).cast_signed(),
            tv_nsec: (now % 1_000_000_000).cast_signed(),
        },
    ];
    // SAFETY: no path, and two times that live across the call. What cannot be set, a
    // device or somebody else's file, stays as it is.
    unsafe {
        host::raw(
            libc::SYS_utimensat,
            [i64::from(fd), 0, &raw const times as i64, 0, 0, 0],
        )
    };
}
