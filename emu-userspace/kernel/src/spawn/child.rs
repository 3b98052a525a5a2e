//! The child's code between its creation and its program: system calls only.
//!
//! It shares the memory of its parent, which sleeps meanwhile. So nothing here may allocate,
//! panic, or use a wrapper of the C library that signals other threads, as its `setuid` does.
use std::{ffi::CString, os::fd::RawFd};

use crate::machines::Surroundings;

/// The child's data, prepared by the parent, since the child may not allocate.
pub(super) struct Prepared<'a> {
    pub program: CString,
    pub argv: Vec<*const libc::c_char>,
    pub env: Vec<*const libc::c_char>,
    pub folder: RawFd,
    pub streams: [RawFd; 3],
    pub groups: Vec<libc::gid_t>,
    pub user: Option<(libc::uid_t, libc::gid_t)>,
    pub open_files: Option<libc::rlimit>,
    pub nice: Option<i32>,
    /// The namespaces of a machine that it enters.
    pub machine: Option<&'a Surroundings>,
    /// The file through which it joins the cgroup, if it is not created there.
    pub join: Option<RawFd>,
    pub report: RawFd,
}

/// Names of the child's steps, by their numbers in its report.
pub(super) const STEPS: [&str; 8] = [
    "enter its cgroup",
    "enter its machine",
    "make a session",
    "set up its streams",
    "enter its working folder",
    "set its limits",
    "become the user",
    "start it",
];

/// Runs the child's steps up to its program.
pub(super) extern "C" fn run(child: &Prepared<'_>) -> ! {
    let say = |bytes: &[u8]| {
        // SAFETY: the bytes are live, and the length is theirs.
        unsafe { libc::write(child.report, bytes.as_ptr().cast(), bytes.len()) }
    };
    say(&[0]);
    let failed = (0u8..).zip(STEPS).find_map(|(number, _)| {
        // SAFETY: the pointers are into `child`, which lives as long as the process; each
        // list ends in a null pointer, each string in a NUL.
        let result = unsafe { child_step(child, number) };
        (result < 0).then_some(number)
    });
    // SAFETY: reads the error of the last call in this thread.
    let [a, b, c, d] = unsafe { *libc::__errno_location() }.to_ne_bytes();
    say(&[failed.unwrap_or(u8::MAX), a, b, c, d]);
    // SAFETY: runs no handlers.
    unsafe { libc::_exit(127) }
}

/// One of [`STEPS`]; negative when it failed.
///
/// # Safety
/// All pointers in `child` must be valid, its lists ended by null pointers. To be
/// called in a process of one thread.
unsafe fn child_step(child: &Prepared<'_>, number: u8) -> libc::c_long {
    // SAFETY: see above; the remaining calls take numbers or live structures.
    unsafe {
        match number {
            0 => child.join.map_or(0, |file| {
                libc::write(file, c"0".as_ptr().cast(), 1) as libc::c_long
            }),
            1 => (child.machine).map_or(0, |machine| libc::c_long::from(machine.enter_raw())),
            2 => libc::c_long::from(libc::setsid()),
            3 => (0i32..)
                .zip(child.streams)
                .map(|(to, from)| libc::c_long::from(libc::dup2(from, to)))
                .min()
                .unwrap_or(0),
            4 => libc::c_long::from(libc::fchdir(child.folder)),
            5 => child.open_files.map_or(0, |limit| {
                libc::c_long::from(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
            }),
            6 => {
                let Some((uid, gid)) = child.user else {
                    return 0;
                };
                let groups = child.groups.as_ptr();
                libc::syscall(libc::SYS_setgroups, child.groups.len(), groups)
                    .min(libc::syscall(libc::SYS_setresgid, gid, gid, gid))
                    .min(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
            }
            _ => {
                if let Some(nice) = child.nice {
                    libc::setpriority(libc::PRIO_PROCESS, 0, nice);
                }
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                // The one signal that Rust's runtime ignores, and that exec would leave
                // ignored.
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::c_long::from(libc::execve(
                    child.program.as_ptr(),
                    child.argv.as_ptr(),
                    child.env.as_ptr(),
                ))
            }
        }
    }
}
