//! When the kernel learns that a process of a guest's address space has died.
//!
//! The host tells it at once, in the middle of whatever the kernel does. Here it is told
//! at the next entry of a program, or when the VM is idle: at the same moment each time.
use core::{
    ffi::{c_int, c_void},
    mem,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use crate::{host, state};

/// A handler with information about the signal.
pub type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The kernel's own handler; 0: none.
static HANDLER: AtomicUsize = AtomicUsize::new(0);
/// A signal was held back.
static HELD: AtomicBool = AtomicBool::new(false);
/// The next signal is one that was held back, and passes.
static PASSES: AtomicBool = AtomicBool::new(false);

/// The kernel handles the signal with this.
pub fn handled_by(handler: usize) {
    HANDLER.store(handler, Relaxed);
}

/// The handler in place of the kernel's.
///
/// # Safety
/// Called by the host with a signal's arguments.
pub unsafe extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, at: *mut c_void) {
    let booting = state::running()
        .is_none_or(|state| state.clock.get(vm_protocol::clock_page::Word::Entries) == 0);
    if state::child() == 0 && !PASSES.load(Relaxed) && !booting {
        HELD.store(true, Relaxed);
        return;
    }
    PASSES.store(false, Relaxed);
    let handler = HANDLER.load(Relaxed);
    if handler != 0 {
        // SAFETY: `handled_by` was given the address of a handler with this type.
        let handler: Handler = unsafe { mem::transmute::<usize, Handler>(handler) };
        // SAFETY: the arguments are those that the host gave us for it.
        unsafe { handler(signal, info, at) };
    }
}

/// Lets through what was held back.
pub fn deliver() {
    if HELD.swap(false, Relaxed) {
        PASSES.store(true, Relaxed);
        host::signal_self(libc::SIGCHLD);
    }
}
