//! Small peers for the experiments: a node of the BitTorrent DHT and a member of a gossip
//! cluster, on maintained libraries. They do not know that emu exists.
#![forbid(unsafe_code)]

mod dht;
mod gossip;
mod wakeups;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  peers dht                                              a first node, which others join
  peers dht --bootstrap 10.8.0.1:6881 --number 3 --of 20 join, put a value, get another node's
  peers gossip --address 10.8.0.2 --seed 10.8.0.1:7946 --members 20";

/// Peers for experiments; exit code 0 means that the peer completed its task.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    peer: Peer,
}

#[derive(Subcommand)]
enum Peer {
    /// A node of the BitTorrent DHT (Kademlia), with the library `mainline`.
    Dht(dht::Dht),
    /// A member of a cluster with gossip membership, with the library `chitchat`.
    Gossip(gossip::Gossip),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().peer {
        Peer::Dht(dht) => dht.run(),
        Peer::Gossip(gossip) => gossip.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
