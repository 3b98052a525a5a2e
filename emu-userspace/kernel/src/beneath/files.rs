//! Reading, creating, replacing and copying files below a folder.
use std::{
    ffi::OsString,
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, renameat},
    sys::stat::Mode,
    unistd::{Whence, geteuid, lseek},
};

use super::{Folder, refused};
use crate::user;

/// Permissions of new files, less the umask.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);
/// Number of attempts to create a file whose name another process recreates.
const ATTEMPTS: usize = 64;
/// Unit of copying, in bytes.
pub(super) const COPY_BYTES: usize = 1 << 18;
/// Unit in which a file system reports the allocated size.
const BLOCK_BYTES: u64 = 512;
/// Largest accepted ratio of length to allocated size, for file systems that compress.
const MOST_COMPRESSION: u64 = 100;
/// Length that is accepted without any allocation, since file systems may allocate late.
const SLACK_BYTES: u64 = 1 << 28;

impl Folder {
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

    /// Replaces a file atomically: a reader sees the old content or the new one, also after
    /// a crash of the machine.
    pub fn replace(&self, below: impl AsRef<Path>, bytes: &[u8]) -> io::Result<File> {
        self.put(below.as_ref(), |file| write_synced(file, bytes))
    }

    /// Replaces a file that is soon replaced again, without waiting for the disk: a reader
    /// sees the old content or the new one.
    pub fn replace_unsynced(&self, below: impl AsRef<Path>, bytes: &[u8]) -> io::Result<File> {
        self.put(below.as_ref(), |file| file.write_all(bytes))
    }

    fn put(
        &self,
        below: &Path,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<File> {
        let (folder, name) = self.parent(below)?;
        let mut new = OsString::from(".");
        new.push(name);
        new.push(".new");
        let mut file = folder.create(&new)?;
        write(&mut file)?;
        renameat(&folder.fd, new.as_os_str(), &folder.fd, name)?;
        Ok(file)
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
}

/// Writes a file that is about to replace another one: its content must be on the disk before
/// its name is.
pub(crate) fn write_synced(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file, if it is regular.
fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refused("it is not a regular file")),
    }
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
