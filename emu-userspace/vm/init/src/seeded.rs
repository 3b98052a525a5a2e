//! The environment of programs in a VM whose randomness follows from a seed: they get random
//! numbers from its kernel, and not from the processor.
use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use vm_protocol::settings;

/// The path of the library that every user can read, if there is a seed.
fn library() -> Option<PathBuf> {
    let library = PathBuf::from(env::var_os(settings::GUEST_RANDOM)?);
    // A copy is not accessible after a mount of another `/run`, which systemd makes.
    Some(if is_readable_by_all(&library) {
        library
    } else {
        copy()
    })
}

fn copy() -> PathBuf {
    Path::new(settings::GUEST_FOLDER).join(settings::RANDOM_LIBRARY)
}

/// Copies the library to where every user can read it, if that is needed.
///
/// # Errors
/// If it cannot be copied.
pub fn provide() -> io::Result<()> {
    match env::var_os(settings::GUEST_RANDOM) {
        Some(original) if library().is_some_and(|path| path == copy()) => {
            fs::copy(original, copy()).map(drop)
        }
        _ => Ok(()),
    }
}

/// Environment variables of the command.
pub fn environment() -> Vec<(&'static str, String)> {
    let Some(library) = library() else {
        return Vec::new();
    };
    let library = library.display();
    let preload = match env::var("LD_PRELOAD") {
        Ok(others) => format!("{library}:{others}"),
        Err(_) => library.to_string(),
    };
    vec![
        ("LD_PRELOAD", preload),
        // Bit 62 of the first number is RDRAND, bit 18 of the second is RDSEED
        // (OPENSSL_ia32cap(3)).
        ("OPENSSL_ia32cap", "~0x4000000000000000:~0x40000".to_owned()),
    ]
}

/// Whether every user can read a file: it and the folders above it let others in.
fn is_readable_by_all(path: &Path) -> bool {
    const READ: u32 = 0o004;
    const ENTER: u32 = 0o001;
    let allows = |path: &Path, bits: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & bits == bits)
    };
    let mut folders = path.ancestors().skip(1);
    allows(path, READ) && folders.all(|folder| allows(folder, ENTER))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };

    use super::{Path, is_readable_by_all};

    #[test]
    fn each_folder_above_a_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("library");
        fs::write(&file, "").unwrap();
        let set =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&file, 0o644);
        set(folder.path(), 0o755);
        assert!(is_readable_by_all(&file));
        set(folder.path(), 0o700);
        assert!(!is_readable_by_all(&file));
        set(folder.path(), 0o711);
        set(&file, 0o600);
        assert!(!is_readable_by_all(&file));
    }
}
