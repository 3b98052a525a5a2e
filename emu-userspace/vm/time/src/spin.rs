//! Programs, and loops of the kernel, that compute without a call: a host timer looks now
//! and then whether anything got on, by processor time, so that other load on the machine
//! does not matter.
use core::{
    ffi::{c_int, c_void},
    mem, ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed},
};

use vm_protocol::clock_page::Word;

use crate::{host, state};

/// Looks at a kernel that boots come after each millisecond that it computes.
const BOOT_LOOK_MS: u64 = 1;
/// Processor time without progress that is a spin during boot.
const BOOT_SPIN_MS: u64 = 40;
/// Looks where processor time is charged.
const CHARGED_LOOK_MS: u64 = 1;
/// Processor time that is a spin, and the time between two looks, once a program has spun
/// twice in a row: it waits for time to pass, and gets what it waits for sooner.
const STREAK_MS: u64 = 4;
/// Entries into the kernel between two spins in a row: those of the timer's interrupt, and
/// what other programs do then.
const STREAK_ENTRIES: u64 = 50;

static TIMER: AtomicI32 = AtomicI32::new(-1);
/// Processor time without progress that is a spin; 0: nothing is.
static SPIN_NS: AtomicU64 = AtomicU64::new(0);
/// Looks charge processor time, too.
static CHARGES: AtomicBool = AtomicBool::new(false);
/// Progress at the last look, and the clock and time since when there was none.
static LAST: AtomicU64 = AtomicU64::new(0);
static STUCK_CLOCK: AtomicI32 = AtomicI32::new(0);
static STUCK_SINCE_NS: AtomicU64 = AtomicU64::new(0);

fn signal() -> c_int {
    libc::SIGRTMIN() + 7
}

/// Spins in a row, and the entries at the last spin.
static STREAK: AtomicU64 = AtomicU64::new(0);
static STREAK_AT: AtomicU64 = AtomicU64::new(0);

/// Looks after a kernel that boots.
pub fn watch_boot(spin_ms: u64) {
    if spin_ms > 0 {
        SPIN_NS.store(BOOT_SPIN_MS * 1_000_000, Relaxed);
        start(libc::CLOCK_THREAD_CPUTIME_ID, BOOT_LOOK_MS);
    }
}

/// Looks after programs.
pub fn watch_programs(spin_ms: u64, cpu_permille: u64) {
    let charges = cpu_permille > 0;
    CHARGES.store(charges, Relaxed);
    SPIN_NS.store(if charges { 0 } else { spin_ms * 1_000_000 }, Relaxed);
    let look_ms = if charges { CHARGED_LOOK_MS } else { spin_ms };
    if look_ms > 0 {
        start(libc::CLOCK_MONOTONIC, look_ms);
    }
}

/// Starts the timer, in place of one that there was.
fn start(clock: c_int, period_ms: u64) {
    let old = TIMER.swap(-1, Relaxed);
    // SAFETY: an all-zero sigaction and sigevent are valid ones; every pointer is to a
    // value on this stack that lives across its call; the handler only does what is
    // allowed in one (atomics and system calls).
    unsafe {
        if old >= 0 {
            host::raw(libc::SYS_timer_delete, [i64::from(old), 0, 0, 0, 0, 0]);
        }
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = look as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_SIGINFO;
        libc::sigaddset(&raw mut action.sa_mask, libc::SIGALRM);
        libc::sigaddset(&raw mut action.sa_mask, libc::SIGIO);
        libc::sigaction(signal(), &raw const action, ptr::null_mut());
        let mut event: libc::sigevent = mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = host::raw(libc::SYS_gettid, [0; 6]) as c_int;
        let mut timer: c_int = 0;
        let made = host::raw(
            libc::SYS_timer_create,
            [
                i64::from(clock),
                &raw mut event as i64,
                &raw mut timer as i64,
                0,
                0,
                0,
            ],
        );
        if made < 0 {
            return;
        }
        TIMER.store(timer, Relaxed);
    }
    look_each(period_ms);
}

/// Sets the time between two looks.
fn look_each(period_ms: u64) {
    let period = libc::timespec {
        tv_sec: (period_ms / 1_000).cast_signed(),
        tv_nsec: (period_ms % 1_000 * 1_000_000).cast_signed(),
    };
    let times = libc::itimerspec {
        it_interval: period,
        it_value: period,
    };
    let timer = i64::from(TIMER.load(Relaxed));
    // SAFETY: the call reads one itimerspec, which lives across it.
    unsafe {
        host::raw(
            libc::SYS_timer_settime,
            [timer, 0, &raw const times as i64, 0, 0, 0],
        )
    };
}

/// Looks whether anything got on since the last time.
///
/// # Safety
/// Called by the host as a signal's handler.
unsafe extern "C" fn look(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let Some(state) = state::running() else {
        return;
    };
    let errno = host::errno();
    state.tell_wall();
    if CHARGES.load(Relaxed) {
        state.charge_cpu();
    }
    let limit_ns = SPIN_NS.load(Relaxed);
    if limit_ns > 0 {
        let entries = state.clock.get(Word::Entries);
        let in_a_row = entries - STREAK_AT.load(Relaxed) <= STREAK_ENTRIES;
        if !in_a_row && STREAK.swap(0, Relaxed) > 1 {
            look_each(limit_ns / 1_000_000);
        }
        let limit_ns = match STREAK.load(Relaxed) {
            2.. => STREAK_MS * 1_000_000,
            _ => limit_ns,
        };
        if is_stuck(state, limit_ns) {
            if entries > 0 {
                STREAK_AT.store(entries, Relaxed);
                if STREAK.fetch_add(1, Relaxed) == 1 {
                    look_each(STREAK_MS);
                }
            }
            state.spin();
        }
    }
    host::set_errno(errno);
}

fn is_stuck(state: &state::State, limit_ns: u64) -> bool {
    let progress = state.progress() + state.clock.get(Word::Reads);
    let clock = match state::child() {
        pid @ 1.. => host::cpu_clock(pid),
        _ => libc::CLOCK_THREAD_CPUTIME_ID,
    };
    let used_ns = host::clock_ns(clock);
    let other = LAST.swap(progress, Relaxed) != progress;
    if STUCK_CLOCK.swap(clock, Relaxed) != clock || other {
        STUCK_SINCE_NS.store(used_ns, Relaxed);
        return false;
    }
    let stuck = used_ns.saturating_sub(STUCK_SINCE_NS.load(Relaxed)) >= limit_ns;
    if stuck {
        STUCK_SINCE_NS.store(used_ns, Relaxed);
    }
    stuck
}
