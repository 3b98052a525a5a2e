//! Lets User-Mode Linux (UML) 6.1 run on processors with a large extended state, and makes
//! it faster on all processors.
//!
//! UML keeps a guest's floating-point registers in a buffer that ends with AVX-512 and
//! protection keys, and sets them with `ptrace(PTRACE_SETREGSET, NT_X86_XSTATE)`. The host
//! requires exactly the size of its own state, which is larger on processors with AMX
//! (11,008 bytes), and answers `EFAULT`: the guest panics at its first process. This
//! `ptrace`, which is preloaded, fills the rest of the short buffer with the current state
//! of the process.
//!
//! UML reads that state at each stop of a guest process and writes it before the process
//! continues, that is, at each system call of a guest. The host allocates and maps memory
//! for every write (`xstateregs_set` in arch/x86/kernel/fpu/regset.c). The state to write
//! is nearly always the one that was just read; such a write is skipped.
//!
//! Every other request must pass unchanged.
//!
//! A UML binary that was built with glibc 2.38 or later needs two symbols that older
//! versions do not have; this library defines them too.
mod state_cache;

use std::{
    cell::UnsafeCell,
    ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void},
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use state_cache::StateCache;

const NT_X86_XSTATE: usize = 0x202;
/// Offset of the feature bits in the XSAVE area (Intel SDM vol. 1, 13.4.2).
const XSTATE_BV: usize = 512;
/// Offset of the end of AVX-512's state in the standard layout.
const AVX512_END: usize = 2688;
/// Features 0 to 7: x87 to AVX-512.
const FEATURES_TO_AVX512: u64 = 0xff;
/// Feature 9, protection keys: the eight bytes after AVX-512.
const FEATURE_PKRU: u64 = 1 << 9;
/// Buffer size that is larger than the extended state of any processor so far.
const LARGEST: usize = 32 * 1024;

/// Size of the host's state in bytes; 0 before the first query.
static HOST_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Buffer for a full-size state, static because UML's kernel stacks are smaller.
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; LARGEST]>);

// SAFETY: UML 6.1 has one CPU and no kernel preemption, and its interrupt handlers never
// enter a guest process, so no two calls are in progress at once.
unsafe impl Sync for Area {}

static AREA: Area = Area(UnsafeCell::new([0; LARGEST]));

struct Stopped(UnsafeCell<StateCache>);

// SAFETY: the reason is that of `Area`: no two calls are in progress at once.
unsafe impl Sync for Stopped {}

/// States of the processes that are stopped.
static STOPPED: Stopped = Stopped(UnsafeCell::new(StateCache::new()));

/// The system call without changes.
///
/// # Safety
/// The requirements of `ptrace(2)` apply.
unsafe fn raw(request: c_long, pid: c_int, address: *mut c_void, data: *mut c_void) -> c_long {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) }
}

/// The C library's `ptrace`, but with full-size writes of the extended state.
///
/// # Safety
/// The requirements of `ptrace(2)` apply; UML calls this function through the dynamic
/// linker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(
    request: c_uint,
    pid: c_int,
    address: *mut c_void,
    data: *mut c_void,
) -> c_long {
    let request = c_long::from(request);
    if (1..=3).contains(&request) {
        // For PEEK requests the C library returns the machine word that it read.
        let mut word: c_long = 0;
        // SAFETY: `word` lives across the call and receives the kernel's answer.
        let result = unsafe { raw(request, pid, address, (&raw mut word).cast()) };
        return if result < 0 { result } else { word };
    }
    // SAFETY: no two calls are in progress at once, see `Stopped`, and the reference ends
    // with this call.
    let stopped = unsafe { &mut *STOPPED.0.get() };
    let state = address as usize == NT_X86_XSTATE && !data.is_null();
    match request {
        PTRACE_GETREGSET if state => {
            // SAFETY: the caller's own arguments, unchanged.
            let result = unsafe { raw(request, pid, address, data) };
            // SAFETY: for this request the caller passes a pointer to an iovec, and the
            // kernel has filled what it describes.
            stopped.record(pid, (result == 0).then(|| unsafe { bytes(data) }));
            result
        }
        PTRACE_SETREGSET if state => {
            // SAFETY: for this request the caller passes a pointer to an iovec of a buffer
            // that it keeps valid.
            let (given, wanted) = unsafe { (*data.cast::<libc::iovec>(), bytes(data)) };
            if stopped.has(pid, wanted) {
                return 0;
            }
            // SAFETY: `given` is the caller's iovec, whose buffer the caller keeps valid.
            let completed = unsafe { set_completed(pid, address, &given) };
            // SAFETY: the caller's own arguments, unchanged.
            let result = completed.unwrap_or_else(|| unsafe { raw(request, pid, address, data) });
            stopped.record(pid, (result == 0).then_some(wanted));
            result
        }
        _ => {
            if !KEEPS_STATE.contains(&request) {
                stopped.record(pid, None);
            }
            // SAFETY: the caller's own arguments, unchanged.
            unsafe { raw(request, pid, address, data) }
        }
    }
}

/// `strtol` of C23, which would also accept `0b` for binary numbers; UML reads no such
/// numbers with it.
///
/// # Safety
/// The requirements of `strtol(3)` apply.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __isoc23_strtol(
    text: *const c_char,
    end: *mut *mut c_char,
    base: c_int,
) -> c_long {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::strtol(text, end, base) }
}

/// `strtoul` of C23, with the same limitation as `__isoc23_strtol`.
///
/// # Safety
/// The requirements of `strtoul(3)` apply.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __isoc23_strtoul(
    text: *const c_char,
    end: *mut *mut c_char,
    base: c_int,
) -> c_ulong {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::strtoul(text, end, base) }
}

const PTRACE_GETREGSET: c_long = libc::PTRACE_GETREGSET as c_long;
const PTRACE_SETREGSET: c_long = libc::PTRACE_SETREGSET as c_long;
/// Requests after which a process still has the same extended state. All others, and
/// unknown ones, may let the process run, or its PID may then belong to another process.
const KEEPS_STATE: [c_long; 2] = [
    libc::PTRACE_GETREGS as c_long,
    libc::PTRACE_SETREGS as c_long,
];

/// The buffer that an iovec describes.
///
/// # Safety
/// `data` must point to an iovec of readable memory that remains valid.
unsafe fn bytes<'a>(data: *mut c_void) -> &'a [u8] {
    // SAFETY: the caller guarantees a valid iovec and readable memory behind it.
    unsafe {
        let given = *data.cast::<libc::iovec>();
        std::slice::from_raw_parts(given.iov_base.cast(), given.iov_len)
    }
}

/// Sets the state from a buffer shorter than the host's; `None` if the buffer is not
/// shorter.
///
/// # Safety
/// `given` must describe readable memory.
unsafe fn set_completed(pid: c_int, address: *mut c_void, given: &libc::iovec) -> Option<c_long> {
    let known = HOST_SIZE.load(Ordering::Relaxed);
    if (known != 0 && given.iov_len >= known) || given.iov_len < XSTATE_BV + 8 {
        return None;
    }
    let base: *mut u8 = AREA.0.get().cast();
    let mut full = libc::iovec {
        iov_base: base.cast(),
        iov_len: LARGEST,
    };
    // SAFETY: `full` describes `AREA`, and the kernel writes at most that length.
    let got = unsafe {
        raw(
            c_long::from(libc::PTRACE_GETREGSET),
            pid,
            address,
            (&raw mut full).cast(),
        )
    };
    if got < 0 {
        return None;
    }
    HOST_SIZE.store(full.iov_len, Ordering::Relaxed);
    if given.iov_len >= full.iov_len {
        return None;
    }
    let mut features = FEATURES_TO_AVX512;
    if given.iov_len >= AVX512_END + 8 {
        features |= FEATURE_PKRU;
    }
    // SAFETY: the kernel filled `full.iov_len` bytes of `AREA`, more than `given.iov_len`,
    // which is more than XSTATE_BV + 8 (both checked above); `given` is the caller's own
    // readable buffer and does not overlap `AREA`.
    unsafe {
        let bits: *mut u64 = base.add(XSTATE_BV).cast();
        let current = bits.read();
        ptr::copy_nonoverlapping(given.iov_base.cast(), base, given.iov_len);
        bits.write((bits.read() & features) | (current & !features));
        Some(raw(
            c_long::from(libc::PTRACE_SETREGSET),
            pid,
            address,
            (&raw mut full).cast(),
        ))
    }
}
