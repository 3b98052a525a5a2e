//! A file and its .torrent in the format of BEP 3.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use emu_common::model::random;
use sha1::{Digest, Sha1};

/// A shared file and the metadata of its .torrent.
#[derive(Debug, Clone)]
pub struct Torrent {
    /// Path of the file.
    pub file: PathBuf,
    /// Path of the .torrent.
    pub metainfo: PathBuf,
    /// Info hash, by which trackers identify the torrent, in hexadecimal digits.
    pub info_hash: String,
    /// SHA-1 of the whole file, in hexadecimal digits.
    pub digest: String,
}

impl Torrent {
    /// Creates a file of random bytes and its .torrent in a folder.
    ///
    /// # Errors
    /// The I/O error, if a file in the folder cannot be written.
    pub fn create(
        folder: &Path,
        file_bytes: usize,
        piece_bytes: usize,
        announce: &str,
    ) -> io::Result<Self> {
        let name = "file";
        let chunks = file_bytes.div_ceil(8) as u64;
        let mut content: Vec<u8> = (0..chunks)
            .flat_map(|i| random::mix(i).to_le_bytes())
            .collect();
        content.truncate(file_bytes);
        let info = info(name, &content, piece_bytes);
        let mut metainfo = format!("d8:announce{}:{announce}4:info", announce.len()).into_bytes();
        metainfo.extend_from_slice(&info);
        metainfo.push(b'e');
        let torrent = Self {
            file: folder.join(name),
            metainfo: folder.join("file.torrent"),
            info_hash: hex(&Sha1::digest(&info)),
            digest: hex(&Sha1::digest(&content)),
        };
        fs::write(&torrent.file, content)?;
        fs::write(&torrent.metainfo, metainfo)?;
        Ok(torrent)
    }
}

/// The bencoded info dictionary, whose SHA-1 is the info hash; BEP 3 demands keys in byte
/// order.
fn info(name: &str, content: &[u8], piece_bytes: usize) -> Vec<u8> {
    let pieces: Vec<u8> = content
        .chunks(piece_bytes)
        .flat_map(|piece| Sha1::digest(piece).to_vec())
        .collect();
    let mut info = format!(
        "d6:lengthi{}e4:name{}:{name}12:piece lengthi{piece_bytes}e6:pieces{}:",
        content.len(),
        name.len(),
        pieces.len()
    )
    .into_bytes();
    info.extend_from_slice(&pieces);
    info.push(b'e');
    info
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_is_as_the_standard_says() {
        let folder = tempfile::tempdir().unwrap();
        let torrent = Torrent::create(folder.path(), 40, 16, "http://a/announce").unwrap();
        let bytes = fs::read(&torrent.metainfo).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let expected = "d8:announce17:http://a/announce4:infod6:lengthi40e4:name4:file12:piece lengthi16e6:pieces60:";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(bytes.len(), expected.len() + 60 + 2);
        assert_eq!(fs::metadata(&torrent.file).unwrap().len(), 40);
        assert_eq!(torrent.info_hash.len(), 40);
    }
}
