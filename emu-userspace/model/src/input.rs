//! Reading the files that a topology or an experiment names.
//!
//! Such a file may come from elsewhere and name anything: a fifo that nobody writes to, a
//! device without an end, a file that only root may read. So a file is opened without
//! waiting, must be regular, is read up to a limit whatever its length says, and errors
//! tell the line of a mistake and what was expected, but never what stands there.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Opens a regular file for reading, without waiting.
///
/// # Errors
/// The kernel's answer; [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    match file.metadata()? {
        m if m.is_file() => Ok(file),
        m if m.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        )),
    }
}

/// Reads the text of a regular file of at most so many bytes.
///
/// # Errors
/// As for [`open`]; [`io::ErrorKind::FileTooLarge`]; [`io::ErrorKind::InvalidData`] for
/// what is not UTF-8.
pub fn text(path: &Path, most_bytes: u64) -> io::Result<String> {
    bounded(open(path)?, most_bytes)
}

/// As [`text`], for a file that a person names on the command line, which may be a pipe.
///
/// # Errors
/// As for [`text`], but for files that are not regular.
pub fn text_of_any(path: &Path, most_bytes: u64) -> io::Result<String> {
    bounded(File::open(path)?, most_bytes)
}

fn bounded(file: File, most_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| {
        let words = "it is not UTF-8";
        io::Error::new(io::ErrorKind::InvalidData, words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_large_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(text(&file, 5).unwrap(), "12345");
        let large = text(&file, 4).unwrap_err().kind();
        assert_eq!(large, io::ErrorKind::FileTooLarge);
        let sparse = File::create(folder.path().join("s")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(text(&folder.path().join("s"), 1000).is_err());
        for path in [Path::new("/dev/zero"), folder.path()] {
            assert!(text(path, 1000).is_err(), "{}", path.display());
        }
    }
}
