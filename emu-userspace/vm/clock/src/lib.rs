//! A clock without system calls for the programs in User-Mode Linux.
//!
//! A system call costs a program in User-Mode Linux 10 to 25 us, and its vDSO, which
//! elsewhere lets programs read the clock in 30 ns, makes system calls. Programs of peers
//! read the clock several times a packet. This crate replaces the vDSO's three functions of
//! time by functions that compute the time from the processor's time-stamp counter, and a
//! thread keeps the result in step with the kernel's clock.
//!
//! The crate must not change the time of any clock: the functions differ from the kernel's
//! time by microseconds only, no program sees time go back, the functions follow a clock
//! that is set at once, and times other than real or monotonic time come from the kernel as
//! before. A time namespace is the exception: its programs see the machine's monotonic
//! time.
mod code;
mod line;
mod page;

use std::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    thread,
    time::Duration,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    sys::{
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use code::Parameters;
use line::{Follower, Sample};
use page::Page;

/// Interval before the second reading; it doubles after each reading.
const FIRST_INTERVAL: Duration = Duration::from_millis(8);
/// Longest interval between two readings.
const MAX_INTERVAL: Duration = Duration::from_millis(1024);
/// Number of readings, of which the fastest one is used.
const READINGS: usize = 5;
/// Offset between real and monotonic time is kept until it changes by more than this.
const REAL_STEP_NS: u64 = 100_000;

/// Starts the clock for all programs of this guest; it ends with this process.
///
/// The caller must check that the machine's kernel trusts the counter: its clock source is
/// `tsc`.
///
/// # Errors
/// The guest is unchanged if its vDSO is not User-Mode Linux's, its memory cannot be
/// written, or its counter does not match the clock.
pub fn start() -> anyhow::Result<()> {
    let first = Sample::best(libc::CLOCK_MONOTONIC);
    thread::sleep(FIRST_INTERVAL);
    let second = Sample::best(libc::CLOCK_MONOTONIC);
    let follower = Follower::new(first, second).context("the counter is no clock")?;
    let clock = GuestClock {
        page: Page::patch(&code::code())?,
        follower,
        real_offset_ns: 0,
        sequence: 0,
    };
    thread::Builder::new()
        .name("clock".to_owned())
        .spawn(move || clock.run())
        .context("start the clock's thread")?;
    Ok(())
}

struct GuestClock {
    page: Page,
    follower: Follower,
    real_offset_ns: i64,
    sequence: u64,
}

impl GuestClock {
    fn run(mut self) {
        urgent();
        // Without parameters the functions make the system call, which is always right.
        if let Err(error) = self.follow() {
            let _ = self.page.stop();
            eprintln!("vm-init: programs ask the kernel for the time: {error:#}");
        }
    }

    fn follow(&mut self) -> anyhow::Result<()> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
        let mut wait = FIRST_INTERVAL;
        loop {
            self.set(wait)?;
            // A timer at a time of day ends early when that clock is set.
            let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME
                .union(TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET);
            let now = read(libc::CLOCK_REALTIME).cast_signed();
            let until = now.saturating_add(i64::try_from(wait.as_nanos())?);
            timer.set(Expiration::OneShot(TimeSpec::nanoseconds(until)), flags)?;
            match timer.wait() {
                Ok(()) | Err(Errno::ECANCELED) => {}
                Err(errno) => return Err(errno).context("wait"),
            }
            wait = (wait * 2).min(MAX_INTERVAL);
        }
    }

    fn set(&mut self, until_next: Duration) -> anyhow::Result<()> {
        let monotonic = Sample::best(libc::CLOCK_MONOTONIC);
        let line = self
            .follower
            .follow(monotonic, u64::try_from(until_next.as_nanos())?)
            .context("the counter does not go with the clock")?;
        let real = Sample::best(libc::CLOCK_REALTIME);
        let offset = real.ns.wrapping_sub(line.at(real.tsc)).cast_signed();
        if offset.abs_diff(self.real_offset_ns) > REAL_STEP_NS {
            self.real_offset_ns = offset;
        }
        self.sequence += 2;
        let parameters = Parameters::new(self.sequence, line, self.real_offset_ns);
        self.page.set(parameters)
    }
}

impl Sample {
    /// The fastest of several readings of a clock, with the counter at its middle.
    fn best(clock: libc::clockid_t) -> Self {
        let one = || {
            let before = counter();
            let ns = read(clock);
            let took = counter().saturating_sub(before);
            let tsc = before + took / 2;
            (took, Self { tsc, ns })
        };
        let first = one();
        (1..READINGS)
            .map(|_| one())
            .fold(
                first,
                |best, next| if next.0 < best.0 { next } else { best },
            )
            .1
    }
}

/// Nanoseconds of a clock, by system call.
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec, which lives across it.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) };
    let (seconds, ns) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
    seconds * 1_000_000_000 + ns
}

fn counter() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and `RDTSC` faults only in a
    // process that asked for it with prctl(2), which this one does not.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// Gives this thread real-time priority, because programs must not read a clock that was
/// set before the thread has followed.
fn urgent() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one sched_param; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
}

#[cfg(test)]
mod tests;
