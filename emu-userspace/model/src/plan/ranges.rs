//! Ranges of addresses, and the prefixes that cover them exactly.
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::topology::merge_adjacent;

/// First and last address of each range of consecutive addresses, sorted.
pub fn address_ranges(addresses: impl Iterator<Item = IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    merge_adjacent(addresses.map(|address| (address, address)).collect())
}

/// The smallest set of prefixes that covers exactly these ranges.
pub fn covering_prefixes(runs: &[(IpAddr, IpAddr)]) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for run in runs {
        match *run {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                prefixes.extend(Ipv4Subnets::new(first, last, 0).map(IpNet::V4));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                prefixes.extend(Ipv6Subnets::new(first, last, 0).map(IpNet::V6));
            }
            _ => {}
        }
    }
    prefixes
}
