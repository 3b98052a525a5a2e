//! `emu bench scale`.
use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use clap::Args;
use emu_bench::scale::{self, HostPlace, Peer, Settings};

use super::output::Output;
use crate::commands::{
    Outcome,
    error::{CommandError, failure},
};

/// Arguments of `emu bench scale`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask run -- bench scale                 forty nodes of a DHT
  cargo xtask run --hosts 2 -- bench scale --full
                                                 5,760, as in P2PLab's largest experiment, on
                                                 two VMs; half an hour, 2 x 2 GiB
  cargo xtask run -- bench scale --peer bittorrent --full
                                                 150 BitTorrent clients, 1 MiB each; ten minutes

The peers are nodes of the BitTorrent DHT, or BitTorrent clients that share a file of four
seeders, each a process with an access link of its own: 2 Mbit/s down, 128 kbit/s up, 30 ms.
Needs root, a kernel with fq, and in the search path the program `peers` of experiments/peers,
or opentracker and python3-libtorrent.

With --rank and --size the measurement runs on several hosts at once, which share the folder
--out. The peers are distributed over the hosts, on the machines' own network, and the first
host has the results:
  emu bench scale --full --rank 0 --size 2 --address 192.168.7.1 --out /shared/1   # and --rank 1")]
pub(in crate::commands) struct Scale {
    /// Program of the peers: dht or bittorrent.
    #[arg(long, value_name = "NAME", default_value_t = Peer::Dht)]
    peer: Peer,
    /// Run forty nodes of a DHT, or twelve BitTorrent clients; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run as many nodes as P2PLab's largest experiment, 5,760, one every 250 ms; or 150
    /// BitTorrent clients, one every 3 s.
    #[arg(long)]
    full: bool,
    /// Number of peers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=60_000))]
    peers: Option<u32>,
    /// Time between the starts of two peers.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Time for which all peers run together.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    settle: Option<Duration>,
    /// Size of the file that BitTorrent clients share, in KiB.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    file: Option<u32>,
    /// Folder for the results.
    #[arg(long, default_value = "bench-scale")]
    out: PathBuf,
    /// Rank of this host among several, from 0.
    #[arg(long, value_name = "R", requires = "size")]
    rank: Option<usize>,
    /// Number of hosts that run the measurement.
    #[arg(long, value_name = "N", requires = "rank", value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: Option<u16>,
    /// Interface of each host towards the other hosts.
    #[arg(long, value_name = "NAME", default_value = "eth0", requires = "rank")]
    interface: String,
    /// Address of the first host on that interface; each following host has the next
    /// address.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "172.16.0.1",
        requires = "rank"
    )]
    address: Ipv4Addr,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Scale {
    pub(super) fn run(self) -> Outcome {
        let size = if self.full {
            Settings::full(self.peer)
        } else {
            Settings::quick(self.peer)
        };
        let settings = Settings {
            peers: self.peers.unwrap_or(size.peers),
            interval: self.interval.unwrap_or(size.interval),
            settle: self.settle.unwrap_or(size.settle),
            file_bytes: (self.file).map_or(size.file_bytes, |kib| kib as usize * 1024),
            ..size
        };
        let folder = std::path::absolute(&self.out)?;
        let output = Output {
            json: self.json,
            out: Some(folder.clone()),
        };
        let place = self.place()?;
        output.measure(&scale::Scale {
            settings,
            place,
            folder,
        })
    }

    /// The position of this host among several, if there are several.
    fn place(&self) -> Result<Option<HostPlace>, CommandError> {
        let Some((rank, size)) = self.rank.zip(self.size.map(usize::from)) else {
            return Ok(None);
        };
        if rank >= size {
            return Err(failure!(
                "host {rank} of {size}: hosts are numbered from 0 to {}",
                size - 1
            ));
        }
        Ok(Some(HostPlace {
            rank,
            size,
            interface: self.interface.clone(),
            address: self.address,
        }))
    }
}
