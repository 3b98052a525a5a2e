//! The host's system calls as they are: the C library's names for them are ours here.
use core::{arch::asm, ffi::c_int};

/// A system call; a negative answer is an error's number.
///
/// # Safety
/// The caller vouches for the arguments as for the call of that number.
pub unsafe fn raw(number: i64, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    let answer;
    // SAFETY: the instruction changes the registers that are named and nothing else of
    // this program but what the call itself is asked to change.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// The same with the C library's way to tell an error: -1, and the number in `errno`.
///
/// # Safety
/// As for [`raw`].
pub unsafe fn call(number: i64, arguments: [i64; 6]) -> i64 {
    // SAFETY: the caller vouches for the arguments.
    result(unsafe { raw(number, arguments) })
}

/// An answer of [`raw`] as the C library gives it.
pub fn result(answer: i64) -> i64 {
    if (-4095..0).contains(&answer) {
        set_errno(-answer as c_int);
        return -1;
    }
    answer
}

/// Sets this thread's `errno`.
pub fn set_errno(number: c_int) {
    // SAFETY: the C library gives a place that lives as long as the thread.
    unsafe { *libc::__errno_location() = number };
}

/// This thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: the C library gives a place that lives as long as the thread.
    unsafe { *libc::__errno_location() }
}

/// Nanoseconds of one of the host's clocks; 0 if it cannot be read.
pub fn clock_ns(clock: c_int) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec, which lives across it.
    unsafe {
        raw(
            libc::SYS_clock_gettime,
            [i64::from(clock), &raw mut time as i64, 0, 0, 0, 0],
        )
    };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The clock of a process's processor time (`CPUCLOCK_SCHED` of
/// include/linux/posix-timers_types.h).
pub const fn cpu_clock(pid: c_int) -> c_int {
    (!pid << 3) | 2
}

/// Sends a signal to the calling thread, as if it came from the host.
pub fn signal_self(signal: c_int) {
    // SAFETY: the calls take numbers only.
    unsafe {
        let pid = raw(libc::SYS_getpid, [0; 6]);
        let thread = raw(libc::SYS_gettid, [0; 6]);
        raw(libc::SYS_tgkill, [pid, thread, i64::from(signal), 0, 0, 0]);
    }
}

/// Whether a file is a pipe.
pub fn is_pipe(fd: c_int) -> bool {
    // SAFETY: an all-zero stat is a valid one; the call writes one, which lives across it.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        raw(
            libc::SYS_fstat,
            [i64::from(fd), &raw mut stat as i64, 0, 0, 0, 0],
        ) == 0
            && stat.st_mode & libc::S_IFMT == libc::S_IFIFO
    }
}
