//! What a program in a machine finds around it: its network, host name and names of others.
use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// The namespaces of a program in a machine, prepared so that entering them takes system calls
/// only.
#[derive(Debug)]
pub struct Surroundings {
    network: OwnedFd,
    name: CString,
    /// Files of the state folder that take the place of those of the machine: from, to.
    files: Vec<(CString, &'static CStr)>,
}

/// Files below /etc with the names of vnodes, which a load writes to its state folder.
pub(super) const FILES: [(&str, &CStr); 2] = [
    ("hosts", c"/etc/hosts"),
    ("resolv.conf", c"/etc/resolv.conf"),
];

impl Surroundings {
    pub(super) fn new(network: OwnedFd, state: &Path, name: &str) -> Self {
        let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
        let files = FILES.map(|(from, to)| (text(state.join(from).as_os_str().as_bytes()), to));
        Self {
            network,
            name: text(name.as_bytes()),
            files: files.into(),
        }
    }

    /// Moves the calling process into the namespaces.
    ///
    /// # Errors
    /// That of the first system call that failed.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: this process has one thread, and may have more than the calls need.
        match unsafe { self.enter_raw() } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// As [`Surroundings::enter`], with system calls alone: for a child that shares the memory
    /// of its parent. 0, or -1 with the error in `errno`.
    ///
    /// # Safety
    /// To be called in a process, or a thread, whose root folder no other one shares.
    pub(crate) unsafe fn enter_raw(&self) -> libc::c_int {
        let none = std::ptr::null();
        let mount = |from: *const libc::c_char, to: &CStr, kind: *const libc::c_char, flags| {
            // SAFETY: all strings end in a NUL and live as long as the call.
            unsafe { libc::mount(from, to.as_ptr(), kind, flags, std::ptr::null()) }
        };
        // SAFETY: takes numbers.
        let entered = unsafe {
            libc::setns(self.network.as_raw_fd(), libc::CLONE_NEWNET) == 0
                && libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS) == 0
        };
        if !entered || mount(none, c"/", none, libc::MS_REC | libc::MS_SLAVE) != 0 {
            return -1;
        }
        let name = self.name.as_bytes();
        // SAFETY: the bytes live as long as the call, and the length is theirs.
        if unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } != 0 {
            return -1;
        }
        // /sys shows the interfaces of the namespace in which it was mounted. Mounts below it,
        // such as cgroups, are then not accessible, as inside `ip netns exec`. A container may
        // not be allowed to mount it.
        let _ = mount(c"sysfs".as_ptr(), c"/sys", c"sysfs".as_ptr(), 0);
        for (from, to) in &self.files {
            // A system without such a file has no use for it.
            let _ = mount(from.as_ptr(), to, none, libc::MS_BIND);
        }
        0
    }
}
