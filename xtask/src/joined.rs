//! Peers over two VMs that are the hosts of one network: a step of `cargo xtask test`.
use std::{fs, path::Path};

use anyhow::Context;
use serde_json::Value;

use crate::{
    suite,
    tally::Tally,
    vm::{self, Request, Workspace, hosts, virtual_time::VirtualTime},
};

/// Nodes of a DHT, each of which finds a value of an earlier one, by UDP; and BitTorrent
/// clients, each of which downloads a file, by TCP.
const BENCHES: [&str; 2] = [
    "bench scale --peers 20 --settle 12s",
    "bench scale --peer bittorrent --peers 6 --settle 90s",
];
/// Largest error of a round trip, in milliseconds, whether between vnodes of one VM or of two:
/// what entries into the kernel add, and the segment's latency must not.
const MOST_ERROR_MS: f64 = 0.05;
/// VMs.
const HOSTS: usize = 2;

/// Runs them and holds what came of it against what should have.
pub fn run(object: &Path, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let emu = suite::measurements(object)?;
    let mut tally = Tally::default();
    for bench in BENCHES {
        let outcome = once(&emu, bench).with_context(|| bench)?;
        judge(bench, &outcome, &mut tally, &print);
    }
    Ok(tally)
}

fn once(emu: &[String], bench: &str) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().display().to_string();
    let status = hosts::run(&Workspace, &vm::quick_kernel(), HOSTS, |rank| {
        let words = format!("{bench} --rank {rank} --size {HOSTS} --out {out}");
        let words = words.split(' ').map(str::to_owned);
        Request {
            name: Some(hosts::name(rank)),
            clock: Some(VirtualTime::default()),
            ..Request::new(emu.iter().cloned().chain(words).collect())
        }
    })?;
    let text = fs::read(folder.path().join("bench-scale.json"));
    let text = text.with_context(|| format!("no results; the VMs ended with {status}"))?;
    Ok(serde_json::from_slice(&text)?)
}

fn judge(bench: &str, outcome: &Value, tally: &mut Tally, print: impl Fn(&str)) {
    let number = |key: &str| outcome[key].as_u64().unwrap_or(0);
    let (right, judged) = (number("right"), number("judged"));
    print(&format!(
        "{bench}: {right} of {judged} peers on {} hosts have what they wanted; round trip {:+.2} ms off",
        outcome["hosts"],
        outcome["error_running_ms"].as_f64().unwrap_or(f64::NAN)
    ));
    let is_exact = ["error_idle_ms", "error_running_ms"].iter().all(|key| {
        outcome[key]
            .as_f64()
            .is_some_and(|ms| ms.abs() <= MOST_ERROR_MS)
    });
    let all_right = number("failed") == 0 && right == judged && judged > 0;
    if outcome["hosts"] == HOSTS && all_right && is_exact {
        tally.passed += 1;
    } else {
        tally.failed += 1;
        tally
            .failures
            .push(format!("{bench} over {HOSTS} VMs: {outcome}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Tally, judge};

    #[test]
    fn only_all_peers_on_all_hosts_pass() {
        let judged = |hosts, right, error_ms| {
            let outcome = json!({
                "hosts": hosts, "right": right, "judged": 19, "failed": 0,
                "error_idle_ms": 0.01, "error_running_ms": error_ms,
            });
            let mut tally = Tally::default();
            judge("bench", &outcome, &mut tally, |_| {});
            (tally.passed, tally.failed, tally.skipped)
        };
        assert_eq!(judged(2, 19, 0.01), (1, 0, 0));
        assert_eq!(judged(1, 19, 0.01), (0, 1, 0));
        assert_eq!(judged(2, 18, 0.01), (0, 1, 0));
        assert_eq!(judged(2, 19, -0.2), (0, 1, 0));
        let mut tally = Tally::default();
        judge("bench", &json!({}), &mut tally, |_| {});
        assert_eq!(tally.failed, 1);
    }
}
