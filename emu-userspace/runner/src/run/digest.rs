//! A digest of what happened in the network, which makes two runs comparable.
use std::io;

use emu_kernel::beneath::Folder;
use sha2::{Digest, Sha256};

/// Tables that the digest covers, if the run has them.
const TABLES: [&str; 3] = ["processes.csv", "counters.csv", "events.csv"];

/// SHA-256 over names and contents of the tables in a folder of results, in hexadecimal.
///
/// # Errors
/// A table cannot be read, or is not a regular file.
pub(super) fn of_results(folder: &Folder) -> io::Result<String> {
    let mut digest = Sha256::new();
    for name in TABLES {
        let mut file = match folder.file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut table = Sha256::new();
        let length = io::copy(&mut file, &mut Hasher(&mut table))?;
        digest.update(name);
        digest.update(length.to_le_bytes());
        digest.update(table.finalize());
    }
    let bytes = digest.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes into a digest.
struct Hasher<'a>(&'a mut Sha256);

impl io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use emu_kernel::beneath::Folder;

    use super::of_results;

    #[test]
    fn each_byte_of_each_table_counts_and_links_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let digest = || of_results(&Folder::open(folder.path()).unwrap());
        write("processes.csv", "a");
        let one = digest().unwrap();
        assert_eq!((one.len(), &one), (64, &digest().unwrap()));
        write("counters.csv", "");
        let two = digest().unwrap();
        write("processes.csv", "b");
        let three = digest().unwrap();
        assert!(one != two && two != three && one != three);
        std::os::unix::fs::symlink("/etc/shadow", folder.path().join("events.csv")).unwrap();
        assert!(digest().is_err());
    }
}
