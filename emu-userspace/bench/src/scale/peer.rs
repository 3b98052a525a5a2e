//! The kinds of peers: their topology, their experiment, and the output by which a peer
//! reports success.
use std::{fmt, net::Ipv4Addr, path::Path, str::FromStr, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::{HostPlace, SAMPLE, Settings};
use crate::{
    BenchError,
    bittorrent::{CLIENT_PORT, Client, Shared, TRACKER_PORT, piece_bytes},
};

/// Clients that have the file from the start; the number of P2PLab's experiment.
const SEEDERS: u32 = 4;
/// Number of pieces of the shared file: each completed piece is announced to all peers.
const PIECES: usize = 16;
/// Access link of every peer, from P2PLab.
const LINE: &str = "down: 2mbit, up: 128kbit, latency: 30ms";
/// Address of the tracker.
const TRACKER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// The program that each peer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Peer {
    /// A node of the BitTorrent DHT (`peers dht`): puts a value and gets that of another
    /// node.
    Dht,
    /// A BitTorrent client (libtorrent): downloads a file and uploads it.
    BitTorrent,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dht" => Ok(Self::Dht),
            "bittorrent" => Ok(Self::BitTorrent),
            _ => Err("dht or bittorrent".to_owned()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dht => "dht",
            Self::BitTorrent => "bittorrent",
        })
    }
}

/// The texts of an experiment that is ready to run.
pub(super) struct Experiment {
    pub topology: String,
    /// The experiment file for `emu run`.
    pub experiment: String,
    /// The text that a peer prints, followed by its seconds, when it takes part in the
    /// network.
    pub ready: String,
    /// The text that a peer prints when it has the right data.
    pub right: String,
}

impl Peer {
    /// Number of peers that are judged: the first node of a DHT has no other node to query.
    pub fn judged(self, peers: u32) -> u32 {
        match self {
            Self::Dht => peers - 1,
            Self::BitTorrent => peers,
        }
    }

    /// Labels of the two measured milestones: the peer takes part in the network, and it
    /// has the right data.
    pub fn milestones(self) -> [&'static str; 2] {
        match self {
            Self::Dht => ["bootstrapped", "found another's value"],
            Self::BitTorrent => ["got the whole file", "have the seeders' bytes"],
        }
    }

    /// Writes the files of the programs into a folder. With several hosts, the peers are
    /// spread over them.
    pub(super) fn experiment(
        self,
        settings: &Settings,
        place: Option<&HostPlace>,
        folder: &Path,
    ) -> Result<Experiment, BenchError> {
        let mut parts = match self {
            Self::Dht => dht(settings),
            Self::BitTorrent => bittorrent(settings, folder)?,
        };
        parts.topology += &place.map_or(String::new(), HostPlace::section);
        Ok(parts)
    }
}

fn topology(peers: u32, more: &str) -> String {
    format!(
        "version: 1\nname: scale\nseed: 1\nprofiles:\n  line: {{{LINE}}}\ngroups:\n  \
         peers: {{prefix: 10.8.0.0/16, nodes: {peers}, profile: line}}\n{more}"
    )
}

/// First part of an experiment file; the programs follow.
fn head(settings: &Settings) -> String {
    let duration: Duration = settings.interval * settings.peers + settings.settle;
    format!(
        "name: scale\ntopology: topology.yaml\nseed: 1\nduration: {}ms\nsample: {}s\nprograms:\n",
        duration.as_millis(),
        SAMPLE.as_secs()
    )
}

fn dht(settings: &Settings) -> Experiment {
    let last = settings.peers - 1;
    let patience = (settings.interval * settings.peers + settings.settle).as_secs();
    let programs = [
        json!({
            "name": "first", "on": "peers/0", "run": ["peers", "dht"],
            "ready": {"udp": 6881}, "background": true,
        }),
        json!({
            "name": PEERS, "on": format!("peers/1-{last}"),
            "start": every(settings.interval),
            "run": ["peers", "dht", "--bootstrap", "{ip:first}:6881", "--number", "{number}",
                    "--of", last.to_string(), "--patience", patience.to_string(),
                    "--stay", "86400"],
        }),
    ];
    Experiment {
        topology: topology(settings.peers, ""),
        experiment: head(settings) + &list(&programs),
        ready: "bootstrapped ".to_owned(),
        right: "found ".to_owned(),
    }
}

fn bittorrent(settings: &Settings, folder: &Path) -> Result<Experiment, BenchError> {
    let size = (
        settings.file_bytes,
        piece_bytes(settings.file_bytes, PIECES),
    );
    let shared = Shared::create(folder, size, TRACKER.into())?;
    let own = folder.join("tracker");
    crate::make_folder(&own)?;
    let mut client = Client::Libtorrent.argv(&shared.files, "{ip}", false);
    client.push("digest".to_owned());
    let seeding = Client::Libtorrent.argv(&shared.files, "{ip}", true);
    // A seeder starts with the file in its folder.
    let file = shared.torrent.file.display().to_string();
    let mut seeder = ["sh", "-c", "cp \"$0\" file && exec \"$@\"", &file]
        .map(str::to_owned)
        .to_vec();
    seeder.extend(seeding);
    let programs = [
        json!({
            "name": "tracker", "on": "servers/0", "run": shared.tracker(&own)?,
            "ready": {"tcp": TRACKER_PORT}, "background": true,
        }),
        json!({
            "name": "seeder", "on": format!("servers/1-{SEEDERS}"), "run": seeder,
            "ready": {"tcp": CLIENT_PORT}, "background": true,
        }),
        json!({
            "name": PEERS, "on": "peers", "start": every(settings.interval),
            "run": client,
        }),
    ];
    // The round trip is measured between two vnodes with idle access links, because a
    // queueing delay is not an error.
    let more = format!(
        "  servers: {{prefix: 10.9.0.0/24, nodes: {}, profile: line}}\n  \
         {PROBES}: {{prefix: 10.10.0.0/24, nodes: 2, profile: line}}\n",
        SEEDERS + 1
    );
    Ok(Experiment {
        topology: topology(settings.peers, &more),
        experiment: head(settings) + &list(&programs),
        ready: "whole ".to_owned(),
        right: format!("sha1 {}", shared.torrent.digest),
    })
}

/// Name of the peers' program in the experiment; the first node of a DHT has another one.
pub(super) const PEERS: &str = "node";
/// Group of two vnodes without programs, if the experiment has one.
pub(super) const PROBES: &str = "probes";

fn every(interval: Duration) -> serde_json::Value {
    json!({"every": format!("{}ms", interval.as_millis())})
}

/// One line of JSON per program; JSON is valid YAML.
fn list(programs: &[serde_json::Value]) -> String {
    programs.iter().map(|p| format!("  - {p}\n")).collect()
}
