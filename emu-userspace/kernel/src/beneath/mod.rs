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
mod find;
mod remove;
mod walk;

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata, Permissions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt, fchown},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, Whence, fchownat, geteuid, lseek, unlinkat},
};

use crate::user;

/// Permissions of new folders, before the umask: only the owner may change them.
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);
/// Permissions of new files, less the umask.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);
/// Permissions of others to write.
const WRITE_OF_OTHERS: u32 = 0o022;
/// Number of attempts to create a file whose name another process recreates.
const ATTEMPTS: usize = 64;
/// Largest depth of folders; deeper ones are skipped.
const MOST_DEPTH: usize = 64;
/// Unit of copying, in bytes.
const COPY_BYTES: usize = 1 << 18;
/// Unit in which a file system reports the allocated size.
const BLOCK_BYTES: u64 = 512;
/// Largest accepted ratio of length to allocated size, for file systems that compress.
const MOST_COMPRESSION: u64 = 100;
/// Length that is accepted without any allocation, since file systems may allocate late.
const SLACK_BYTES: u64 = 1 << 28;

/// Type of an entry; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
    pub fn entries(&self) -> io::Result<Vec<(OsString, Kind)>> {
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
                Some(Type::Directory) => Kind::Folder,
                Some(Type::File) => Kind::File,
                Some(_) => Kind::Other,
                None => self.kind(&name),
            };
            found.push((name, kind));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// For file systems whose directory entries have no type.
    fn kind(&self, name: &OsStr) -> Kind {
        let found = self.at(name, OFlag::O_PATH, Mode::empty());
        match found.and_then(|fd| File::from(fd).metadata()) {
            Ok(m) if m.is_dir() => Kind::Folder,
            Ok(m) if m.is_file() => Kind::File,
            _ => Kind::Other,
        }
    }

    /// Whether only root and this process's user can change the entries.
    fn is_ours(&self) -> io::Result<bool> {
        let m = self.metadata()?;
        let owner = m.uid() == 0 || m.uid() == geteuid().as_raw();
        Ok(owner && m.mode() & WRITE_OF_OTHERS == 0)
    }

    /// Opens a file below this folder for reading. Root opens it with the rights of the owner
    /// of its folder, so that a hard link to another user's file, or such a file that was
    /// moved there, is not read.
    ///
    /// # Errors
    /// The kernel's error; a link, a fifo, a socket, a device.
    pub fn file(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let (folder, name) = self.parent(below.as_ref())?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let open = || folder.at(name, flags, Mode::empty());
        let file = if geteuid().is_root() && !folder.is_ours()? {
            let (uid, gid) = folder.owner()?;
            let opened = user::with_files_of_number(uid, gid, open);
            opened.map_err(io::Error::other)??
        } else {
            open()?
        };
        regular(file.into())
    }

    /// Reads a file of at most `most_bytes`.
    pub fn read(&self, below: impl AsRef<Path>, most_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.file(below)?;
        file.take(most_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }

    /// Creates a file, in place of any other entry of its name.
    ///
    /// # Errors
    /// The kernel's error, for example if the name belongs to a folder.
    pub fn create(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let (folder, name) = self.parent(below.as_ref())?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        for _ in 0..ATTEMPTS {
            match folder.at(name, flags, FILE_MODE) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => folder.unlink(name)?,
                other => return Ok(other?.into()),
            }
        }
        Err(refused("another process recreates it repeatedly"))
    }

    /// Creates a file that must not exist.
    pub fn create_new(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let (folder, name) = self.parent(below.as_ref())?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(folder.at(name, flags, FILE_MODE)?.into())
    }

    /// Opens a file for appending, and creates it if it does not exist.
    ///
    /// # Errors
    /// As for [`Folder::file`]; a file with a second hard link, or of another user than its
    /// folder.
    pub fn append(&self, below: impl AsRef<Path>) -> io::Result<File> {
        let (folder, name) = self.parent(below.as_ref())?;
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NONBLOCK;
        let new = flags | OFlag::O_CREAT | OFlag::O_EXCL;
        match folder.at(name, new, FILE_MODE) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return Ok(other?.into()),
        }
        let file = regular(folder.at(name, flags, Mode::empty())?.into())?;
        let m = file.metadata()?;
        if m.nlink() > 1 || (!folder.is_ours()? && m.uid() != folder.owner()?.0) {
            return Err(refused("it may belong to another user"));
        }
        Ok(file)
    }

    /// Replaces a file as a whole, so that no reader sees half of it.
    pub fn replace(&self, below: impl AsRef<Path>, bytes: &[u8]) -> io::Result<File> {
        let (folder, name) = self.parent(below.as_ref())?;
        let mut new = OsString::from(".");
        new.push(name);
        new.push(".new");
        let mut file = folder.create(&new)?;
        file.write_all(bytes)?;
        renameat(&folder.fd, new.as_os_str(), &folder.fd, name)?;
        Ok(file)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves an entry below this folder to another place.
    pub fn rename(
        &self,
        from: impl AsRef<Path>,
        folder: &Self,
        to: impl AsRef<Path>,
    ) -> io::Result<()> {
        let (from, old) = self.parent(from.as_ref())?;
        let (to, new) = folder.parent(to.as_ref())?;
        Ok(renameat(&from.fd, old, &to.fd, new)?)
    }

    /// Copies a file to another folder, in place of whatever is there: as many bytes as
    /// it has when it is opened, and its holes stay holes. Returns the copy.
    ///
    /// # Errors
    /// As for [`Folder::file`] and [`Folder::create`]; [`io::ErrorKind::FileTooLarge`]
    /// for a file that is nearly all holes, on a file system that does not tell where.
    pub fn copy(
        &self,
        from: impl AsRef<Path>,
        folder: &Self,
        to: impl AsRef<Path>,
    ) -> io::Result<File> {
        let from = self.file(from)?;
        let to = folder.create(to)?;
        if let Err(error) = copy_bytes(&from, &to) {
            // An incomplete copy is truncated.
            to.set_len(0)?;
            return Err(error);
        }
        let executable = from.metadata()?.mode() & 0o111;
        let mode = to.metadata()?.mode() & 0o777;
        to.set_permissions(Permissions::from_mode(mode | executable & (mode >> 2)))?;
        Ok(to)
    }

    /// Makes this process's user the owner of the folder, so that nobody else can change its
    /// entries. Returns the previous owner and group.
    pub fn take(&self) -> io::Result<(u32, u32)> {
        let (m, before) = (self.metadata()?, self.owner()?);
        if !self.is_ours()? {
            let (uid, gid) = (geteuid(), nix::unistd::getegid());
            fchown(&self.fd, Some(uid.as_raw()), Some(gid.as_raw()))?;
            self.set_mode(m.mode() & 0o777 & !WRITE_OF_OTHERS)?;
        }
        Ok(before)
    }

    /// Owner and group of the folder.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let m = self.metadata()?;
        Ok((m.uid(), m.gid()))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        File::from(self.fd.try_clone()?).set_permissions(Permissions::from_mode(mode))
    }

    /// Lets everybody pass through the folder, regardless of the umask.
    pub fn let_pass(&self) -> io::Result<()> {
        let mode = self.metadata()?.mode() & 0o777;
        self.set_mode(mode | 0o111)
    }

    /// Changes the owner of the folder itself.
    pub fn give(&self, uid: u32, gid: u32) -> io::Result<()> {
        if self.owner()? == (uid, gid) {
            return Ok(());
        }
        fchown(&self.fd, Some(uid), Some(gid))
    }

    /// Gives everything that this process's user owns in the folder to a user, innermost
    /// first, and the folder itself last. Folders of others are skipped with everything below
    /// them.
    pub fn give_all(&self, uid: u32, gid: u32) -> io::Result<()> {
        self.give_below(uid, gid, 0)
    }

    fn give_below(&self, uid: u32, gid: u32, depth: usize) -> io::Result<()> {
        let own = self.metadata()?.uid() == geteuid().as_raw();
        if depth > MOST_DEPTH || (!own && depth > 0) {
            return Ok(());
        }
        for (name, kind) in self.entries()? {
            if kind == Kind::Folder {
                match self.child(&name) {
                    Ok(folder) => folder.give_below(uid, gid, depth + 1)?,
                    Err(error) if own => return Err(error),
                    Err(_) => {}
                }
                continue;
            }
            // A user may have moved another user's file into the folder.
            if !own {
                continue;
            }
            let fd = self.at(&name, OFlag::O_PATH, Mode::empty());
            // Links are not changed.
            let Ok(fd) = fd else { continue };
            let m = File::from(fd.try_clone()?).metadata()?;
            if m.is_file() && m.nlink() == 1 && m.uid() == geteuid().as_raw() {
                let (uid, gid) = (Some(uid.into()), Some(gid.into()));
                fchownat(&fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
            }
        }
        match own {
            true => self.give(uid, gid),
            false => Ok(()),
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file, if it is regular.
fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused("it is not a regular file")),
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

/// Copies the current content of a file. Blocks of zeroes become holes.
fn copy_bytes(from: &File, to: &File) -> io::Result<()> {
    let m = from.metadata()?;
    let end = m.len();
    // Some file systems, such as that of User-Mode Linux, report holes as data.
    let mut left = m
        .blocks()
        .saturating_mul(BLOCK_BYTES * MOST_COMPRESSION)
        .saturating_add(SLACK_BYTES);
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < end {
        at = match lseek(
            from,
            i64::try_from(at).unwrap_or(i64::MAX),
            Whence::SeekData,
        ) {
            Ok(data) => data.cast_unsigned(),
            Err(Errno::ENXIO) => break,
            // The file system does not report its holes.
            Err(_) => at,
        };
        let most = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let part = most.min(buffer.len());
        let count = std::os::unix::fs::FileExt::read_at(from, &mut buffer[..part], at)?;
        if count == 0 {
            break;
        }
        left = left
            .checked_sub(count as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if buffer[..count].iter().any(|byte| *byte != 0) {
            std::os::unix::fs::FileExt::write_all_at(to, &buffer[..count], at)?;
        }
        at += count as u64;
    }
    to.set_len(end)
}

#[cfg(test)]
mod tests;
