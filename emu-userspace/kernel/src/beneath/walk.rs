//! Opens the folder that the user names, one path component at a time.
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, readlinkat},
    sys::stat::{Mode, mkdirat},
    unistd::geteuid,
};

use super::{FOLDER_MODE, Folder, refused};
use crate::user;

/// Largest number of links in one path, as in the kernel.
const MOST_LINKS: usize = 40;

/// Opens a folder, one path component at a time; with `make`, missing folders are created and
/// returned.
pub(super) fn walk(path: &Path, make: bool) -> io::Result<(Folder, Vec<Folder>)> {
    let absolute = std::path::absolute(path)?;
    let mut left: VecDeque<OsString> = steps(&absolute);
    let mut here = root()?;
    let mut made = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || openat(&here, name.as_os_str(), flags, Mode::empty());
        let (next, new) = match open() {
            Err(Errno::ENOENT) if make => {
                let made = match mkdirat(&here, name.as_os_str(), FOLDER_MODE) {
                    Ok(()) => true,
                    // Another host created it first.
                    Err(Errno::EEXIST) => false,
                    Err(errno) => return Err(errno.into()),
                };
                (open()?, made)
            }
            other => (other?, false),
        };
        let m = File::from(next.try_clone()?).metadata()?;
        if m.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP.into());
            }
            if !is_trusted(m.uid()) {
                return Err(refused("a link of another user is in its path"));
            }
            let target = readlinkat(&next, OsStr::new(""))?;
            let target = Path::new(&target);
            if target.is_absolute() {
                here = root()?;
            }
            for step in steps(target).into_iter().rev() {
                left.push_front(step);
            }
            continue;
        }
        if !m.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        here = next;
        if new {
            made.push(folder(&here, &absolute)?);
        }
    }
    Ok((folder(&here, &absolute)?, made))
}

fn root() -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open("/", flags, Mode::empty())?)
}

/// The components of a path; `..` stays, since only the kernel knows the parent.
fn steps(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw() || Some(uid) == user::caller_uid()
}

fn folder(place: &OwnedFd, path: &Path) -> io::Result<Folder> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(Folder {
        fd: openat(place, ".", flags, Mode::empty())?,
        path: path.to_owned(),
    })
}
