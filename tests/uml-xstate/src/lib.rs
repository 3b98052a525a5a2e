//! Lets User-Mode Linux 6.1 run on processors with a large extended state.
//!
//! UML keeps a guest's floating-point registers in a buffer that ends with
//! AVX-512 and protection keys, and sets them with
//! `ptrace(PTRACE_SETREGSET, NT_X86_XSTATE)`. The host wants exactly its own
//! size there, which is larger on processors with AMX (11,008 bytes), and
//! answers `EFAULT`: the guest panics at its first process. Preloaded, this
//! `ptrace` completes the short buffer with the state that the process has.
//!
//! It must not do anything else: every other request passes unchanged.
use std::{
    cell::UnsafeCell,
    ffi::{c_int, c_long, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

const NT_X86_XSTATE: usize = 0x202;
/// Offset of the feature bits in the XSAVE area (Intel SDM vol. 1, 13.4.2).
const XSTATE_BV: usize = 512;
/// Bytes up to the end of AVX-512's state in the standard layout.
const AVX512_END: usize = 2688;
/// Features 0 to 7: x87 to AVX-512.
const FEATURES_TO_AVX512: u64 = 0xff;
/// Feature 9, protection keys: the eight bytes after AVX-512.
const FEATURE_PKRU: u64 = 1 << 9;
/// Larger than the extended state of any processor so far.
const LARGEST: usize = 32 * 1024;

/// Size of the host's state, 0 until it was asked for.
static HOST_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Static because UML's kernel stacks are smaller than this.
#[repr(C, align(64))]
struct Area(UnsafeCell<[u8; LARGEST]>);

// SAFETY: UML 6.1 has one CPU and no kernel preemption, and its interrupt
// handlers never enter a guest process, so no two calls are under way at once.
unsafe impl Sync for Area {}

static AREA: Area = Area(UnsafeCell::new([0; LARGEST]));

/// The system call as it is.
///
/// # Safety
/// As for `ptrace(2)`.
unsafe fn raw(request: c_long, pid: c_int, address: *mut c_void, data: *mut c_void) -> c_long {
    // SAFETY: the caller vouches for the arguments.
    unsafe { libc::syscall(libc::SYS_ptrace, request, pid, address, data) }
}

/// `ptrace` of the C library, with full-size writes of the extended state.
///
/// # Safety
/// As for `ptrace(2)`; called by UML through the dynamic linker.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(
    request: c_uint,
    pid: c_int,
    address: *mut c_void,
    data: *mut c_void,
) -> c_long {
    let request = c_long::from(request);
    if (1..=3).contains(&request) {
        // PEEK requests: the C library returns the word.
        let mut word: c_long = 0;
        // SAFETY: `word` lives across the call and takes the kernel's answer.
        let result = unsafe { raw(request, pid, address, (&raw mut word).cast()) };
        return if result < 0 { result } else { word };
    }
    let sets_state = request == c_long::from(libc::PTRACE_SETREGSET)
        && address as usize == NT_X86_XSTATE
        && !data.is_null();
    if sets_state {
        // SAFETY: for this request the caller passes a pointer to an iovec.
        let given = unsafe { *data.cast::<libc::iovec>() };
        // SAFETY: `given` describes a buffer that the caller keeps valid.
        if let Some(result) = unsafe { set_completed(pid, address, &given) } {
            return result;
        }
    }
    // SAFETY: the caller's own arguments, unchanged.
    unsafe { raw(request, pid, address, data) }
}

/// Sets the state from a buffer shorter than the host's; none if it is not.
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
    // SAFETY: `full` describes `AREA`, which the kernel fills at most.
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
    // SAFETY: the kernel filled `full.iov_len` bytes of `AREA`, more than
    // `given.iov_len`, which is more than XSTATE_BV + 8 (both checked above);
    // `given` is the caller's own readable buffer and does not overlap ours.
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
