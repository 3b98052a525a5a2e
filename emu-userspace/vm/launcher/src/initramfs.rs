//! The initial file system of a QEMU guest: its first process and the modules
//! that bring the host's files, as the archive that the kernel unpacks (`cpio`,
//! format "newc").
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
/// Major and minor number of `/dev/console`, where the first process complains.
const CONSOLE: (u32, u32) = (5, 1);

/// Packs `init` and the modules that it loads to reach the host.
pub fn pack(init: &Path, modules: &Path, release: &str) -> anyhow::Result<Vec<u8>> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::default();
    archive.add("init", PROGRAM, (0, 0), &read(init.to_owned())?);
    archive.add("dev", FOLDER, (0, 0), &[]);
    archive.add("dev/console", DEVICE, CONSOLE, &[]);
    let mut files = vm_init::modules::files(modules, &vm_init::modules::VIRTIO)?;
    files.push("modules.dep".to_owned());
    for file in files {
        let body = read(modules.join(&file))?;
        archive.add_below(&format!("lib/modules/{release}/{file}"), &body);
    }
    archive.add("TRAILER!!!", 0, (0, 0), &[]);
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), body: &[u8]) {
        self.entries += 1;
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size(body.len()),
            0, // device of the file system
            0,
            device.0,
            device.1,
            size(name.len() + 1),
            0, // checksum, of another format
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(body);
        self.pad();
    }

    /// Adds a file with the folders above it.
    fn add_below(&mut self, name: &str, body: &[u8]) {
        for (at, _) in name.match_indices('/') {
            let folder = name[..at].to_owned();
            if self.folders.insert(folder.clone()) {
                self.add(&folder, FOLDER, (0, 0), &[]);
            }
        }
        self.add(name, PROGRAM, (0, 0), body);
    }

    /// Names and bodies end at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, PROGRAM};

    #[test]
    fn an_archive_has_folders_before_files_and_whole_words() {
        let mut archive = Archive::default();
        archive.add_below("a/b/c", b"hello");
        archive.add_below("a/d", b"");
        let text = String::from_utf8_lossy(&archive.bytes).into_owned();
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0"));
        assert_eq!(text.matches("070701").count(), 4);
        assert_eq!(archive.bytes.len() % 4, 0);
        assert_eq!(
            &text[at("a/b/c") - 110 + 14..][..8],
            format!("{PROGRAM:08x}")
        );
    }
}
