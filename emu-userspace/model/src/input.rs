//! Reads the files that a topology or an experiment names.
//!
//! Such a file may come from elsewhere and name anything: a fifo without a writer, an endless
//! device, a file that only root may read. So a file is opened without waiting, must be
//! regular, is read up to a limit regardless of its length, and errors give the line of a
//! mistake and what was expected, but never the content.
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Opens a regular file for reading, without waiting.
///
/// # Errors
/// The kernel's error; [`io::ErrorKind::InvalidInput`] if the file is not regular.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    match file.metadata()? {
        m if m.is_file() => Ok(file),
        m if m.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

/// Reads the text of a regular file of at most `most_bytes`.
///
/// # Errors
/// As for [`open`]; [`io::ErrorKind::FileTooLarge`]; [`io::ErrorKind::InvalidData`] if the
/// file is not UTF-8.
pub fn text(path: &Path, most_bytes: u64) -> io::Result<String> {
    bounded(open(path)?, most_bytes)
}

/// Opens a file that the user names on the command line, which may be a pipe; `-` is the
/// standard input.
///
/// # Errors
/// The kernel's error.
pub fn open_any(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(File::open(path)?))
}

/// Like [`text`], for a file that the user names on the command line, see [`open_any`].
///
/// # Errors
/// As for [`text`], except that the file need not be regular.
pub fn text_of_any(path: &Path, most_bytes: u64) -> io::Result<String> {
    bounded(open_any(path)?, most_bytes)
}

fn bounded(file: impl Read, most_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| {
        let text = "it is not UTF-8";
        io::Error::new(io::ErrorKind::InvalidData, text)
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
        sparse.set_len(1 << 36).unwrap();
        assert!(text(&folder.path().join("s"), 1000).is_err());
        for path in [Path::new("/dev/zero"), folder.path()] {
            assert!(text(path, 1000).is_err(), "{}", path.display());
        }
    }
}
