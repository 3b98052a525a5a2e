//! CPU cost of a packet: nanoseconds per BPF program, by `BPF_PROG_TEST_RUN` on the
//! machine's own kernel.
//!
//! The kernel repeats a test run only with one and the same packet, so there are two
//! figures. `repeated`: one packet over and over, with everything in the cache. `at
//! random`: each packet between two random vnodes and in a test run of its own; its time
//! includes the kernel's overhead of a test run, which the row of the empty program shows.
mod report;

use std::{net::Ipv4Addr, os::fd::AsFd};

use emu_common::names::{PROG_EGRESS, PROG_IFB, PROG_INGRESS};
use emu_kernel::{
    bpf::{self, Programs, run},
    health::{Health, Monitor},
    session::SessionError,
};
use emu_model::{plan::Plan, topology};
use emu_report::{Environment, Report, Verdict};
use serde::Serialize;

use super::{BenchError, Measurement, MedianCi, Observer, Preset, filling, namespace::Namespace};

/// Largest cost of a random packet with 65,536 vnodes, relative to one vnode: it allows for
/// some CPU cache misses, which no table of that size avoids, and excludes a rule per
/// vnode.
const GROWTH: f64 = 10.0;
/// Largest cost with all features on, relative to the plain pipe; a requirement on the
/// programs.
const EVERYTHING: f64 = 2.0;
/// Largest share of CPU time that a hypervisor may steal before the verdict is undecided.
const STOLEN: f64 = 0.05;
/// Address of the first vnode.
const FIRST: u32 = u32::from_be_bytes([10, 2, 0, 1]);
/// Number of vnodes when features are compared.
const FEATURE_VNODES: u32 = 1_000;
/// Keys of an access link whose queue never fills.
const LINE: &str = "rate: 100gbit, queue: 60min";

/// Features: name, keys of the pipe, other keys of the group, keys of the link between
/// groups.
const FEATURES: [(&str, &str, &str, &str); 12] = [
    ("plain pipe", "", "", ""),
    ("loss", "loss: 0.1%", "", ""),
    (
        "loss in bursts",
        "loss: {gilbert_elliott: {to_bad: 0.1%, to_good: 50%}}",
        "",
        "",
    ),
    ("jitter, uniform", "jitter: 5ms", "", ""),
    (
        "jitter, normal",
        "jitter: {spread: 5ms, distribution: normal}",
        "",
        "",
    ),
    ("corrupt", "corrupt: 0.0000001%", "", ""),
    ("reorder", "reorder: 0.1%", "", ""),
    ("codel", "aqm: {codel: {ecn: true}}", "", ""),
    ("filter", "", "filtering: address-dependent", ""),
    ("link latency", "", "", "latency: 5ms"),
    (
        "link capacity",
        "",
        "",
        "latency: 5ms, rate: 100gbit, queue: 60min",
    ),
    (
        "everything",
        "jitter: {spread: 5ms, distribution: normal}, \
         loss: {gilbert_elliott: {to_bad: 0.1%, to_good: 50%}}, corrupt: 0.0000001%, \
         reorder: 0.1%, aqm: {codel: {ecn: true}}",
        "filtering: address-dependent",
        "latency: 5ms, rate: 100gbit, queue: 60min, loss: 0.1%",
    ),
];

/// The number of variants and samples of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Numbers of vnodes to compare.
    pub vnodes: &'static [u32],
    /// Number of rounds; each round measures all variants.
    pub turns: u32,
    /// Test runs of the repeated packet per round.
    pub repeat: u32,
    /// Random packets per round.
    pub packets: u32,
}

impl Preset for Sizes {
    const QUICK: Self = Self {
        vnodes: &[1, 10, 1_000, 65_536],
        turns: 15,
        repeat: 10_000,
        packets: 500,
    };
    const FULL: Self = Self {
        vnodes: &[1, 10, 100, 1_000, 10_000, 65_536],
        turns: 61,
        repeat: 50_000,
        packets: 3_000,
    };
    const HELP: &'static str = "\
Loads the BPF programs into this machine's kernel without attaching them. Needs only root.

Examples:
  emu bench packet                          half a minute
  emu bench packet --full --out report      all sizes; report/packet.html

Exit code 1 if a packet costs more than the bounds allow, or if the machine was too busy to
tell.";
}

impl Measurement for Sizes {
    type Outcome = Outcome;

    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        Namespace::new()?
            .enter(|| measure(self, observer))
            .map(Some)
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        outcome.page(environment)
    }
}

/// Measurements of one program of one variant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PacketRow {
    /// `egress`, `ifb`, `ingress`, or the empty program.
    pub program: &'static str,
    /// Name of the enabled feature.
    pub feature: &'static str,
    /// Number of vnodes in the topology.
    pub vnodes: u32,
    /// Nanoseconds per test run, one packet over and over.
    pub repeated_ns: MedianCi,
    /// Nanoseconds per test run, a random packet each.
    pub random_ns: MedianCi,
}

/// Results of all programs on one machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The sizes of the run.
    pub sizes: Sizes,
    /// Rows with a growing number of vnodes.
    pub by_vnodes: Vec<PacketRow>,
    /// Rows with one feature at a time.
    pub by_feature: Vec<PacketRow>,
    /// Times to create the vnodes, in seconds.
    pub filling: Vec<filling::FillingRow>,
    /// Load of the machine during the run: CPU, steal time, dropped and late packets.
    pub health: Health,
    /// The verdicts, each with a sentence for the report.
    pub verdicts: Vec<(Verdict, String)>,
}

/// A program to measure, and its topology.
struct Variant {
    program: &'static str,
    feature: &'static str,
    vnodes: u32,
    /// `None` for the empty program.
    loaded: Option<std::rc::Rc<Programs>>,
}

fn measure(sizes: &Sizes, observer: &mut dyn Observer) -> Result<Outcome, BenchError> {
    let mut monitor = Monitor::new();
    let steps = sizes.vnodes.len() + 2;
    let everything = FEATURES.len() - 1;
    let mut by_vnodes = Vec::new();
    for (done, vnodes) in sizes.vnodes.iter().enumerate() {
        observer.step(done, steps, &format!("{vnodes} vnodes"));
        let mut variants = vec![empty(*vnodes)];
        for (feature, programs) in [
            (0, &[PROG_EGRESS, PROG_IFB, PROG_INGRESS][..]),
            (everything, &[PROG_EGRESS][..]),
        ] {
            variants.extend(load(feature, *vnodes, programs)?);
        }
        by_vnodes.extend(interleaved(&variants, sizes, &mut monitor)?);
    }
    observer.step(steps - 2, steps, "features");
    let mut variants = vec![empty(FEATURE_VNODES)];
    for feature in 0..FEATURES.len() {
        variants.extend(load(feature, FEATURE_VNODES, &[PROG_EGRESS])?);
    }
    let by_feature = interleaved(&variants, sizes, &mut monitor)?;
    observer.step(steps - 1, steps, "loading");
    let filling = filling::run(sizes.vnodes)?;
    let health = monitor.report();
    let compiled = Environment::here().bpf.starts_with("compiled");
    Ok(Outcome {
        sizes: *sizes,
        verdicts: verdicts(&by_vnodes, &by_feature, &health, compiled),
        by_vnodes,
        by_feature,
        filling,
        health,
    })
}

fn empty(vnodes: u32) -> Variant {
    Variant {
        program: "empty",
        feature: "empty",
        vnodes,
        loaded: None,
    }
}

fn load(
    feature: usize,
    vnodes: u32,
    programs: &[&'static str],
) -> Result<Vec<Variant>, BenchError> {
    let Some((name, pipe, group, link)) = FEATURES.get(feature) else {
        return Ok(Vec::new());
    };
    let comma = |text: &str| if text.is_empty() { "" } else { ", " }.to_owned() + text;
    let (pipe, group) = (comma(pipe), comma(group));
    let nodes = vnodes.max(2);
    let mut text = format!(
        "version: 1\ngroups: {{a: {{prefix: 10.2.0.0/15, nodes: {nodes}, latency: 20ms, \
         up: {{{LINE}{pipe}}}, down: {{{LINE}{pipe}}}{group}}}}}\n"
    );
    if !link.is_empty() {
        text += &format!("latencies: [{{between: [a, a], {link}}}]\n");
    }
    let topology =
        topology::parse(&text, "bench").map_err(|e| SessionError::Topology(Box::new(e)))?;
    let plan = Plan::new(&topology, None).map_err(SessionError::Plan)?;
    // Packets of a test run have no socket, and are shaped at once.
    let loaded = bpf::load_with(&plan, false).map_err(|e| SessionError::Bpf(Box::new(e)))?;
    let loaded = std::rc::Rc::new(loaded);
    let variant = |program: &&'static str| Variant {
        program,
        feature: name,
        vnodes,
        loaded: Some(std::rc::Rc::clone(&loaded)),
    };
    Ok(programs.iter().map(variant).collect())
}

/// Measures all variants interleaved, so that background load affects all variants alike.
fn interleaved(
    variants: &[Variant],
    sizes: &Sizes,
    monitor: &mut Monitor,
) -> Result<Vec<PacketRow>, BenchError> {
    let nothing = run::empty_classifier().map_err(BenchError::system("load a BPF program"))?;
    let mut seen: Vec<[Vec<f64>; 2]> = vec![Default::default(); variants.len()];
    for turn in 0..sizes.turns {
        for (variant, [repeated, random]) in variants.iter().zip(&mut seen) {
            let fd = match &variant.loaded {
                Some(loaded) => loaded
                    .fd(variant.program)
                    .map_err(|e| SessionError::Bpf(Box::new(e)))?,
                None => nothing.as_fd(),
            };
            let test = |frame: &[u8], repeat| {
                run::test_run(fd, frame, repeat).map_err(BenchError::system("run a BPF program"))
            };
            let mut draws = Draws(u64::from(turn) + 1);
            let nodes = variant.vnodes.max(2);
            let frame = draws.frame(nodes);
            repeated.push(f64::from(test(&frame, sizes.repeat)?));
            let mut times = Vec::with_capacity(sizes.packets as usize);
            for _ in 0..sizes.packets {
                times.push(f64::from(test(&draws.frame(nodes), 1)?));
            }
            random.push(MedianCi::of(times).map_or(f64::NAN, |s| s.median));
        }
        monitor.sample();
    }
    let row = |(variant, [repeated, random]): (&Variant, [Vec<f64>; 2])| {
        Some(PacketRow {
            program: variant.program,
            feature: variant.feature,
            vnodes: variant.vnodes,
            repeated_ns: MedianCi::of(repeated)?,
            random_ns: MedianCi::of(random)?,
        })
    };
    Ok(variants.iter().zip(seen).filter_map(row).collect())
}

/// Random pairs of vnodes (xorshift64): the same pairs for all variants of a round.
struct Draws(u64);

impl Draws {
    fn next(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(below)) as u32
    }

    /// A UDP packet of 100 bytes between two random vnodes.
    fn frame(&mut self, nodes: u32) -> Vec<u8> {
        let from = self.next(nodes);
        let to = (from + 1 + self.next(nodes - 1)) % nodes;
        let mut frame = vec![0u8; 114];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&100u16.to_be_bytes());
        frame[22..24].copy_from_slice(&[64, 17]);
        for (at, vnode) in [(26, from), (30, to)] {
            frame[at..at + 4].copy_from_slice(&Ipv4Addr::from(FIRST + vnode).octets());
        }
        // Ports and length of the UDP header.
        frame[34..40].copy_from_slice(&[15, 160, 15, 161, 0, 80]);
        frame
    }
}

fn verdicts(
    by_vnodes: &[PacketRow],
    by_feature: &[PacketRow],
    health: &Health,
    compiled: bool,
) -> Vec<(Verdict, String)> {
    let mut verdicts = Vec::new();
    let mut say = |ratio: f64, bound: f64, text: String| {
        verdicts.push(if ratio <= bound {
            (Verdict::Holds, text)
        } else if health.stolen > STOLEN {
            let share = health.stolen * 100.0;
            let why = format!("but other machines took {share:.0} % of the processors");
            (Verdict::Undecided, format!("{text}, {why}"))
        } else {
            (Verdict::Fails, text)
        });
    };
    let mut plain = by_vnodes
        .iter()
        .filter(|r| r.program == PROG_EGRESS && r.feature == FEATURES[0].0);
    if let (Some(one), Some(most)) = (plain.next(), plain.next_back()) {
        let ratio = most.random_ns.median / one.random_ns.median;
        say(
            ratio,
            GROWTH,
            format!(
                "a packet at random costs {ratio:.2} times as much with {} vnodes as with one: {:.0} and {:.0} ns",
                most.vnodes, most.random_ns.median, one.random_ns.median
            ),
        );
    }
    let feature = |name| by_feature.iter().find(|r| r.feature == name);
    if let (Some(plain), Some(all)) = (feature(FEATURES[0].0), feature("everything")) {
        let ratio = all.repeated_ns.median / plain.repeated_ns.median;
        // The interpreter spends about the same time on every instruction.
        let bound = if compiled { EVERYTHING } else { 5.0 };
        say(
            ratio,
            bound,
            format!("everything on costs {ratio:.2} times the plain pipe (repeated packet)"),
        );
    }
    verdicts
}
