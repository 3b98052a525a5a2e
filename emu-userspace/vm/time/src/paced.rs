//! Idle time that is waited for, so that a person at a terminal can take part.
use crate::{host, state::State};

/// Waits on the host for as long as the VM would be idle, if that is asked for. True if
/// something came from outside before: time has gone on by what the host's clock says.
pub fn wait(state: &State, polled: Option<&mut libc::pollfd>) -> bool {
    if !state.settings.paced {
        return false;
    }
    let (now, deadline) = (state.clock.now_ns(), state.clock.deadline_ns());
    let wait_ns = deadline.map_or(u64::MAX, |at| at.saturating_sub(now));
    let time = libc::timespec {
        tv_sec: (wait_ns / 1_000_000_000).min(3_600).cast_signed(),
        tv_nsec: (wait_ns % 1_000_000_000).cast_signed(),
    };
    let (place, count) = polled.map_or((core::ptr::null_mut(), 0), |polled| {
        (core::ptr::from_mut(polled), 1)
    });
    let before = host::clock_ns(libc::CLOCK_MONOTONIC);
    // SAFETY: one pollfd or none, and a time, which live across the call.
    let ready = unsafe {
        host::raw(
            libc::SYS_ppoll,
            [place as i64, count, &raw const time as i64, 0, 0, 0],
        )
    };
    let gone = host::clock_ns(libc::CLOCK_MONOTONIC) - before;
    if ready == 0 {
        // The timer's time has come; it is reached to the nanosecond.
        return false;
    }
    state
        .clock
        .reach((now + gone).min(deadline.unwrap_or(u64::MAX)));
    true
}
