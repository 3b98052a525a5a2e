//! The lock beside the state folder: one writer at a time.
use std::{
    fs::{self, File, OpenOptions},
    path::Path,
};

use nix::fcntl::{Flock, FlockArg};

use super::{ROOT, StateDir, StateError, file_error};

/// Proof that no other `emu` changes this namespace.
#[derive(Debug)]
pub struct WriterLock {
    _lock: Flock<File>,
}

/// Proof that no `emu` changes this namespace as a whole.
#[derive(Debug)]
pub struct SharedLock {
    _lock: Flock<File>,
}

impl StateDir {
    /// Takes the lock of this namespace.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process has it.
    pub fn lock(&self) -> Result<WriterLock, StateError> {
        let lock = self.flock(FlockArg::LockExclusiveNonblock)?;
        Ok(WriterLock { _lock: lock })
    }

    /// As [`StateDir::lock`], but waits for the other process.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn wait(&self) -> Result<WriterLock, StateError> {
        let lock = self.flock(FlockArg::LockExclusive)?;
        Ok(WriterLock { _lock: lock })
    }

    /// Keeps writers out, but not others that share; waits for a writer.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn share(&self) -> Result<SharedLock, StateError> {
        let lock = self.flock(FlockArg::LockShared)?;
        Ok(SharedLock { _lock: lock })
    }

    fn flock(&self, how: FlockArg) -> Result<Flock<File>, StateError> {
        fs::create_dir_all(ROOT).map_err(file_error("create", Path::new(ROOT)))?;
        let path = Path::new(ROOT).join(format!("ns-{}.lock", self.cookie));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(file_error("open", &path))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StateError::Locked { path }),
            Err((_, errno)) => Err(file_error("lock", &path)(errno.into())),
        }
    }
}
