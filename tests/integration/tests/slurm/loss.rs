//! Nodes that are lost during a run, and runs that are aborted.
use std::time::Duration;

use integration::command::run;
use serde_json::Value;

use crate::{
    cluster::{Cluster, with_cluster},
    experiment::{Shared, output_text, start, until},
};

/// An experiment whose process can be found by its name on every node; it ends by itself
/// after a while on nodes that survive.
const EXPERIMENT: &str = "name: loss
topology: topology.yaml
seed: 7
duration: 120s
programs:
  - {name: sleeper, on: clients, run: [sleep, '3333'], for: FORs}
";
const NODES: usize = 4;
/// Options of `srun` by which Slurm leaves the reaction to a lost node to emu.
const ALONE: &str = "-N4 --no-kill --kill-on-bad-exit=0";
/// Timeout that is long enough for a loaded machine and detects a hang.
const JOB_TIMEOUT: Duration = Duration::from_secs(90);

fn shared(lasts_s: u32) -> Shared {
    Shared::new(&EXPERIMENT.replace("FOR", &lasts_s.to_string()))
}

/// Waits until all nodes run their programs.
fn wait_running(cluster: &Cluster) {
    let running = || (0..NODES).all(|node| cluster.named(node, "sleep 3333").len() == 2);
    until("every node runs its two clients", JOB_TIMEOUT, running);
}

/// Whether a node has no program, no emu and no emulated network left.
fn is_clean(cluster: &Cluster, node: usize) -> bool {
    let qdiscs = cluster.on(node, || run("tc qdisc show dev eth0"));
    cluster.named(node, "sleep 3333").is_empty()
        && cluster.named(node, "emu run").is_empty()
        && cluster.named(node, "run-guardian").is_empty()
        && !qdiscs.contains("clsact")
}

fn names(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect()
}

#[test]
fn a_node_without_power_ends_the_run() {
    with_cluster("a_node_without_power_ends_the_run", NODES, |cluster| {
        let shared = shared(100);
        let srun = start(shared.srun(cluster, ALONE, "out", "--lost-after 3s"));
        wait_running(cluster);
        cluster.power_off(2);
        let living = [0, 1, 3];
        let seen = until("the other nodes stop", JOB_TIMEOUT, || {
            living.iter().all(|node| is_clean(cluster, *node))
        });
        println!(
            "the other nodes had stopped after {:.1} s",
            seen.as_secs_f64()
        );
        let merged = summary(&shared);
        assert_eq!(names(&merged["lost"]), ["h2"], "{merged}");
        assert_eq!(
            (&merged["ended"], &merged["unknown"]),
            (&"elsewhere".into(), &2.into())
        );
        let warnings = names(&merged["warnings"]).join("\n");
        assert!(
            warnings.contains("h2 was lost; last heartbeat"),
            "{warnings}"
        );
        assert!(
            warnings.contains("h0: h2 missed its heartbeats"),
            "{warnings}"
        );
        end(cluster, srun);
    });
}

#[test]
fn a_node_without_power_is_marked() {
    with_cluster("a_node_without_power_is_marked", NODES, |cluster| {
        let shared = shared(20);
        let more = "--lost-after 3s --on-node-failure mark";
        let srun = start(shared.srun(cluster, ALONE, "out", more));
        wait_running(cluster);
        cluster.power_off(2);
        until("the run ends", JOB_TIMEOUT, || {
            [0, 1, 3].iter().all(|node| is_clean(cluster, *node))
        });
        let merged = summary(&shared);
        assert_eq!(names(&merged["lost"]), ["h2"], "{merged}");
        assert_eq!(
            (&merged["ended"], &merged["unknown"]),
            (&"complete".into(), &2.into())
        );
        // The programs on the other nodes ran to completion.
        assert_eq!((&merged["done"], &merged["failed"]), (&6.into(), &0.into()));
        for row in shared.table("out/processes.csv") {
            let lasted =
                row["stop_s"].parse::<f64>().unwrap() - row["start_s"].parse::<f64>().unwrap();
            assert!(lasted > 19.0, "{row:?}");
        }
        end(cluster, srun);
    });
}

/// Without its daemon a node is lost to Slurm, which then ends the job. emu on that node
/// learns this from the other nodes, and leaves no residue.
#[test]
fn a_node_without_slurmd_leaves_nothing() {
    with_cluster("a_node_without_slurmd_leaves_nothing", NODES, |cluster| {
        let shared = shared(100);
        let srun = start(shared.srun(cluster, "-N4", "out", ""));
        wait_running(cluster);
        cluster.kill_slurmd(1);
        let seen = until("all nodes stop", JOB_TIMEOUT, || {
            (0..NODES).all(|node| is_clean(cluster, node))
        });
        println!("all nodes had stopped after {:.1} s", seen.as_secs_f64());
        let merged = summary(&shared);
        assert_eq!(names(&merged["lost"]).len(), 0, "{merged}");
        assert_eq!(merged["ended"], "interrupted");
        end(cluster, srun);
    });
}

/// emu is killed by SIGKILL on one node, where Slurm keeps running.
#[test]
fn a_kill_on_one_node_leaves_no_orphans() {
    with_cluster("a_kill_on_one_node_leaves_no_orphans", NODES, |cluster| {
        let shared = shared(100);
        let srun = start(shared.srun(
            cluster,
            "-N4 --kill-on-bad-exit=1",
            "out",
            "--lost-after 3s",
        ));
        wait_running(cluster);
        for process in cluster.named(3, "emu run ") {
            cluster.kill(&process);
        }
        let seen = until("all nodes stop", JOB_TIMEOUT, || {
            (0..NODES).all(|node| is_clean(cluster, node))
        });
        println!("all nodes had stopped after {:.1} s", seen.as_secs_f64());
        let output = srun.wait_with_output().unwrap();
        assert!(!output.status.success(), "{}", output_text(&output));
        let merged = summary(&shared);
        assert_eq!(names(&merged["lost"]), ["h3"], "{merged}");
    });
}

/// The merged summary of the first node, which may still be writing it.
fn summary(shared: &Shared) -> Value {
    let path = shared.path("out/summary.json");
    until("the results are merged", JOB_TIMEOUT, || path.exists());
    shared.json("out/summary.json")
}

/// Cancels the job, which would wait for a node that does not answer any more.
fn end(cluster: &Cluster, mut srun: std::process::Child) {
    let ended = |srun: &mut std::process::Child| srun.try_wait().unwrap().is_some();
    if !ended(&mut srun) {
        cluster.output("scancel", &["--user=root"]);
        let _ = srun.kill();
        let _ = srun.wait();
    }
}
