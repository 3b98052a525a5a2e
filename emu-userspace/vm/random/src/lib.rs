//! Random numbers of C++ programs in a VM whose randomness follows from a seed.
//!
//! `std::random_device` of GCC's library takes its numbers from the processor's `RDRAND`
//! or `RDSEED`, which no kernel can seed. Preloaded into the programs of a VM with one of these, this
//! takes them from `getrandom(2)`, which follows from the VM's seed. OpenSSL, which has
//! the same instructions, is told by its variable `OPENSSL_ia32cap`.
//!
//! It must not do anything else: programs are otherwise as their packages ship them.
use std::ffi::c_void;

/// `std::random_device::_M_getval()`, for all sources (`random_device(string)` included).
///
/// # Safety
/// Called by C++ code; the object is not looked at.
#[unsafe(export_name = "_ZNSt13random_device9_M_getvalEv")]
pub unsafe extern "C" fn value(_: *mut c_void) -> u32 {
    let mut number = 0_u32;
    // SAFETY: the call writes at most four bytes to a number that lives across it. It
    // fails only before the kernel's generator is seeded, which is long before programs.
    unsafe { libc::getrandom((&raw mut number).cast(), size_of::<u32>(), 0) };
    number
}
