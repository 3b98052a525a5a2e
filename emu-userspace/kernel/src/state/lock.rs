//! The lock next to the state folder: one writer at a time.
use std::{
    ffi::OsStr,
    fs::{self, File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{ROOT, StateDir, StateError, file_error, private};

/// Longest wait for another process that changes single settings or starts a program.
const SHORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a load to end before a program is started.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Proof that no other `emu` changes this namespace.
#[derive(Debug)]
pub struct WriterLock {
    _lock: Flock<File>,
}

/// Proof that no `emu` loads or unloads in this namespace.
#[derive(Debug)]
pub struct SharedLock {
    _lock: Flock<File>,
}

/// A process that holds the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    /// Its command line.
    pub command: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}, `{}`", self.pid, self.command)
    }
}

/// The processes as text for an error; the lock file if none is visible.
pub(super) fn who(holders: &[Holder], path: &Path) -> String {
    let path = path.display();
    match holders {
        [] => format!("a process that is not visible from here holds {path}"),
        some => {
            let some: Vec<String> = some.iter().map(Holder::to_string).collect();
            format!("{} holds {path}", some.join(", and "))
        }
    }
}

/// Whether a process holds a lock, shared or not.
pub(super) fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    matches!(
        Flock::lock(file, FlockArg::LockExclusiveNonblock),
        Err((_, Errno::EWOULDBLOCK))
    )
}

impl StateDir {
    /// Whether another process is changing this namespace, as far as the lock is accessible.
    pub(crate) fn is_being_changed(&self) -> bool {
        let Ok(file) = File::open(self.lock_path()) else {
            return false;
        };
        // The attempt keeps nobody out but for its own moment, and writers try again.
        matches!(
            Flock::lock(file, FlockArg::LockSharedNonblock),
            Err((_, Errno::EWOULDBLOCK))
        )
    }

    /// Takes the lock of this namespace; waits two seconds for another process.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process keeps it.
    pub fn lock(&self) -> Result<WriterLock, StateError> {
        let lock = flock(
            &self.lock_path(),
            FlockArg::LockExclusiveNonblock,
            SHORT_TIMEOUT,
        )?;
        Ok(WriterLock { _lock: lock })
    }

    /// Like [`StateDir::lock`], but waits for a load to end, a minute at most.
    pub fn wait(&self) -> Result<WriterLock, StateError> {
        let lock = flock(
            &self.lock_path(),
            FlockArg::LockExclusiveNonblock,
            LOAD_TIMEOUT,
        )?;
        Ok(WriterLock { _lock: lock })
    }

    /// Takes the lock in shared mode, which excludes writers; waits for a writer, a minute at
    /// most.
    pub fn share(&self) -> Result<SharedLock, StateError> {
        let lock = flock(
            &self.lock_path(),
            FlockArg::LockSharedNonblock,
            LOAD_TIMEOUT,
        )?;
        Ok(SharedLock { _lock: lock })
    }

    /// Kills the processes that hold the lock, which the journal makes safe, and takes it.
    /// Returns the processes.
    ///
    /// # Errors
    /// As for [`StateDir::lock`], if a holder is not visible from here.
    pub fn seize(&self) -> Result<(WriterLock, Vec<Holder>), StateError> {
        let mut killed: Vec<Holder> = Vec::new();
        loop {
            match self.lock() {
                Err(StateError::Locked { path, holders }) => {
                    let new: Vec<Holder> = holders
                        .into_iter()
                        .filter(|holder| !killed.contains(holder))
                        .collect();
                    if new.is_empty() {
                        let holders = killed;
                        return Err(StateError::Locked { path, holders });
                    }
                    for holder in new {
                        // A process that has ended holds nothing.
                        let _ = kill(Pid::from_raw(holder.pid), Signal::SIGKILL);
                        killed.push(holder);
                    }
                }
                other => return Ok((other?, killed)),
            }
        }
    }

    fn lock_path(&self) -> PathBuf {
        Path::new(ROOT).join(format!("ns-{}.lock", self.cookie))
    }

    /// Removes the lock's file, with a namespace that nobody can load in any more.
    pub(crate) fn remove_lock(&self, lock: WriterLock) {
        // The file may not exist.
        let _ = fs::remove_file(self.lock_path());
        drop(lock);
    }
}

/// Locks a file of the state folder; creates it if it does not exist.
pub(super) fn flock(
    path: &Path,
    how: FlockArg,
    timeout: Duration,
) -> Result<Flock<File>, StateError> {
    private::root()?;
    let open = || private::open(path).map_err(file_error("open", path));
    let mut file = open()?;
    let until = Instant::now() + timeout;
    loop {
        file = match Flock::lock(file, how) {
            // The last holder removed the file.
            Ok(lock) if lock.metadata().is_ok_and(|m| m.nlink() == 0) => {
                file = open()?;
                continue;
            }
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < until => file,
            Err((file, Errno::EWOULDBLOCK)) => {
                let name = path.file_name().unwrap_or_default();
                let holders = holders(&file, name);
                let path = path.to_owned();
                return Err(StateError::Locked { path, holders });
            }
            Err((_, errno)) => return Err(file_error("lock", path)(errno.into())),
        };
        thread::sleep(POLL_INTERVAL);
    }
}

/// Processes that have a descriptor with a lock of `flock` on a file, except this one. The
/// list in /proc/locks would name the process that took the lock, which may have passed its
/// descriptor on and ended.
fn holders(file: &File, name: &OsStr) -> Vec<Holder> {
    let Ok(m) = file.metadata() else {
        return Vec::new();
    };
    let own = i32::try_from(std::process::id()).ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| Some(*pid) != own && has_lock(*pid, &m, name))
        .map(|pid| Holder {
            pid,
            command: command(pid),
        })
        .collect()
}

/// Whether a process holds a lock on a file. Reads the links first, since reading other files
/// may wait for a file server.
fn has_lock(pid: i32, file: &Metadata, name: &OsStr) -> bool {
    let place = PathBuf::from(format!("/proc/{pid}"));
    let open = fs::read_dir(place.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    open.map(|entry| entry.path()).any(|path| {
        let named = fs::read_link(&path).is_ok_and(|to| to.file_name() == Some(name));
        let same = |m: Metadata| (m.dev(), m.ino()) == (file.dev(), file.ino());
        let info = place
            .join("fdinfo")
            .join(path.file_name().unwrap_or_default());
        named
            && fs::metadata(&path).is_ok_and(same)
            && fs::read_to_string(info).is_ok_and(|text| text.contains("FLOCK"))
    })
}

/// The command line of a process, on one line.
fn command(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let words: Vec<&str> = line.split_terminator('\0').collect();
    words.join(" ").escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsRawFd,
        process::{Command, Stdio},
    };

    use super::*;

    /// Also a process that inherited the lock.
    #[test]
    fn a_holder_is_named_with_its_command() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let file = File::create(&path).unwrap();
        let again = File::open(&path).unwrap();
        let name = path.file_name().unwrap();
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        assert_eq!(holders(&again, name), [], "this process itself");
        let handed = lock.try_clone().unwrap();
        nix::fcntl::fcntl(
            &handed,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        assert!(handed.as_raw_fd() > 2);
        let found = holders(&again, name);
        child.kill().unwrap();
        child.wait().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let command = "sleep 60".to_owned();
        assert_eq!(found, [Holder { pid, command }]);
        drop(lock);
    }
}
