//! The context of a hook of setsockopt(2): the only place that touches it.
use aya_ebpf::programs::SockoptContext;

use crate::sockaddr::go_on;

/// The call succeeds without the kernel's handler (kernel/bpf/cgroup.c,
/// `__cgroup_bpf_run_filter_setsockopt`).
const WITHOUT_HANDLER: i32 = -1;
/// The kernel's handler gets the program's own value.
const OWN_VALUE: i32 = 0;
/// Longest value that the kernel copies for hooks: a page. It fails a call with a longer one
/// unless a hook says that the handler is to get the program's own value.
const LONGEST: i32 = 4_096;

/// Level and name of the option.
#[inline(always)]
pub fn asked(ctx: &SockoptContext) -> (i32, i32) {
    // SAFETY: the context is live; both fields are readable by these programs. Volatile, since
    // the verifier takes each field as one access.
    unsafe {
        (
            (&raw const (*ctx.sockopt).level).read_volatile(),
            (&raw const (*ctx.sockopt).optname).read_volatile(),
        )
    }
}

/// Lets the kernel handle the call.
#[inline(always)]
pub fn apply(ctx: &SockoptContext) -> i32 {
    // SAFETY: the context is live, and these programs may read and write `optlen`.
    unsafe {
        let length = &raw mut (*ctx.sockopt).optlen;
        if length.read_volatile() > LONGEST {
            length.write_volatile(OWN_VALUE);
        }
    }
    go_on()
}

/// Lets the call succeed without an effect.
#[inline(always)]
pub fn ignore(ctx: &SockoptContext) -> i32 {
    // SAFETY: the context is live, and these programs may write `optlen`.
    unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(WITHOUT_HANDLER) };
    go_on()
}

/// The address of the call's socket in the kernel.
#[inline(always)]
pub fn socket(ctx: &SockoptContext) -> u64 {
    // SAFETY: the context is live; the verifier turns `sk` into a checked pointer.
    unsafe { (*ctx.sockopt).__bindgen_anon_1.sk as u64 }
}

/// The value of an option that is a number.
#[inline(always)]
pub fn number(ctx: &SockoptContext) -> Option<i32> {
    // SAFETY: the context is live; these programs may read both pointers.
    let (start, end) = unsafe {
        (
            (*ctx.sockopt).__bindgen_anon_2.optval as usize,
            (*ctx.sockopt).__bindgen_anon_3.optval_end as usize,
        )
    };
    if start + size_of::<i32>() > end {
        return None;
    }
    // SAFETY: between start and end (checked above), which the verifier tracks.
    Some(unsafe { (start as *const i32).read_unaligned() })
}
