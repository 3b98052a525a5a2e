//! The owner and the permissions of a folder and of what is in it.
use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
};

use nix::{
    fcntl::{AtFlags, OFlag},
    sys::stat::Mode,
    unistd::{fchownat, geteuid},
};

use super::{FileKind, Folder, MOST_DEPTH, WRITE_OF_OTHERS};

impl Folder {
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
            if kind == FileKind::Folder {
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
