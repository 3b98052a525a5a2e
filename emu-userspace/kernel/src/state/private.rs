//! Files of the state: root's alone, whatever the umask is and whoever made the folder.
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use nix::unistd::geteuid;

use super::{ROOT, StateError, file_error};

/// Permissions of folders of the state.
const FOLDER_MODE: u32 = 0o700;
/// Permissions of files of the state.
const FILE_MODE: u32 = 0o600;

/// Makes the folder of all states, or takes it back for root: nobody else may open what
/// is in it, the locks above all.
///
/// # Errors
/// [`StateError::File`], also for something that another user put there.
pub(super) fn root() -> Result<(), StateError> {
    let path = Path::new(ROOT);
    folder(path).map_err(file_error("make", path))
}

/// Makes a folder of the state.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let options = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(options)
        .open(path)?;
    let m = folder.metadata()?;
    if m.uid() != geteuid().as_raw() {
        let words = format!("it belongs to user {}", m.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    if m.mode() & 0o777 != FOLDER_MODE {
        folder.set_permissions(Permissions::from_mode(FOLDER_MODE))?;
    }
    Ok(())
}

/// Opens a file for writing at its end, and makes it if it is not there.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(FILE_MODE);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// Writes a file as a whole, in place of what has its name.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let mut file = options.open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    file.write_all(bytes)
}

/// Replaces a file, so that nobody reads half of it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    write(Path::new(&new), bytes)?;
    fs::rename(&new, path)
}
