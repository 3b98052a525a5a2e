//! Removes trees of other users, who may change them at the same time.
use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::renameat,
    unistd::{UnlinkatFlags, geteuid, unlinkat},
};

use super::{FileKind, Folder, MOST_DEPTH};

/// Longest time for one tree.
const LIMIT: Duration = Duration::from_secs(120);

/// A removal in progress.
struct Removal<'a> {
    top: &'a Folder,
    until: Instant,
    /// Folders that were too deep and were moved to the top.
    moved: usize,
}

impl Folder {
    /// Removes an empty folder below this one.
    pub fn remove_empty(&self, below: impl AsRef<Path>) -> io::Result<()> {
        let (folder, name) = self.parent(below.as_ref())?;
        remove_empty(&folder, name)
    }

    /// Removes a file or a folder below this one, with everything in it. It is no error if it
    /// does not exist. Root takes ownership of each folder first, so that its owner adds
    /// nothing.
    ///
    /// # Errors
    /// The kernel's error; [`io::ErrorKind::TimedOut`] after two minutes.
    pub fn remove(&self, below: impl AsRef<Path>) -> io::Result<()> {
        let (folder, name) = match self.parent(below.as_ref()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        match unlinkat(&folder.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let top = folder.child(name)?;
        let mut removal = Removal {
            top: &top,
            until: Instant::now() + LIMIT,
            moved: 0,
        };
        loop {
            let before = removal.moved;
            removal.empty(&top, 0)?;
            if removal.moved == before {
                break;
            }
        }
        Ok(unlinkat(&folder.fd, name, UnlinkatFlags::RemoveDir)?)
    }
}

impl Removal<'_> {
    fn empty(&mut self, folder: &Folder, depth: usize) -> io::Result<()> {
        if geteuid().is_root() {
            folder.take()?;
        }
        for (name, kind) in folder.entries()? {
            if Instant::now() >= self.until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if kind != FileKind::Folder {
                folder.unlink(&name)?;
            } else if depth < MOST_DEPTH {
                self.empty(&folder.child(&name)?, depth + 1)?;
                remove_empty(folder, &name)?;
            } else {
                self.lift(folder, &name)?;
            }
        }
        Ok(())
    }

    /// Moves a folder that is too deep to the top, since each level holds a descriptor.
    fn lift(&mut self, folder: &Folder, name: &OsStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let to = OsString::from(format!(".deep-{}", self.moved));
            match renameat(&folder.fd, name, &self.top.fd, to.as_os_str()) {
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                other => return Ok(other?),
            }
        }
    }
}

fn remove_empty(folder: &Folder, name: &OsStr) -> io::Result<()> {
    match unlinkat(&folder.fd, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
