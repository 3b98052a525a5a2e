//! Time, the delivery time of a packet, and chance that need not be repeatable.
use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_set_hash, bpf_skb_set_tstamp},
    programs::TcContext,
};

/// `BPF_SKB_TSTAMP_DELIVERY_MONO` of the kernel's uapi/linux/bpf.h, which the
/// bindings only have under a generated module name.
const DELIVERY_MONO: u32 = 1;

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of `fq`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no argument and only reads a clock.
    unsafe { bpf_ktime_get_ns() }
}

/// A random number for what no seed decides.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_get_prandom_u32() }
}

/// Tells `fq` when to release the packet and which flow it belongs to.
///
/// The timestamp is marked as a monotonic delivery time, so that the stack
/// clears it before a socket could take it for a receive time. The priority is
/// set to best effort: `fq` sends control-priority packets at once.
#[inline(always)]
pub fn release_at(ctx: &TcContext, due_ns: u64, flow: u32) {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the live context of this program run; the helpers check
    // it, and `priority` is a field that TC programs may write.
    unsafe {
        bpf_skb_set_tstamp(skb, due_ns, DELIVERY_MONO);
        bpf_set_hash(skb, flow);
        (*skb).priority = 0;
    }
}
