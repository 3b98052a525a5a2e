//! The C library's functions that the kernel of User-Mode Linux calls, as it gets them.
//!
//! Each does for the kernel's own thread what the module that it calls says, and for
//! everybody else (helper threads, processes before they are programs) what the C library
//! does. Functions with variable arguments take as many as any caller gives: on x86-64
//! integers are passed alike either way (System V ABI, 3.2.3). In the unit tests they have
//! other names, or the tests' own clock would be replaced.
use core::{
    ffi::{CStr, c_char, c_int, c_long, c_uint, c_void},
    mem, ptr, slice,
};

use crate::{
    children, file_times, host, paced, spin,
    state::{self, State},
    stubs::Stubs,
};

static STUBS: Stubs = Stubs::new();
/// The kernel waits on this when it is idle; -1: it does not wait that way.
static IDLE_FD: core::sync::atomic::AtomicI32 = core::sync::atomic::AtomicI32::new(-1);

/// The C library's own function of a name.
macro_rules! next {
    ($name:literal, $kind:ty) => {{
        static NEXT: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);
        let mut address = NEXT.load(core::sync::atomic::Ordering::Relaxed);
        if address == 0 {
            // SAFETY: the name ends with NUL.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, $name.as_ptr()) } as usize;
            NEXT.store(address, core::sync::atomic::Ordering::Relaxed);
        }
        if address == 0 {
            std::process::abort();
        }
        // SAFETY: it is the address of the C library's function of that name, which has
        // this type.
        unsafe { mem::transmute::<usize, $kind>(address) }
    }};
}

const fn ns(time: &libc::timespec) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

const fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000).cast_signed(),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    }
}

/// `clock_gettime(2)`: the emulated clock.
///
/// # Safety
/// As for the C library's function; this holds for all of this module.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let state = state::state();
    let now = match clock {
        libc::CLOCK_MONOTONIC => {
            state.read();
            state.clock.now_ns()
        }
        libc::CLOCK_REALTIME => state.time_of_day_ns(),
        other => {
            let arguments = [i64::from(other), time as i64, 0, 0, 0, 0];
            // SAFETY: the caller's own arguments.
            return unsafe { host::call(libc::SYS_clock_gettime, arguments) } as c_int;
        }
    };
    // SAFETY: the caller gives a place for a timespec.
    unsafe { time.write(timespec(now)) };
    0
}

/// `gettimeofday(2)`: the emulated time of day.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _: *mut c_void) -> c_int {
    let us = state::state().time_of_day_ns() / 1_000;
    let value = libc::timeval {
        tv_sec: (us / 1_000_000).cast_signed(),
        tv_usec: (us % 1_000_000).cast_signed(),
    };
    // SAFETY: the caller gives a place for a timeval.
    unsafe { time.write(value) };
    0
}

/// `timer_create(2)`: the kernel's one timer, which is ours.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn timer_create(
    _: libc::clockid_t,
    _: *mut libc::sigevent,
    timer: *mut libc::timer_t,
) -> c_int {
    let state = state::begin();
    if let (Some(controller), Some(number)) = (&state.controller, state.settings.segment_fd) {
        controller.connect(number);
    }
    spin::watch_boot(state.settings.spin_ms);
    // SAFETY: the caller gives a place for a timer's name; nobody looks behind ours.
    unsafe { timer.write(ptr::without_provenance_mut(1)) };
    0
}

/// `timer_settime(2)` of that timer.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn timer_settime(
    _: libc::timer_t,
    _: c_int,
    times: *const libc::itimerspec,
    _: *mut libc::itimerspec,
) -> c_int {
    // SAFETY: the caller gives an itimerspec. The kernel only sets relative times.
    let times = unsafe { &*times };
    state::state().arm(ns(&times.it_value), ns(&times.it_interval));
    0
}

/// `timer_gettime(2)` of that timer.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn timer_gettime(_: libc::timer_t, times: *mut libc::itimerspec) -> c_int {
    let value = libc::itimerspec {
        it_interval: timespec(0),
        it_value: timespec(state::state().clock.remaining_ns()),
    };
    // SAFETY: the caller gives a place for an itimerspec.
    unsafe { times.write(value) };
    0
}

/// `signalfd(2)`: the kernel waits for its timer's signal on it when it is idle.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn signalfd(fd: c_int, mask: *const libc::sigset_t, flags: c_int) -> c_int {
    let arguments = [i64::from(fd), mask as i64, 8, i64::from(flags), 0, 0];
    // SAFETY: the caller's own arguments; a signal set of the kernel has 8 bytes.
    let made = unsafe { host::call(libc::SYS_signalfd4, arguments) } as c_int;
    // SAFETY: the caller gives a signal set.
    if unsafe { libc::sigismember(mask, libc::SIGALRM) } == 1 {
        IDLE_FD.store(made, core::sync::atomic::Ordering::Relaxed);
    }
    made
}

/// `poll(2)`: where it means that the kernel is idle, time jumps.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn poll(
    polled: *mut libc::pollfd,
    count: libc::nfds_t,
    timeout: c_int,
) -> c_int {
    let idle_fd = IDLE_FD.load(core::sync::atomic::Ordering::Relaxed);
    // SAFETY: the caller gives `count` of them.
    let is_idle = count == 1 && timeout == -1 && idle_fd >= 0 && unsafe { (*polled).fd } == idle_fd;
    match state::running() {
        Some(state) if is_idle => {
            // SAFETY: the caller gives one of them.
            let one = unsafe { &mut *polled };
            idle_poll(state, one)
        }
        // The C library's own is a point at which helper threads are cancelled.
        _ => {
            type Poll = unsafe extern "C" fn(*mut libc::pollfd, libc::nfds_t, c_int) -> c_int;
            let next = next!(c"poll", Poll);
            // SAFETY: the caller's own arguments.
            unsafe { next(polled, count, timeout) }
        }
    }
}

fn idle_poll(state: &State, polled: &mut libc::pollfd) -> c_int {
    /// Only the world outside can go on; looked at again, for nothing is sure.
    const OUTSIDE_MS: i64 = 1_000;
    if paced::wait(state, Some(polled)) || state.skip_idle() {
        polled.revents = libc::POLLIN;
        return 1;
    }
    let arguments = [ptr::from_mut(polled) as i64, 1, OUTSIDE_MS, 0, 0, 0];
    // SAFETY: one pollfd, which lives across the call.
    unsafe { host::call(libc::SYS_poll, arguments) as c_int }
}

/// `sigsuspend(2)`: older kernels wait with it when they are idle.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigsuspend(mask: *const libc::sigset_t) -> c_int {
    if let Some(state) = state::running()
        && !paced::wait(state, None)
    {
        state.skip_idle();
    }
    // SAFETY: the caller's own argument; a signal set of the kernel has 8 bytes.
    unsafe { host::call(libc::SYS_rt_sigsuspend, [mask as i64, 8, 0, 0, 0, 0]) as c_int }
}

/// `syscall(2)`: kernels with seccomp wait for a guest process with `futex(2)`.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let arguments = [a, b, c, d, e, f];
    let waits = number == libc::SYS_futex && b & 127 == i64::from(libc::FUTEX_WAIT);
    match state::running() {
        Some(state) if waits => {
            let pid = STUBS.behind(a as usize);
            state.cpu.child_runs(pid);
            state::enter_child(pid);
            // SAFETY: the caller's own arguments.
            let answer = unsafe { host::raw(number, arguments) };
            state::leave_child();
            if answer != -i64::from(libc::EINTR) {
                state.entered();
            }
            host::result(answer)
        }
        // SAFETY: the caller's own arguments.
        _ => unsafe { host::call(number, arguments) },
    }
}

/// `waitpid(2)`: kernels with ptrace wait for a guest process with it.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int {
    let arguments = [i64::from(pid), status as i64, i64::from(options), 0, 0, 0];
    let for_guest = options & libc::__WALL != 0 && options & libc::WUNTRACED != 0;
    match state::running() {
        Some(state) if for_guest => {
            state.cpu.child_runs(pid);
            state::enter_child(pid);
            // SAFETY: the caller's own arguments.
            let answer = unsafe { host::raw(libc::SYS_wait4, arguments) };
            state::leave_child();
            if answer > 0 {
                state.entered();
            }
            host::result(answer) as c_int
        }
        // SAFETY: the caller's own arguments.
        _ => unsafe { host::call(libc::SYS_wait4, arguments) as c_int },
    }
}

/// `kill(2)`: a guest process is interrupted only while it runs, and one that is killed is
/// dead when the call returns.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn kill(pid: c_int, signal: c_int) -> c_int {
    let is_kernel = state::running().is_some();
    if is_kernel && signal == libc::SIGALRM && state::child() == 0 {
        return 0;
    }
    let arguments = [i64::from(pid), i64::from(signal), 0, 0, 0, 0];
    // SAFETY: the call takes numbers only; the second one writes a siginfo, which lives
    // across it, and for which all zeroes are valid.
    unsafe {
        let answer = host::raw(libc::SYS_kill, arguments);
        if answer == 0 && is_kernel && signal == libc::SIGKILL && pid > 0 {
            let mut info: libc::siginfo_t = mem::zeroed();
            let options = i64::from(libc::WEXITED | libc::WNOWAIT);
            let which = i64::from(libc::P_PID);
            host::raw(
                libc::SYS_waitid,
                [which, i64::from(pid), &raw mut info as i64, options, 0, 0],
            );
        }
        host::result(answer) as c_int
    }
}

/// `clone(2)`: the kernel makes a process for an address space.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn clone(
    begin: extern "C" fn(*mut c_void) -> c_int,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
) -> c_int {
    type Clone = unsafe extern "C" fn(
        extern "C" fn(*mut c_void) -> c_int,
        *mut c_void,
        c_int,
        *mut c_void,
        ...
    ) -> c_int;
    let next = next!(c"clone", Clone);
    // SAFETY: the caller's own arguments.
    let pid = unsafe { next(begin, stack, flags, argument) };
    if pid > 0 && state::running().is_some() {
        STUBS.made(pid);
    }
    pid
}

/// `sigaction(2)`: the kernel's handler for dead processes is called by ours.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    action: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    type SigAction =
        unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
    let next = next!(c"sigaction", SigAction);
    // SAFETY: the caller gives a sigaction or none.
    if let Some(given) = unsafe { action.as_ref() }
        && signal == libc::SIGCHLD
        && given.sa_flags & libc::SA_SIGINFO != 0
        && given.sa_sigaction > libc::SIG_IGN
    {
        children::handled_by(given.sa_sigaction);
        let mut ours = *given;
        ours.sa_sigaction = children::on_signal as *const () as usize;
        // SAFETY: `ours` lives across the call; the rest is the caller's.
        return unsafe { next(signal, &raw const ours, old) };
    }
    // SAFETY: the caller's own arguments.
    unsafe { next(signal, action, old) }
}

/// `epoll_ctl(2)`: writes to a pipe wait, so nothing is told when they could go on.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut libc::epoll_event,
) -> c_int {
    // SAFETY: the caller gives an event or none.
    let mut ours = unsafe { event.as_ref() }.copied();
    if let Some(ours) = &mut ours
        && ours.events & libc::EPOLLOUT as u32 != 0
        && state::running().is_some()
        && host::is_pipe(fd)
    {
        ours.events &= !(libc::EPOLLOUT as u32);
    }
    let place = ours.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let numbers = [epoll, operation, fd].map(i64::from);
    let arguments = [numbers[0], numbers[1], numbers[2], place as i64, 0, 0];
    // SAFETY: `ours` lives across the call.
    unsafe { host::call(libc::SYS_epoll_ctl, arguments) as c_int }
}

/// `open(2)`: the host's entropy is not for those who want the same run again, and a file
/// that is made has the emulated time.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let state = state::running();
    // SAFETY: the caller gives a path that ends with NUL.
    let name = unsafe { CStr::from_ptr(path) };
    if state::state().random.is_some() && name == c"/dev/random" {
        host::set_errno(libc::ENOENT);
        return -1;
    }
    let arguments = [path as i64, i64::from(flags), i64::from(mode), 0, 0, 0];
    // SAFETY: the caller's own arguments.
    let fd = unsafe { host::call(libc::SYS_open, arguments) } as c_int;
    if let Some(state) = state
        && fd >= 0
        && flags & libc::O_CREAT != 0
    {
        file_times::changed(state, fd);
    }
    fd
}

/// `pwrite(2)`: what is written to a shared file has the emulated time.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    bytes: *const c_void,
    length: usize,
    offset: i64,
) -> isize {
    let arguments = [i64::from(fd), bytes as i64, length as i64, offset, 0, 0];
    // SAFETY: the caller's own arguments.
    let written = unsafe { host::call(libc::SYS_pwrite64, arguments) };
    if let Some(state) = state::running()
        && written > 0
    {
        file_times::changed(state, fd);
    }
    written as isize
}

/// `write(2)`: waits where a pipe is full, so that time does not fly while a reader is slow.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, length: usize) -> isize {
    const LOOK_MS: i64 = 1_000;
    loop {
        let arguments = [i64::from(fd), bytes as i64, length as i64, 0, 0, 0];
        // SAFETY: the caller's own arguments.
        let written = unsafe { host::raw(libc::SYS_write, arguments) };
        let full = written == -i64::from(libc::EAGAIN);
        if !full || state::running().is_none() || !host::is_pipe(fd) {
            return host::result(written) as isize;
        }
        let mut room = libc::pollfd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one pollfd, which lives across the call.
        unsafe { host::raw(libc::SYS_poll, [&raw mut room as i64, 1, LOOK_MS, 0, 0, 0]) };
    }
}

/// `getrandom(2)`: bytes that follow from the seed, if there is one.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(random) = &state::state().random else {
        let arguments = [buffer as i64, length as i64, i64::from(flags), 0, 0, 0];
        // SAFETY: the caller's own arguments.
        return unsafe { host::call(libc::SYS_getrandom, arguments) as isize };
    };
    // SAFETY: the caller gives writable memory of that length.
    random.fill(unsafe { slice::from_raw_parts_mut(buffer.cast(), length) });
    length as isize
}

/// Whether this is the Ethernet segment, and who controls it.
fn segment(fd: c_int) -> Option<(&'static State, &'static crate::controller::Controller)> {
    let state = state::running()?;
    let controller = state.controller.as_ref()?;
    (state.settings.segment_fd == Some(fd)).then_some((state, controller))
}

/// `sendmmsg(2)`: frames of the Ethernet segment go to the controller.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn sendmmsg(
    fd: c_int,
    messages: *mut libc::mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let Some((state, controller)) = segment(fd) else {
        let numbers = [i64::from(count), i64::from(flags)];
        let arguments = [i64::from(fd), messages as i64, numbers[0], numbers[1], 0, 0];
        // SAFETY: the caller's own arguments.
        return unsafe { host::call(libc::SYS_sendmmsg, arguments) as c_int };
    };
    // SAFETY: the caller gives `count` messages, each with its iovecs.
    let messages = unsafe { slice::from_raw_parts_mut(messages, count as usize) };
    for message in messages {
        let header = &message.msg_hdr;
        // SAFETY: the caller gives each message with its iovecs.
        let parts = unsafe { slice::from_raw_parts(header.msg_iov, header.msg_iovlen) };
        let sent = controller.frame(&state.clock, parts);
        message.msg_len = u32::try_from(sent).unwrap_or(0);
    }
    count as c_int
}

/// `writev(2)`: likewise.
///
/// # Safety
/// See [`clock_gettime`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const libc::iovec, count: c_int) -> isize {
    let Some((state, controller)) = segment(fd) else {
        let arguments = [i64::from(fd), parts as i64, i64::from(count), 0, 0, 0];
        // SAFETY: the caller's own arguments.
        return unsafe { host::call(libc::SYS_writev, arguments) as isize };
    };
    // SAFETY: the caller gives `count` of them.
    let parts = unsafe { slice::from_raw_parts(parts, usize::try_from(count).unwrap_or(0)) };
    host::result(controller.frame(&state.clock, parts)) as isize
}
