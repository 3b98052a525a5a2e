//! Experiments over several hosts under a real Slurm: a controller and nodes, each in
//! network and host-name namespaces of its own, joined by a bridge. `cargo xtask
//! test-slurm` runs them in the VM.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "what a test measured")]

mod cluster;
mod experiment;
mod loss;
mod same;
mod ways;

use cluster::with_cluster;

#[test]
fn every_node_runs_its_task() {
    with_cluster("every_node_runs_its_task", 4, |cluster| {
        let addresses = "$(ip -br -4 addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 3)";
        let command = &format!("echo $(hostname) $SLURM_NODEID $SLURM_NNODES {addresses}");
        let said = cluster.run_on_all(&["sh", "-c", command]);
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        let expected: Vec<String> = (0..4)
            .map(|node| format!("h{node} {node} 4 192.0.2.{}/24", node + 1))
            .collect();
        assert_eq!(lines, expected);
    });
}
