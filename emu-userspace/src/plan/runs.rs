//! Runs of neighbouring addresses, and the prefixes that cover them exactly.
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(a) => (false, u128::from(u32::from(a))),
        IpAddr::V6(a) => (true, u128::from(a)),
    }
}

/// First and last address of each run of consecutive addresses, sorted.
pub fn runs(addresses: impl Iterator<Item = IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    let mut sorted: Vec<IpAddr> = addresses.collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(IpAddr, IpAddr)> = Vec::new();
    for address in sorted {
        let (v6, value) = number(address);
        match runs.last_mut() {
            Some((_, last)) if number(*last).0 == v6 && number(*last).1 + 1 == value => {
                *last = address;
            }
            _ => runs.push((address, address)),
        }
    }
    runs
}

/// The smallest set of prefixes that covers exactly these runs.
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

/// Every address of a run.
pub fn addresses(run: (IpAddr, IpAddr)) -> Box<dyn Iterator<Item = IpAddr>> {
    match run {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((u32::from(first)..=u32::from(last)).map(|a| IpAddr::V4(a.into())))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new((u128::from(first)..=u128::from(last)).map(|a| IpAddr::V6(a.into())))
        }
        _ => Box::new(std::iter::empty()),
    }
}
