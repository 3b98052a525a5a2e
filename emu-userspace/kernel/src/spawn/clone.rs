//! Creates a child in a cgroup, with `clone3`.
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::{
    Spawned,
    child::{self, Prepared},
};

/// Flags of `clone3` (uapi/linux/sched.h).
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
#[cfg(target_arch = "x86_64")]
const CLONE_VM: u64 = 0x100;
#[cfg(target_arch = "x86_64")]
const CLONE_VFORK: u64 = 0x4000;

/// Bytes of the child's stack; its few calls need some hundreds.
#[cfg(target_arch = "x86_64")]
const STACK_BYTES: usize = 1 << 16;

/// `struct clone_args` of uapi/linux/sched.h.
#[repr(C)]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Creates a child that runs its steps, in a cgroup if one is given; returns when the child's
/// program has replaced it or it has ended.
pub(super) fn clone(cgroup: Option<BorrowedFd<'_>>, child: &Prepared<'_>) -> io::Result<Spawned> {
    let mut fd: RawFd = -1;
    let mut arguments = Arguments {
        flags: CLONE_PIDFD | CLONE_CLEAR_SIGHAND | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: &raw mut fd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |c| u64::from(c.as_raw_fd().cast_unsigned())),
        ..Arguments::default()
    };
    let pid = make(&mut arguments, child);
    if pid < 0 {
        let errno = i32::try_from(-pid).unwrap_or(0);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(Spawned {
        pid: i32::try_from(pid).unwrap_or(i32::MAX),
        // SAFETY: the kernel just made this file descriptor for us alone.
        fd: unsafe { OwnedFd::from_raw_fd(fd) },
    })
}

/// Creates a child on a stack of its own in this process's memory, while this thread sleeps,
/// as `vfork` does: copying the memory and discarding the copy costs several times the start
/// of the program. A negative number is an error.
#[cfg(target_arch = "x86_64")]
fn make(arguments: &mut Arguments, child: &Prepared<'_>) -> i64 {
    // Units of 16 bytes, since the calling convention requires that alignment of the stack.
    let mut stack = vec![0u128; STACK_BYTES / size_of::<u128>()];
    arguments.flags |= CLONE_VM | CLONE_VFORK;
    arguments.stack = stack.as_mut_ptr() as u64;
    arguments.stack_size = STACK_BYTES as u64;
    let run: extern "C" fn(&Prepared<'_>) -> ! = child::run;
    let pid: i64;
    // SAFETY: `arguments` has the kernel's form and size; what it points to, the stack
    // and `child` live until the call returns in the parent, which the kernel holds
    // back until the child has left our memory (CLONE_VFORK). The child, with 0 in
    // rax and rsp at the top of its own stack, calls `run`, which does not return; it
    // never touches this frame. The kernel keeps all registers but rax, rcx and r11,
    // in both; signal handlers do not run in the child (CLONE_CLEAR_SIGHAND).
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {child}",
            "call {run}",
            "ud2",
            "2:",
            child = in(reg) std::ptr::from_ref(child),
            run = in(reg) run,
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") std::ptr::from_mut(arguments),
            in("rsi") size_of::<Arguments>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    drop(stack);
    pid
}

/// Creates a child with a copy of the memory. A negative number is an error.
#[cfg(not(target_arch = "x86_64"))]
fn make(arguments: &mut Arguments, child: &Prepared<'_>) -> i64 {
    // SAFETY: `arguments` has the kernel's form and size, and lives until after the
    // call. The child has a copy of all memory, on the same stack; `run` makes system
    // calls alone and never returns, so that locks which other threads held in the
    // copy do not matter.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_mut(arguments),
            size_of::<Arguments>(),
        )
    };
    match pid {
        0 => child::run(child),
        -1 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        pid => pid,
    }
}
