//! Changes of small topologies, made to copies of the maps.
use super::*;
use crate::plan::{Entries, MapCapacity};
use crate::topology::parse;

fn plan(text: &str) -> Plan {
    let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
    let mut plan = Plan::new(&topology, None).unwrap_or_else(|e| panic!("{e}"));
    if !plan.has_seed {
        plan.seed = 7;
    }
    plan
}

/// A system in memory.
struct System {
    plan: Plan,
    slots: Vec<u32>,
    features: u32,
    corrupts: bool,
    current: Current,
}

impl System {
    fn load(text: &str) -> Self {
        let plan = plan(text);
        let entries = Entries::of(&plan);
        let room = MapCapacity::of(&plan, &entries);
        let mut current = Current {
            pipes: entries.pipes,
            stages: entries.stages,
            links: entries.links,
            ring_slots: room.ring,
        };
        current
            .pipes
            .resize(room.slots as usize * 2, Pipe::default());
        current
            .stages
            .resize(room.stages as usize, ImpairmentState::default());
        Self {
            slots: (0..plan.vnodes.len() as u32).collect(),
            features: plan.features(),
            corrupts: plan.corrupts(),
            plan,
            current,
        }
    }

    fn diff(&self, text: &str) -> Result<PlanDiff, ReloadReason> {
        let loaded = Loaded {
            plan: &self.plan,
            slots: &self.slots,
            features: self.features,
            corrupts: self.corrupts,
        };
        PlanDiff::between(&loaded, &self.current, &plan(text))
    }

    fn reload(&mut self, text: &str) -> PlanDiff {
        let diff = self.diff(text).unwrap_or_else(|e| panic!("{e}"));
        for stage in &diff.stages {
            self.current.stages[stage.index as usize] = stage.value;
        }
        for pipe in &diff.pipes {
            self.current.pipes[pipe.index as usize] = pipe.value;
        }
        for link in &diff.links {
            self.current.links[link.index as usize] = link.value;
        }
        self.slots.clone_from(&diff.slots);
        self.plan = plan(text);
        self.check();
        diff
    }

    fn pipe(&self, vnode: usize, direction: Direction) -> &Pipe {
        &self.current.pipes[self.slots[vnode] as usize * 2 + direction as usize]
    }

    /// Checks that every pipe and link has the settings of the plan, and that no two share an
    /// entry.
    fn check(&self) {
        let mut rings = Vec::new();
        let mut stages = BTreeSet::new();
        let slots: BTreeSet<u32> = self.slots.iter().copied().collect();
        assert_eq!(slots.len(), self.plan.vnodes.len());
        for vnode in 0..self.plan.vnodes.len() {
            for direction in [Direction::Up, Direction::Down] {
                let pipe = *self.pipe(vnode, direction);
                let (wanted, stage) = self.plan.line(vnode, direction);
                let same = Pipe {
                    ring_base: 0,
                    stage: 0,
                    generation: 0,
                    flags: pipe.flags & !pipe_flag::DOWN,
                    ..pipe_settings(&pipe)
                };
                assert_eq!(same, wanted);
                assert_eq!(
                    stage_at(&self.current.stages, pipe.stage),
                    stage.unwrap_or_default()
                );
                assert!(pipe.stage == 0 || stages.insert(pipe.stage));
                rings.push((pipe.ring_base, pipe.limit_packets));
            }
        }
        let ways: Vec<_> = self.plan.pair_ways().collect();
        let mut seen = BTreeSet::new();
        for (link, way) in self.current.links.iter().zip(ways) {
            let stage = link.stage & !PairLink::CUT;
            let Some(way) = way else {
                assert_eq!((link.latency_ns, stage, link.pipe), (0, 0, 0));
                continue;
            };
            let wanted = self.plan.way(way);
            assert_eq!(link.latency_ns, wanted.latency_ns);
            assert_eq!(
                stage_at(&self.current.stages, stage),
                wanted.stage.unwrap_or_default()
            );
            assert_eq!(link.pipe != 0, wanted.pipe.is_some());
            if link.pipe != 0 && seen.insert(way) {
                assert!(!slots.contains(&(link.pipe / 2)));
                let pipe = &self.current.pipes[link.pipe as usize];
                rings.push((pipe.ring_base, pipe.limit_packets));
            }
        }
        rings.retain(|(_, length)| *length > 0);
        rings.sort_unstable();
        assert!(
            rings.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0),
            "{rings:?}"
        );
        assert!(
            rings
                .last()
                .is_none_or(|(b, l)| b + l <= self.current.ring_slots)
        );
    }
}

const TWO: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 3, up: 1mbit, down: 2mbit, latency: 20ms}
  b: {prefix: 10.2.0.0/24, nodes: 2, up: 1mbit, latency: 5ms, loss: 1%}
latencies:
  - {between: [a, b], latency: 40ms}
";

#[test]
fn the_same_file_changes_nothing() {
    let system = System::load(TWO);
    system.check();
    assert!(system.diff(TWO).unwrap().is_empty());
}

#[test]
fn only_the_group_that_changed_is_touched() {
    let mut system = System::load(TWO);
    system.current.pipes[6].packets = 9;
    let diff = system.reload(&TWO.replace("up: 1mbit, down: 2mbit", "up: 3mbit, down: 2mbit"));
    let touched: Vec<u32> = diff.pipes.iter().map(|p| p.index).collect();
    assert_eq!(touched, [0, 2, 4]);
    assert!(diff.pipes.iter().all(|p| !p.is_new));
    assert!(diff.links.is_empty() && diff.stages.is_empty());
    assert_eq!(system.current.pipes[6].packets, 9);
}

#[test]
fn a_shorter_way_has_flows_of_its_own() {
    let mut system = System::load(TWO);
    let generations =
        |s: &System, d| -> Vec<u32> { (0..5).map(|v| s.pipe(v, d).generation).collect() };
    system.reload(&TWO.replace("latency: 20ms", "latency: 30ms"));
    assert_eq!(generations(&system, Direction::Up), [0; 5]);
    system.reload(&TWO.replace("latency: 20ms", "latency: 10ms"));
    assert_eq!(generations(&system, Direction::Up), [1, 1, 1, 0, 0]);
    assert_eq!(generations(&system, Direction::Down), [1, 1, 1, 0, 0]);
    // In one direction only: the pipes of its source.
    let one_way = TWO.replace(
        "{between: [a, b], latency: 40ms}",
        "{from: a, to: b, latency: 40ms}\n  - {from: b, to: a, latency: 30ms}",
    );
    let mut system = System::load(TWO);
    let diff = system.reload(&one_way);
    assert_eq!(generations(&system, Direction::Up), [0, 0, 0, 1, 1]);
    assert_eq!(generations(&system, Direction::Down), [0; 5]);
    assert_eq!(diff.links.len(), 1);
}

#[test]
fn what_was_cut_or_taken_down_by_hand_stays_so() {
    let mut system = System::load(TWO);
    system.current.links[1].stage |= PairLink::CUT;
    system.current.pipes[2].flags |= pipe_flag::DOWN;
    system.reload(&TWO.replace("40ms", "50ms").replace("3,", "4,"));
    assert_ne!(system.current.links[1].stage & PairLink::CUT, 0);
    assert_eq!(system.current.links[2].stage & PairLink::CUT, 0);
    assert_ne!(system.current.pipes[2].flags & pipe_flag::DOWN, 0);
}

#[test]
fn vnodes_come_and_go() {
    let mut system = System::load(TWO);
    let fewer = TWO.replace("nodes: 3", "nodes: 1");
    let diff = system.reload(&fewer);
    assert_eq!((diff.removed.len(), diff.added.len()), (2, 0));
    assert_eq!(system.slots, [0, 3, 4]);
    let more = TWO.replace("nodes: 3", "nodes: 9");
    let diff = system.reload(&more);
    assert_eq!((diff.removed.len(), diff.added.len()), (0, 8));
    // The pipes of the other vnodes were not touched.
    assert!(diff.pipes.iter().all(|p| p.is_new));
    let many = TWO.replace("nodes: 3", "nodes: 200");
    let why = system.diff(&many).unwrap_err().to_string();
    assert!(why.contains("vnodes exceed"), "{why}");
}

#[test]
fn what_needs_another_load_says_why() {
    let system = System::load(TWO);
    for (from, to, text) in [
        ("version: 1", "version: 1\nmtu: 1400", "MTU"),
        ("version: 1", "version: 1\naddressing: anyip", "addressing"),
        ("10.2.0.0/24", "10.3.0.0/24", "groups"),
        ("loss: 1%", "loss: 1%, corrupt: 1%", "feature"),
        ("latency: 40ms", "latency: 40ms, rate: 1mbit", "feature"),
        (
            "latency: 5ms",
            "latency: 5ms, queue: 99999 packets",
            "departure log",
        ),
    ] {
        let why = system.diff(&TWO.replace(from, to)).unwrap_err().to_string();
        assert!(why.contains(text), "{why}");
    }
}

const RICH: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 5, up: {rate: 1mbit, queue: 50 packets}, down: 2mbit, latency: 20ms}
  b: {prefix: 10.2.0.0/24, nodes: 4, up: 1mbit, latency: 5ms, loss: 1%}
  c: {prefix: 10.3.0.0/24, nodes: 2}
latencies:
  - {between: [a, b], latency: 40ms, rate: 10mbit, jitter: 1ms}
  - {between: [a, c], latency: 40ms, rate: 5mbit}
";

/// One change after the other, each of which allocates and frees entries.
#[test]
fn long_histories_end_where_the_file_says() {
    let mut system = System::load(RICH);
    system.check();
    let edits = [
        ("50 packets", "70 packets"),
        ("50 packets", "100 packets"),
        ("50 packets", "10KB"),
        ("nodes: 5", "nodes: 8"),
        ("loss: 1%", "jitter: 2ms"),
        (", loss: 1%", ""),
        (", rate: 10mbit, jitter: 1ms", ""),
        ("jitter: 1ms", "loss: {markov: {p13: 1%, p31: 20%}}"),
        ("  - {between: [a, c], latency: 40ms, rate: 5mbit}\n", ""),
        ("nodes: 2}", "nodes: 2, up: 1mbit, jitter: 3ms}"),
        ("nodes: 4", "nodes: 1"),
        ("version: 1", "version: 1\nseed: 99"),
    ];
    for round in 0..4 {
        for (i, edit) in edits.iter().enumerate() {
            let other = edits[(i * 5 + round * 3 + 1) % edits.len()];
            let mut text = RICH.replace(edit.0, edit.1);
            if other.0 != edit.0 {
                text = text.replace(other.0, other.1);
            }
            system.reload(&text);
        }
        system.reload(RICH);
        assert!(system.diff(RICH).unwrap().is_empty());
    }
}
