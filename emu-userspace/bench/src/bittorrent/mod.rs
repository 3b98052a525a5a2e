//! BitTorrent for measurements: a file with its .torrent, the clients that share it, and
//! the tracker that they meet at.
pub mod client;
pub mod torrent;

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use super::BenchError;
pub use client::Client;
use client::Files;
use torrent::Torrent;

/// TCP port of the tracker.
pub const TRACKER_PORT: u16 = 6969;
/// TCP port of every client.
pub const CLIENT_PORT: u16 = 6881;
/// Called by a client that has the whole file, in its folder.
const DONE_HOOK: &str = "#!/bin/sh\n: > done\n";

/// Size of a file's pieces, so that there are about so many, of a size that clients accept.
pub fn piece_bytes(file_bytes: usize, pieces: usize) -> usize {
    (file_bytes / pieces)
        .next_power_of_two()
        .clamp(16 << 10, 256 << 10)
}

/// A file that is to be shared, and all that tracker and clients are started with.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The file.
    pub torrent: Torrent,
    /// What clients are given.
    pub files: Files,
}

impl Shared {
    /// Writes a file of so many bytes in such pieces, and what clients need, into a folder.
    ///
    /// # Errors
    /// [`BenchError::System`]: what the folder or the disk refuses.
    pub fn create(
        folder: &Path,
        (file_bytes, piece_bytes): (usize, usize),
        tracker: IpAddr,
    ) -> Result<Self, BenchError> {
        let announce = format!("http://{tracker}:{TRACKER_PORT}/announce");
        let torrent = Torrent::create(folder, file_bytes, piece_bytes, &announce)
            .map_err(BenchError::system("write the file to share"))?;
        let files = Files {
            metainfo: torrent.metainfo.clone(),
            driver: folder.join("client.py"),
            hook: folder.join("done.sh"),
        };
        fs::write(&files.driver, client::DRIVER)
            .and_then(|()| fs::write(&files.hook, DONE_HOOK))
            .and_then(|()| fs::set_permissions(&files.hook, fs::Permissions::from_mode(0o755)))
            .map_err(BenchError::system("write a script"))?;
        Ok(Self { torrent, files })
    }

    /// Program and arguments of the tracker, which has a folder of its own. Debian's
    /// opentracker serves the torrents of a list only, and gives up root in a root folder.
    ///
    /// # Errors
    /// [`BenchError::System`]: what the folder or the disk refuses.
    pub fn tracker(&self, own: &Path) -> Result<Vec<String>, BenchError> {
        fs::write(own.join("allowed"), format!("{}\n", self.torrent.info_hash))
            .and_then(|()| fs::set_permissions(own, fs::Permissions::from_mode(0o755)))
            .map_err(BenchError::system("write the tracker's list"))?;
        let port = TRACKER_PORT.to_string();
        let argv = ["opentracker", "-p", &port, "-P", &port, "-d"].map(str::to_owned);
        Ok(argv
            .into_iter()
            .chain([own.display().to_string(), "-w".into(), "allowed".into()])
            .collect())
    }
}
