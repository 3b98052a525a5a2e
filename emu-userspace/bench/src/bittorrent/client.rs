//! The BitTorrent clients that can be measured, and how each is started.
use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// The driver of libtorrent, which is a library.
pub const DRIVER: &str = include_str!("client.py");
/// Connections of a client, at most: as many as the first BitTorrent opened.
const CONNECTIONS: &str = "40";

/// A program that downloads and uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Debian's libtorrent (`python3-libtorrent`): slots are given at once, few wake-ups.
    Libtorrent,
    /// aria2 as it is: gives slots every ten seconds, which makes runs differ more.
    Aria2,
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "libtorrent" => Ok(Self::Libtorrent),
            "aria2" => Ok(Self::Aria2),
            _ => Err("libtorrent or aria2".to_owned()),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Libtorrent => "libtorrent",
            Self::Aria2 => "aria2",
        })
    }
}

/// The files that clients are started with.
#[derive(Debug, Clone)]
pub struct Files {
    /// The .torrent.
    pub metainfo: PathBuf,
    /// The script of libtorrent.
    pub driver: PathBuf,
    /// The program that notes that a client has the file.
    pub hook: PathBuf,
}

impl Client {
    /// Program and arguments of a client with the file or without it, at the address of its
    /// vnode.
    pub fn argv(self, files: &Files, vnode: impl fmt::Display, has_file: bool) -> Vec<String> {
        match self {
            Self::Libtorrent => [
                // Debian's Python: another one does not have Debian's packages.
                "/usr/bin/python3".to_owned(),
                files.driver.display().to_string(),
                vnode.to_string(),
                files.metainfo.display().to_string(),
                CONNECTIONS.to_owned(),
            ]
            .into(),
            Self::Aria2 => aria2(files, has_file),
        }
    }
}

/// aria2 without what needs more than the swarm: no DHT, no local discovery; it seeds for
/// as long as it runs.
fn aria2(files: &Files, has_file: bool) -> Vec<String> {
    let mut argv: Vec<String> = [
        "aria2c",
        "--no-conf=true",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--disable-ipv6=true",
        "--bt-enable-lpd=false",
        "--listen-port=6881",
        "--file-allocation=none",
        "--disk-cache=0",
        "--seed-ratio=0.0",
        "--show-console-readout=false",
        "--summary-interval=0",
        "--console-log-level=warn",
    ]
    .map(str::to_owned)
    .into();
    argv.push(if has_file {
        "--check-integrity=true".to_owned()
    } else {
        format!("--on-bt-download-complete={}", files.hook.display())
    });
    argv.push(files.metainfo.display().to_string());
    argv
}
