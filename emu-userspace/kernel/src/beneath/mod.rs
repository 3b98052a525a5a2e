//! Files below an open folder that somebody else may change at any moment.
//!
//! emu runs as root and works in folders of the person who called it, of the programs
//! of vnodes, and of other hosts. Each system call resolves a path again, so a
//! symbolic link that appears in it leads root to a file of root. Everything here
//! starts from a descriptor instead: `openat2` refuses links and ways out of the folder
//! (Linux 5.6), files are opened without blocking and must be regular, new files are
//! made with `O_EXCL`, and owners change by descriptor.
//!
//! It decides nothing about the contents of files, and never opens a file by its path
//! from the root, except for the folder that the caller names ([`Folder::open`]).
mod files;
mod find;
mod owner;
mod remove;
mod walk;

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, geteuid, unlinkat},
};

pub(crate) use files::write_synced;

/// Permissions of new folders, before the umask: only the owner may change them.
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);
/// Permissions of others to write.
const WRITE_OF_OTHERS: u32 = 0o022;
/// Largest depth of folders; deeper ones are skipped.
const MOST_DEPTH: usize = 64;
/// Type of an entry; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A link, a fifo, a socket or a device.
    Other,
}

/// An open folder, and its path at the time of opening, for messages.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// Explains the kernel's error when it refuses to follow a path.
fn told(errno: Errno) -> io::Error {
    let text = match errno {
        Errno::ELOOP => "a symbolic link is in its place or on the way to it",
        Errno::EXDEV => "it leads out of its folder, or to another file system",
        other => return other.into(),
    };
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn refused(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl Folder {
    /// Opens the folder that the user names. Links in its path are followed if they belong to
    /// root or to the user, as with `fs.protected_symlinks`.
    ///
    /// # Errors
    /// The kernel's error, or a link that belongs to another user.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(walk::walk(path, false)?.0)
    }

    /// Like [`Folder::open`], but creates missing folders; also returns those, outermost
    /// first.
    pub fn make(path: &Path) -> io::Result<(Self, Vec<Self>)> {
        walk::walk(path, true)
    }

    /// The path at the time of opening. For messages and for programs, not for opening files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second descriptor of the same folder.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            path: self.path.clone(),
        })
    }

    /// Metadata of the folder.
    pub fn metadata(&self) -> io::Result<Metadata> {
        File::from(self.fd.try_clone()?).metadata()
    }

    /// Opens something one level below: no links, no other file system.
    fn at(&self, name: &OsStr, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
        openat2(&self.fd, name, how).map_err(told)
    }

    fn child(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        Ok(Self {
            fd: self.at(name, flags, Mode::empty())?,
            path: self.path.join(name),
        })
    }

    /// The parent folder of a path below this one, and the path's last name.
    fn parent<'a>(&self, below: &'a Path) -> io::Result<(Self, &'a OsStr)> {
        let mut names = names(below)?;
        let last = names.pop().ok_or_else(|| refused("it is not a name"))?;
        let mut folder = self.again()?;
        for name in names {
            folder = folder.child(name)?;
        }
        Ok((folder, last))
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    /// The kernel's error; a link, or a path that leads out of this folder.
    pub fn folder(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        let mut folder = self.again()?;
        for name in names(below.as_ref())? {
            folder = folder.child(name)?;
        }
        Ok(folder)
    }

    /// Opens a folder below this one and creates its missing parts.
    pub fn make_folder(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        let mut folder = self.again()?;
        for name in names(below.as_ref())? {
            folder = folder.make_child(name)?.0;
        }
        Ok(folder)
    }

    /// The folder and whether it was made.
    fn make_child(&self, name: &OsStr) -> io::Result<(Self, bool)> {
        let made = match mkdirat(&self.fd, name, FOLDER_MODE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        Ok((self.child(name)?, made))
    }

    /// Names and types of the entries, in order, without `.` and `..`.
    pub fn entries(&self) -> io::Result<Vec<(OsString, FileKind)>> {
        use std::os::unix::ffi::OsStrExt;
        // A description of its own: the position in a list belongs to it.
        let fd = self.at(
            OsStr::new("."),
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            Mode::empty(),
        )?;
        let mut found = Vec::new();
        for entry in Dir::from_fd(fd)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name).to_owned();
            let kind = match entry.file_type() {
                Some(Type::Directory) => FileKind::Folder,
                Some(Type::File) => FileKind::File,
                Some(_) => FileKind::Other,
                None => self.kind(&name),
            };
            found.push((name, kind));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// For file systems whose directory entries have no type.
    fn kind(&self, name: &OsStr) -> FileKind {
        let found = self.at(name, OFlag::O_PATH, Mode::empty());
        match found.and_then(|fd| File::from(fd).metadata()) {
            Ok(m) if m.is_dir() => FileKind::Folder,
            Ok(m) if m.is_file() => FileKind::File,
            _ => FileKind::Other,
        }
    }

    /// Whether only root and this process's user can change the entries.
    fn is_ours(&self) -> io::Result<bool> {
        let m = self.metadata()?;
        let owner = m.uid() == 0 || m.uid() == geteuid().as_raw();
        Ok(owner && m.mode() & WRITE_OF_OTHERS == 0)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The names of a path below a folder.
fn names(below: &Path) -> io::Result<Vec<&OsStr>> {
    let name = |component| match component {
        Component::Normal(name) => Ok(name),
        _ => Err(refused("it is not a path below its folder")),
    };
    below.components().map(name).collect()
}

#[cfg(test)]
mod tests;
