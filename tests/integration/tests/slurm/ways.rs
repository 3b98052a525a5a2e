//! Other ways to start a run over several hosts: the batch script, and one command per host
//! as ssh would start it.
use std::{path::PathBuf, process::Stdio, time::Duration};

use integration::command::emu_path;
use serde_json::Value;

use crate::{
    cluster::with_cluster,
    experiment::{Shared, output_text, until},
};

const EXPERIMENT: &str = "name: ways
topology: topology.yaml
duration: 60s
programs:
  - {name: sleeper, on: clients, run: [sleep, '3333'], for: 2s}
";
const JOB_TIMEOUT: Duration = Duration::from_secs(90);

fn assert_whole(merged: &Value) {
    assert_eq!(merged["ended"], "complete", "{merged}");
    assert_eq!((&merged["done"], &merged["failed"]), (&8.into(), &0.into()));
    assert_eq!(merged["hosts"].as_array().unwrap().len(), 2);
    let seeds = merged["hosts"].as_array().unwrap().iter();
    // The file sets no seed: all hosts use that of the first host.
    assert!(
        seeds
            .map(|h| &h["summary"]["seed"])
            .all(|s| *s == merged["seed"])
    );
}

#[test]
fn the_batch_script_and_plain_commands() {
    with_cluster("the_batch_script_and_plain_commands", 2, |cluster| {
        let shared = Shared::new(EXPERIMENT);
        let folder = shared.path("");
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let script = script.join("../../packaging/slurm/emu.sbatch");
        let mut sbatch = cluster.command("sbatch", &["--parsable", "--nodes=2"]);
        sbatch.arg("--chdir").arg(&folder).env("EMU", emu_path());
        let submitted = sbatch.arg(script).arg("experiment.yaml").output().unwrap();
        assert!(submitted.status.success(), "{}", output_text(&submitted));
        let job = String::from_utf8_lossy(&submitted.stdout).trim().to_owned();
        let result = format!("results-{job}/summary.json");
        until("the job's results", JOB_TIMEOUT, || {
            shared.path(&result).exists()
        });
        assert_whole(&shared.json(&result));
        let queue = || cluster.output("squeue", &["-h"]).trim().is_empty();
        until("the job ends", JOB_TIMEOUT, queue);

        // The equivalent of `ssh HOST emu run …` for each host.
        let hosts: Vec<_> = (0..2)
            .map(|rank: usize| {
                let mut emu = std::process::Command::new(emu_path());
                emu.arg("run").arg(shared.path("experiment.yaml"));
                emu.arg("--out").arg(shared.path("plain"));
                emu.args(["--size", "2", "--rank", &rank.to_string()]);
                emu.stdout(Stdio::piped()).stderr(Stdio::piped());
                cluster.on(rank, move || emu.spawn().unwrap())
            })
            .collect();
        for host in hosts {
            let output = host.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", output_text(&output));
        }
        assert_whole(&shared.json("plain/summary.json"));
        // Merging once more by hand gives the same result.
        let merged = integration::command::emu_json(&format!(
            "results merge {}",
            shared.path("plain").display()
        ));
        assert_whole(&merged);
        assert_eq!(shared.table("plain/processes.csv").len(), 8);
    });
}
