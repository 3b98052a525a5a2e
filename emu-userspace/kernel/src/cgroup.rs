//! The cgroup tree of version 2: finding it, and emu's folders in it.
//!
//! They are below `emu`: `emu/ns-COOKIE` for a network namespace, and in it one folder for
//! each vnode that has had a process.
use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{AccessFlags, Pid, access},
};

/// Folder of all cgroups of emu.
const OURS: &str = "emu";
/// Longest wait for the end of killed processes.
const KILL_TIME: Duration = Duration::from_secs(10);
/// `CGROUP2_SUPER_MAGIC` (uapi/linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// The cgroup tree could not be reached or changed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no tree of version 2, and none can be mounted.
    #[error("find a cgroup2 file system that can be written, or mount one: {0}")]
    NoTree(#[source] io::Error),
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Processes survived SIGKILL.
    #[error("{count} processes in {} survived SIGKILL", path.display())]
    Immortal {
        count: usize,
        /// Their cgroup.
        path: PathBuf,
    },
}

pub(super) fn file_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::File {
        operation,
        path,
        source,
    }
}

/// Access to the root of the cgroup tree.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// Keeps a mount of our own alive.
    _mount: Option<OwnedFd>,
}

impl Tree {
    /// Finds the tree where this process sees it, else where the first process does (`ip
    /// netns exec` hides /sys), else mounts one that no path leads to and that is unmounted
    /// when the value is dropped.
    ///
    /// A second mount is the last resort, since it would reset options of the first (the
    /// kernel's `apply_cgroup_root_flags`).
    ///
    /// # Errors
    /// [`CgroupError::NoTree`].
    pub fn find() -> Result<Self, CgroupError> {
        let places = [
            ("/proc/self/mounts", ""),
            ("/proc/1/mounts", "/proc/1/root"),
        ];
        for (list, prefix) in places {
            let text = fs::read_to_string(list).unwrap_or_default();
            if let Some(root) = mounts(&text)
                .map(|place| PathBuf::from(format!("{prefix}{place}")))
                .find(|place| usable(place))
            {
                return Ok(Self { root, _mount: None });
            }
        }
        let mount = detached_mount().map_err(CgroupError::NoTree)?;
        Ok(Self {
            root: PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            _mount: Some(mount),
        })
    }

    /// The folder of a network namespace or a measurement.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(OURS).join(name)
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes a folder of [`Tree::folder`] with everything below it, and its parent if that
    /// is empty. It is no error if the folder does not exist.
    ///
    /// # Errors
    /// [`CgroupError::File`], for example while processes are in it.
    pub fn remove(&self, name: &str) -> Result<(), CgroupError> {
        remove(&self.folder(name))?;
        // Other namespaces may have folders in it.
        let _ = fs::remove_dir(self.root.join(OURS));
        Ok(())
    }
}

/// Mount points of cgroup2 in a list of mounts.
fn mounts(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(place)
    })
}

/// Whether the tree is accessible there: not covered by another mount, and writable.
fn usable(place: &Path) -> bool {
    let is_tree =
        nix::sys::statfs::statfs(place).is_ok_and(|s| s.filesystem_type().0 == CGROUP2_MAGIC);
    is_tree && access(place, AccessFlags::W_OK).is_ok()
}

/// Mounts the tree without a mount point (Linux 5.2).
fn detached_mount() -> io::Result<OwnedFd> {
    const KIND: &CStr = c"cgroup2";
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let owned = |result: libc::c_long| match i32::try_from(result) {
        // SAFETY: the kernel just made this file descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: the string ends in a NUL and lives as long as the program.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, KIND.as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: this command takes no key, no value and no number.
    let created = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: numbers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// Creates a cgroup and its parents, and returns its identifier.
pub fn create(path: &Path) -> Result<u64, CgroupError> {
    fs::create_dir_all(path).map_err(file_error("create the cgroup", path))?;
    identifier(path).map_err(file_error("read the cgroup", path))
}

/// Opens the folder of a cgroup, for programs or processes that are attached to it.
pub fn open(path: &Path) -> Result<File, CgroupError> {
    File::open(path).map_err(file_error("open the cgroup", path))
}

/// The identifier that programs see: the inode number.
pub fn identifier(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|m| m.ino())
}

/// Moves the calling process with all its threads into a cgroup.
pub fn join(path: &Path) -> Result<(), CgroupError> {
    let file = path.join("cgroup.procs");
    fs::write(&file, "0").map_err(file_error("move this process to", &file))
}

/// The cgroups of a folder's subtree that have processes, with these processes.
pub fn processes(folder: &Path) -> Vec<(PathBuf, Vec<i32>)> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        let ids: Vec<i32> = text.lines().filter_map(|l| l.parse().ok()).collect();
        if !ids.is_empty() {
            found.push((path.to_owned(), ids));
        }
        true
    });
    found
}

/// Kills all processes of a folder's subtree and waits for their end.
pub fn kill_all(folder: &Path) -> Result<(), CgroupError> {
    let end = Instant::now() + KILL_TIME;
    loop {
        // One process at a time as well, since cgroup.kill came with Linux 5.14.
        let _ = fs::write(folder.join("cgroup.kill"), "1");
        let left: Vec<i32> = processes(folder).into_iter().flat_map(|(_, p)| p).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(CgroupError::Immortal {
                count: left.len(),
                path: folder.to_owned(),
            });
        }
        for id in left.into_iter().filter(|id| *id > 0) {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Prefix of the names of cgroups of runs, which contain one cgroup for each of their vnodes.
pub const RUN: &str = "run-";

/// The vnode whose processes are in a cgroup below a namespace's folder, according to its
/// path: `ADDRESS/…`, or `run-…/ADDRESS/…`.
pub fn vnode_name(folder: &Path, path: &Path) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path);
    let mut names = below.iter().map(|name| name.to_string_lossy());
    let first = names.next().unwrap_or_default();
    if first.starts_with(RUN) {
        return names.next().unwrap_or(first).into_owned();
    }
    first.into_owned()
}

/// Identifiers of all cgroups of a folder's subtree.
pub fn identifiers(folder: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    walk(folder, &mut |path| {
        found.extend(identifier(path));
        true
    });
    found
}

/// Calls `visit` for every cgroup of a subtree, children first, until it returns false.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(folder) else {
        return true;
    };
    let folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    folders.iter().all(|f| walk(f, visit)) && visit(folder)
}

/// Removes a cgroup with everything below it. It is no error if it does not exist.
///
/// # Errors
/// [`CgroupError::File`], for example while processes are in it.
pub fn remove(folder: &Path) -> Result<(), CgroupError> {
    let mut result = Ok(());
    walk(folder, &mut |path| {
        result = match fs::remove_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove the cgroup", path)(e))
            }
            _ => Ok(()),
        };
        result.is_ok()
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_tree_among_mixed_mounts() {
        let list = "proc /proc proc rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            none /mnt cgroup2 ro 0 0\n";
        let found: Vec<&str> = mounts(list).collect();
        assert_eq!(found, ["/sys/fs/cgroup/unified", "/mnt"]);
    }
}
