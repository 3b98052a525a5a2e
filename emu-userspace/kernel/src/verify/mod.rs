//! Checks whether the kernel behaves as the topology says: probes with real packets, compared
//! with the model's arithmetic.
pub mod pairs;
mod peers;
pub mod ping;
pub mod rates;
mod stamp;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use emu_model::{plan::Plan, topology::Topology};
use serde::Serialize;

pub use pairs::{Pair, choose};
pub use peers::{OffsetMs, PeerReport};

/// IP length of a probe to an address: the default of `ping` (56 bytes of data and 8 of
/// ICMP).
pub const fn probe_ip_bytes(to: IpAddr) -> u32 {
    match to {
        IpAddr::V4(_) => 84,
        IpAddr::V6(_) => 104,
    }
}

/// Number of attempts for a pair that is out of bounds.
const ATTEMPTS: u32 = 4;
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Allowed difference between measurement and model.
///
/// The timers of `fq` fire a little late in each of the four stages of a round trip, and
/// other work on the machine adds to it. An error in the data path shows as whole
/// serialisation times or latencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Constant part in milliseconds.
    pub absolute_ms: f64,
    /// Part of the expected round-trip time.
    pub relative: f64,
    /// Multiple of the round trip of this machine's unshaped loopback: an emulated round trip
    /// passes four more qdiscs and softirqs on a processor that may be slow or emulated.
    pub host_round_trips: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            absolute_ms: 2.0,
            relative: 0.002,
            host_round_trips: 5.0,
        }
    }
}

impl Tolerance {
    /// Largest error allowed at an expected round-trip time, on a host whose own
    /// loopback takes `host_rtt_ms`.
    pub fn at(&self, expected_ms: f64, host_rtt_ms: f64) -> f64 {
        self.absolute_ms + self.relative * expected_ms + self.host_round_trips * host_rtt_ms
    }
}

/// Minimum, median and maximum of the samples, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RttMs {
    pub min: f64,
    pub p50: f64,
    pub max: f64,
}

impl RttMs {
    /// Summary of sorted samples; `None` if empty.
    fn of(sorted_ms: &[f64]) -> Option<Self> {
        Some(Self {
            min: *sorted_ms.first()?,
            p50: sorted_ms[sorted_ms.len() / 2],
            max: *sorted_ms.last()?,
        })
    }
}

/// Measured round-trip time between two groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairReport {
    /// Group of the prober.
    pub from: String,
    /// Group of the responder.
    pub to: String,
    /// The prober's address.
    pub src: IpAddr,
    /// The responder's address.
    pub dst: IpAddr,
    /// Round-trip time of the model, with serialisation, in milliseconds.
    pub expected_rtt_ms: f64,
    /// Measured; `None` without replies.
    pub rtt_ms: Option<RttMs>,
    pub samples: usize,
    pub sent: usize,
    /// The host of the responder, if it is another one.
    pub remote: Option<String>,
    /// Round trip of the link to that host, in milliseconds.
    pub link_ms: f64,
    /// Median minus the expected value and the link to another host, in milliseconds.
    pub error_ms: Option<f64>,
    /// Largest error allowed, in milliseconds.
    pub bound_ms: f64,
    /// Whether the median is inside the bound.
    pub ok: bool,
    /// Number of attempts; the figures are those of the last one.
    pub attempts: u32,
}

/// The result of `emu verify`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Whether all measurements are within their bounds.
    pub ok: bool,
    /// Median round-trip time of this machine's own loopback, in milliseconds.
    pub host_rtt_ms: f64,
    /// The links to the other hosts.
    pub hosts: Vec<PeerReport>,
    /// Every pair of groups that can be probed.
    pub pairs: Vec<PairReport>,
    /// Pairs of groups that no probe can pass, because of filters on both sides.
    pub filtered_pairs: usize,
    /// Goodput of a sample of pipes; empty unless asked for.
    pub rates: Vec<rates::RateReport>,
}

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Probes for each pair.
    pub samples: usize,
    /// Bound of the verdict.
    pub tolerance: Tolerance,
    /// Whether to measure goodput too.
    pub rates: bool,
    /// Largest number of pairs, which are selected evenly.
    pub max_pairs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            samples: 5,
            tolerance: Tolerance::default(),
            rates: false,
            max_pairs: 2_000,
        }
    }
}

/// Probes every pair of groups, and measures a sample of pipes on request.
///
/// # Errors
/// A socket that could not be opened: probing needs `CAP_NET_RAW`.
pub fn run(
    topology: &Topology,
    plan: &Plan,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> io::Result<Report> {
    let host_rtt_ms = host_rtt_ms(plan, options.samples)?;
    let hosts = peers::measure(topology, plan, options.samples)?;
    let (chosen, filtered_pairs) = choose(topology, plan, options.max_pairs);
    let mut scene = PingScene {
        plan,
        host_rtt_ms,
        options,
        away: BTreeMap::new(),
    };
    if topology.hosts.len() > 1 {
        scene.look_away(topology, &hosts, &chosen);
    }
    let pairs = scene.measure_pairs(&chosen, progress)?;
    let rates = if options.rates {
        rates::measure(plan)?
    } else {
        Vec::new()
    };
    Ok(Report {
        ok: pairs.iter().all(|p| p.ok) && rates.iter().all(|r| r.ok),
        host_rtt_ms,
        hosts,
        pairs,
        filtered_pairs,
        rates,
    })
}

/// Round trip of this machine without emulation.
fn host_rtt_ms(plan: &Plan, samples: usize) -> io::Result<f64> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let pair = Pair {
        from: 0,
        to: 0,
        src: localhost,
        dst: localhost,
    };
    let mut rtts = ping::probe(plan, &[pair], samples, &mut |_, _| {})?
        .pop()
        .unwrap_or_default();
    rtts.sort_unstable_by(f64::total_cmp);
    Ok(rtts.get(rtts.len() / 2).copied().unwrap_or(0.0))
}

/// The context of the measurement of pairs.
struct PingScene<'a> {
    plan: &'a Plan,
    host_rtt_ms: f64,
    options: &'a Options,
    /// Hosts of remote responders, and the round trips to them.
    away: BTreeMap<IpAddr, (String, f64)>,
}

impl PingScene<'_> {
    /// Finds the hosts of the responders.
    fn look_away(&mut self, topology: &Topology, hosts: &[PeerReport], pairs: &[Pair]) {
        let here: BTreeSet<IpAddr> = self.plan.vnodes.iter().map(|v| v.address).collect();
        let away: BTreeSet<IpAddr> = pairs
            .iter()
            .map(|p| p.dst)
            .filter(|dst| !here.contains(dst))
            .collect();
        for (host, parts) in topology.hosts.iter().zip(topology.slices()) {
            let peer = hosts.iter().find(|peer| peer.host == host.name);
            let round_trip_ms = peer.and_then(|p| p.rtt_ms).map_or(0.0, |rtt| rtt.p50);
            // What the programs have deducted already.
            let deducted_ms = 2.0 * self.plan.host_latency_ns as f64 / 1e6;
            let link_ms = (round_trip_ms - deducted_ms).max(0.0);
            for (first, last) in parts.into_iter().flat_map(|(_, spans)| spans) {
                for address in away.range(first..=last) {
                    self.away.insert(*address, (host.name.to_string(), link_ms));
                }
            }
        }
    }

    /// Measures all pairs, and those out of bounds again: other work on the machine delays
    /// packets for a while, a wrong emulation delays them every time.
    fn measure_pairs(
        &self,
        pairs: &[Pair],
        progress: &mut dyn FnMut(usize, usize),
    ) -> io::Result<Vec<PairReport>> {
        let mut reports: Vec<Option<PairReport>> = vec![None; pairs.len()];
        for attempt in 1..=ATTEMPTS {
            let open: Vec<usize> = (0..pairs.len())
                .filter(|i| reports[*i].as_ref().is_none_or(|r| !r.ok))
                .collect();
            if open.is_empty() {
                break;
            }
            if attempt > 1 {
                thread::sleep(PAUSE);
            }
            let some: Vec<Pair> = open.iter().map(|i| pairs[*i]).collect();
            let replies = ping::probe(self.plan, &some, self.options.samples, progress)?;
            for (index, rtts) in open.into_iter().zip(replies) {
                let report = self.judge(&pairs[index], rtts);
                reports[index] = Some(PairReport {
                    attempts: attempt,
                    ..report
                });
            }
        }
        Ok(reports.into_iter().flatten().collect())
    }

    fn judge(&self, pair: &Pair, mut rtts_ms: Vec<f64>) -> PairReport {
        let (plan, options) = (self.plan, self.options);
        rtts_ms.sort_unstable_by(f64::total_cmp);
        let expected_rtt_ms =
            plan.idle_rtt_ns(pair.from, pair.to, probe_ip_bytes(pair.dst)) as f64 / 1e6;
        let rtt_ms = RttMs::of(&rtts_ms);
        let (remote, link_ms) = match self.away.get(&pair.dst) {
            Some((host, link_ms)) => (Some(host.clone()), *link_ms),
            None => (None, 0.0),
        };
        let error_ms = rtt_ms.map(|r| r.p50 - expected_rtt_ms - link_ms);
        let jitter_ns = plan.jitter_ns(pair.from, pair.to) + plan.jitter_ns(pair.to, pair.from);
        let tolerance = options.tolerance.at(expected_rtt_ms, self.host_rtt_ms);
        // The uncertainty of a link grows with its length.
        let bound_ms = tolerance + jitter_ns as f64 / 1e6 + link_ms;
        let lossy = plan.loses(pair.from, pair.to) || plan.loses(pair.to, pair.from);
        let enough = if lossy { 1 } else { options.samples };
        PairReport {
            from: plan.groups[pair.from].name.clone(),
            to: plan.groups[pair.to].name.clone(),
            src: pair.src,
            dst: pair.dst,
            expected_rtt_ms,
            rtt_ms,
            samples: rtts_ms.len(),
            sent: options.samples,
            remote,
            link_ms,
            error_ms,
            bound_ms,
            // A lost probe on an idle network is also an error, and so is a second answer
            // without duplication.
            ok: rtts_ms.len() >= enough && error_ms.is_some_and(|e| e.abs() <= bound_ms),
            attempts: 1,
        }
    }
}
