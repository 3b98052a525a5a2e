//! Files of the state: accessible to root alone, regardless of the umask and of existing
//! folders.
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

/// Creates the folder of all states, or makes root its owner again: nobody else may open its
/// files, above all the locks.
///
/// # Errors
/// [`StateError::File`], also if another user created it.
pub(super) fn root() -> Result<(), StateError> {
    let path = Path::new(ROOT);
    folder(path).map_err(file_error("make", path))
}

/// Creates a folder of the state.
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
        let text = format!("it belongs to user {}", m.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if m.mode() & 0o777 != FOLDER_MODE {
        folder.set_permissions(Permissions::from_mode(FOLDER_MODE))?;
    }
    Ok(())
}

/// Opens a file for appending, and creates it if it does not exist.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(FILE_MODE);
    let file = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    if file.metadata()?.mode() & 0o777 != FILE_MODE {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(file)
}

/// Writes a whole file, in place of an existing one.
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

/// Replaces a file atomically.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    write(Path::new(&new), bytes)?;
    fs::rename(&new, path)
}
