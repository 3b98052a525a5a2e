//! BitTorrent workload for measurements: a file with its .torrent, the clients that share
//! it, and their tracker.
pub mod client;
pub mod torrent;

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::Path};

use super::BenchError;
pub use client::Client;
use client::Files;
use torrent::Torrent;

/// TCP port of the tracker (opentracker).
pub const TRACKER_PORT: u16 = 6969;
/// TCP port on which each client accepts peers.
pub const CLIENT_PORT: u16 = 6881;
/// Script that a client calls in its own folder when the file is complete.
const DONE_HOOK: &str = "#!/bin/sh\n: > done\n";

/// Piece size that splits a file into about `pieces` pieces and that clients accept.
pub fn piece_bytes(file_bytes: usize, pieces: usize) -> usize {
    (file_bytes / pieces)
        .next_power_of_two()
        .clamp(16 << 10, 256 << 10)
}

/// A shared file, and everything that the tracker and the clients need to start.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The file and its metadata.
    pub torrent: Torrent,
    /// Paths for the clients' command lines.
    pub files: Files,
}

impl Shared {
    /// Creates a file of `file_bytes` bytes and the clients' files in a folder.
    ///
    /// # Errors
    /// [`BenchError::System`] if a file in the folder cannot be written.
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

    /// Program and arguments of the tracker, which gets a folder of its own. Debian's
    /// opentracker serves only the torrents of a whitelist, and drops root privileges in a
    /// folder that belongs to root.
    ///
    /// # Errors
    /// [`BenchError::System`] if a file in the folder cannot be written.
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
