//! A digest of what happened in the network, so that two runs can be compared at a glance.
use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use sha2::{Digest, Sha256};

/// Tables of what happened; those that a run has.
const TABLES: [&str; 3] = ["processes.csv", "counters.csv", "events.csv"];

/// SHA-256 over names and contents of the tables in a folder of results, in hexadecimal.
///
/// # Errors
/// If one of them cannot be read, or is not a file of its own.
pub(super) fn of_results(folder: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    for name in TABLES {
        let mut open = OpenOptions::new();
        // The folder may belong to the person for whom the programs ran.
        open.read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = match open.open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{name} is not a regular file")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        digest.update(name);
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    let bytes = digest.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::of_results;

    #[test]
    fn each_byte_of_each_table_counts_and_links_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("processes.csv", "a");
        let one = of_results(folder.path()).unwrap();
        assert_eq!((one.len(), &one), (64, &of_results(folder.path()).unwrap()));
        write("counters.csv", "");
        let two = of_results(folder.path()).unwrap();
        write("processes.csv", "b");
        let three = of_results(folder.path()).unwrap();
        assert!(one != two && two != three && one != three);
        std::os::unix::fs::symlink("/etc/shadow", folder.path().join("events.csv")).unwrap();
        assert!(of_results(folder.path()).is_err());
    }
}
