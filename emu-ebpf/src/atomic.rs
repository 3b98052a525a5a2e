//! Atomic operations on map values.
//!
//! `core::sync::atomic::AtomicU64` has no compare-exchange on the BPF target,
//! and its plain load is not selected at instruction-set version 3, so these go
//! through the compiler intrinsics.
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Reads a 64-bit word that other CPUs write. Aligned 64-bit loads do not tear.
#[inline(always)]
pub fn read(word: *const u64) -> u64 {
    // SAFETY: callers pass a pointer to a u64 field of a live map value, which
    // the map keeps valid and 8-byte aligned for the whole program run.
    unsafe { word.read_volatile() }
}

/// Stores `new` if the 64-bit word still holds `old`; returns whether it did.
#[inline(always)]
pub fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as for `read`; the instruction is one BPF_CMPXCHG.
    let (_, swapped) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    swapped
}

/// Adds to a 64-bit word and returns what it held before.
#[inline(always)]
pub fn fetch_add(word: *mut u64, by: u64) -> u64 {
    // SAFETY: as for `read`; the instruction is one BPF_XADD or fetch form of it.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, by) }
}
