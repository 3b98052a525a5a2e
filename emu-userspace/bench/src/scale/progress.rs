//! Bytes that peers received, against time.
use std::{collections::BTreeMap, net::Ipv4Addr};

use super::SAMPLE;

/// Increasing values, each with its time in seconds.
pub type Curve = Vec<(f64, f64)>;

/// First bytes of the peers' addresses; those of servers and probes differ.
const PEERS: [u8; 2] = [10, 8];

/// The curves of every N-th peer, from the table of counters over time.
pub(super) fn curves(counters: &str, every: u32) -> Vec<Curve> {
    let mut lines = counters.lines();
    let header = lines.next().unwrap_or_default();
    let place = |name: &str| header.split(',').position(|h| h == name);
    let (Some(time), Some(vnode), Some(bytes)) =
        (place("time_s"), place("vnode"), place("received_bytes"))
    else {
        return Vec::new();
    };
    let mut curves: BTreeMap<Ipv4Addr, Curve> = BTreeMap::new();
    let mut end_s = 0.0;
    for cells in lines.map(|line| line.split(',').collect::<Vec<_>>()) {
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        let (Ok(address), Ok(time_s), Ok(bytes)) = (
            cell(vnode).parse::<Ipv4Addr>(),
            cell(time).parse::<f64>(),
            cell(bytes).parse::<f64>(),
        ) else {
            continue;
        };
        end_s = time_s;
        if address.octets()[..2] == PEERS && address.to_bits().is_multiple_of(every) {
            let curve = curves.entry(address).or_default();
            stay_until(curve, time_s - SAMPLE.as_secs_f64());
            curve.push((time_s, bytes));
        }
    }
    for curve in curves.values_mut() {
        stay_until(curve, end_s);
    }
    curves.into_values().collect()
}

/// Extends a curve with its last value: the table has no row where nothing changed.
fn stay_until(curve: &mut Curve, time_s: f64) {
    if let Some((last_s, value)) = curve.last().copied()
        && last_s < time_s
    {
        curve.push((time_s, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_flat_where_the_table_has_no_row() {
        let table = "time_s,vnode,received_bytes\n0,10.8.0.2,0\n0,10.8.0.3,0\n0,10.9.0.2,9\n\
                     20,10.8.0.2,7\n25,10.8.0.2,8\n40,10.9.0.2,9\n";
        let curves = curves(table, 2);
        let expected = [
            (0.0, 0.0),
            (15.0, 0.0),
            (20.0, 7.0),
            (25.0, 8.0),
            (40.0, 8.0),
        ];
        assert_eq!(curves, [expected.to_vec()]);
    }
}
