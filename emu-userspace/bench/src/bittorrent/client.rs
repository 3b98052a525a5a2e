//! The supported BitTorrent clients and their command lines.
use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// Python script that drives libtorrent, which is a library without a program of its own.
pub const DRIVER: &str = include_str!("client.py");
/// Maximum number of connections per client: as many as the first BitTorrent client opened.
const CONNECTIONS: &str = "40";

/// A BitTorrent client program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Debian's libtorrent (`python3-libtorrent`): unchokes at once and wakes up rarely.
    Libtorrent,
    /// aria2 with its own defaults: unchokes every ten seconds, so runs differ more.
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

/// Paths that a client's command line needs.
#[derive(Debug, Clone)]
pub struct Files {
    /// The .torrent file.
    pub metainfo: PathBuf,
    /// The script [`DRIVER`], written to a file.
    pub driver: PathBuf,
    /// The hook that records that a client has completed the file.
    pub hook: PathBuf,
}

impl Client {
    /// Program and arguments of a client that starts with the file or without it, bound to
    /// the address of its vnode.
    pub fn argv(self, files: &Files, vnode: impl fmt::Display, has_file: bool) -> Vec<String> {
        match self {
            Self::Libtorrent => [
                // Debian's Python: other interpreters lack Debian's packages.
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

/// Command line of aria2 without the features that look outside the swarm (DHT, local
/// discovery); it seeds until it is killed.
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
