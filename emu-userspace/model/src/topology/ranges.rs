//! Ranges of addresses: a group of a million vnodes is one range, or a few, and is never
//! expanded.
use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

/// First and last address of a range, both of one family.
pub type AddrRange = (IpAddr, IpAddr);

/// An address as a number, preceded by its family, so that ranges of two families are never
/// adjacent.
pub(crate) fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(a) => (false, u128::from(u32::from(a))),
        IpAddr::V6(a) => (true, u128::from(a)),
    }
}

/// The address `count` after another; saturates at the last address of the family.
pub(crate) fn after(address: IpAddr, count: u128) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            IpAddr::V4(u32::from(a).saturating_add(count).into())
        }
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).saturating_add(count).into()),
    }
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).saturating_sub(1).into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).saturating_sub(1).into()),
    }
}

/// Number of addresses in a range.
pub(crate) fn length(span: &AddrRange) -> u128 {
    (number(span.1).1 - number(span.0).1).saturating_add(1)
}

/// Number of addresses in all ranges.
pub(crate) fn total(spans: &[AddrRange]) -> u128 {
    spans.iter().map(length).sum()
}

/// All addresses of a range.
pub fn addresses((first, last): AddrRange) -> Box<dyn Iterator<Item = IpAddr> + Send> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((u32::from(first)..=u32::from(last)).map(|a| IpAddr::V4(a.into())))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new((u128::from(first)..=u128::from(last)).map(|a| IpAddr::V6(a.into())))
        }
        _ => Box::new(std::iter::empty()),
    }
}

/// Ranges of a list of addresses, in the order of the list.
pub(crate) fn of_list(list: &[IpAddr]) -> Vec<AddrRange> {
    let mut spans: Vec<AddrRange> = Vec::new();
    for address in list {
        let (v6, value) = number(*address);
        match spans.last_mut() {
            Some((_, last)) if number(*last).0 == v6 && number(*last).1 + 1 == value => {
                *last = *address;
            }
            _ => spans.push((*address, *address)),
        }
    }
    spans
}

/// Sorts ranges that do not overlap, and merges adjacent ones.
pub fn merge_adjacent(mut spans: Vec<AddrRange>) -> Vec<AddrRange> {
    spans.sort_unstable();
    let mut joined: Vec<AddrRange> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some((_, last))
                if number(*last).0 == number(span.0).0
                    && number(*last).1.saturating_add(1) >= number(span.0).1 =>
            {
                *last = (*last).max(span.1);
            }
            _ => joined.push(span),
        }
    }
    joined
}

/// Intersection of two ranges.
pub(crate) fn common(a: &AddrRange, b: &AddrRange) -> Option<AddrRange> {
    let (first, last) = (a.0.max(b.0), a.1.min(b.1));
    (first.is_ipv4() == last.is_ipv4() && first <= last).then_some((first, last))
}

/// The rest of a range, in order, without holes that are sorted and disjoint.
pub(crate) fn without(span: AddrRange, holes: &[AddrRange]) -> Vec<AddrRange> {
    let (mut left, mut first) = (Vec::new(), span.0);
    for hole in holes {
        let Some((from, to)) = common(&(first, span.1), hole) else {
            continue;
        };
        if from > first {
            left.push((first, before(from)));
        }
        if to >= span.1 {
            return left;
        }
        first = after(to, 1);
    }
    left.push((first, span.1));
    left
}

/// The addresses of ranges from index `from` to before index `to`.
pub(crate) fn part(spans: &[AddrRange], from: u128, to: u128) -> Vec<AddrRange> {
    let (mut part, mut passed) = (Vec::new(), 0u128);
    for span in spans {
        let count = length(span);
        let (start, end) = (from.max(passed), to.min(passed + count));
        if start < end {
            let first = after(span.0, start - passed);
            part.push((first, after(span.0, end - 1 - passed)));
        }
        passed += count;
    }
    part
}

/// The first `count` usable addresses of a prefix, without those of inner prefixes: not the
/// network and broadcast address, nor an IPv6 subnet's routers (RFC 4291, 2.6.1).
pub(crate) fn usable(prefix: IpNet, inner: Vec<IpNet>, count: u128) -> Vec<AddrRange> {
    let (mut first, mut last) = (prefix.network(), prefix.broadcast());
    if prefix.max_prefix_len() - prefix.prefix_len() > 1 {
        first = after(first, 1);
        if prefix.addr().is_ipv4() {
            last = before(last);
        }
    }
    let holes: Vec<AddrRange> = inner.iter().map(|p| (p.network(), p.broadcast())).collect();
    part(&without((first, last), &merge_adjacent(holes)), 0, count)
}

/// The host that owns each range; detects overlaps of different hosts.
#[derive(Default)]
pub(crate) struct Owners(BTreeMap<IpAddr, (IpAddr, usize)>);

impl Owners {
    /// Assigns a range to an owner; returns the parts that others own, in order.
    pub fn take(&mut self, span: AddrRange, owner: usize) -> Vec<(AddrRange, usize)> {
        let reaching = self.0.range(..=span.0).next_back();
        let begin = reaching.map_or(span.0, |(first, _)| *first);
        let hit: Vec<(AddrRange, usize)> = self
            .0
            .range(begin..=span.1)
            .map(|(first, (last, owner))| ((*first, *last), *owner))
            .filter(|(other, _)| common(other, &span).is_some())
            .collect();
        let mut taken = Vec::new();
        for (other, had) in hit {
            self.0.remove(&other.0);
            for (first, last) in without(other, &[span]) {
                self.0.insert(first, (last, had));
            }
            if had != owner
                && let Some(both) = common(&other, &span)
            {
                taken.push((both, had));
            }
        }
        self.0.insert(span.0, (span.1, owner));
        taken
    }

    /// All ranges with an owner, sorted.
    pub fn spans(&self) -> Vec<AddrRange> {
        self.0
            .iter()
            .map(|(first, (last, _))| (*first, *last))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: &str, last: &str) -> AddrRange {
        (first.parse().unwrap(), last.parse().unwrap())
    }

    #[test]
    fn holes_and_ends_of_prefixes() {
        let prefix: IpNet = "10.0.0.0/28".parse().unwrap();
        let inner = vec!["10.0.0.4/30".parse().unwrap()];
        let all = usable(prefix, inner, 100);
        assert_eq!(
            all,
            [span("10.0.0.1", "10.0.0.3"), span("10.0.0.8", "10.0.0.14")]
        );
        assert_eq!(
            part(&all, 2, 5),
            [span("10.0.0.3", "10.0.0.3"), span("10.0.0.8", "10.0.0.9")]
        );
        assert_eq!(total(&all), 10);
        let v6: IpNet = "fd00::/126".parse().unwrap();
        assert_eq!(usable(v6, Vec::new(), 9), [span("fd00::1", "fd00::3")]);
        let last: IpNet = "255.255.255.254/31".parse().unwrap();
        assert_eq!(total(&usable(last, Vec::new(), 9)), 2);
    }

    #[test]
    fn owners_are_told_of_what_they_lose() {
        let mut owners = Owners::default();
        assert!(owners.take(span("10.0.0.1", "10.0.0.9"), 0).is_empty());
        assert!(owners.take(span("10.0.0.5", "10.0.0.6"), 0).is_empty());
        let lost = owners.take(span("10.0.0.4", "10.0.0.7"), 1);
        let lost: u128 = lost.iter().map(|(span, _)| length(span)).sum();
        assert_eq!(lost, 4);
        assert_eq!(
            owners.take(span("10.0.0.8", "10.0.0.20"), 2),
            [(span("10.0.0.8", "10.0.0.9"), 0)]
        );
        assert_eq!(
            merge_adjacent(owners.spans()),
            [span("10.0.0.1", "10.0.0.20")]
        );
    }
}
