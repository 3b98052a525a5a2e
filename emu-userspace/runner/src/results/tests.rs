//! Results as hosts write them.
use std::fs;

use super::*;
use crate::rendezvous::{ClusterState, Offset, Phase};

fn part(folder: &Path, host: &str, vnode: &str, times: &[f64]) -> HostResults {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("experiment.yaml", "name: x\n");
    write("topology.yaml", "version: 1\n");
    let plan = json!({"name": "x", "host": host, "seed": 7,
        "processes": [{"vnode": vnode, "program": "p"}]});
    write("plan.json", &plan.to_string());
    write("environment.json", "{\"kernel\": \"6.1\"}");
    let rows: String = times
        .iter()
        .map(|t| format!("{t},{vnode},{}\n", t * 100.0))
        .collect();
    write(
        "counters.csv",
        &format!("time_s,vnode,received_bytes\n{rows}"),
    );
    write(&format!("vnodes/{vnode}/p/stdout"), host);
    HostResults::read(Folder::open(folder).unwrap()).unwrap()
}

fn finish(part: &HostResults, started: f64, failed: u64, ended: &str) {
    let summary = json!({"name": "x", "topology": "t", "seed": 7, "ended": ended,
        "started_unix_s": started, "run_s": 10.0, "done": 1 - failed, "failed": failed,
        "traffic": {"sent_bytes": 50}, "failures": [], "warnings": ["slow"]});
    fs::write(part.folder.path().join("summary.json"), summary.to_string()).unwrap();
}

fn status(host: &str, rank: usize, phase: Phase, ahead_ns: i64) -> HostStatus {
    HostStatus {
        host: host.to_owned(),
        rank,
        size: 2,
        phase,
        written_unix_ns: 112_000_000_000,
        offset: Some(Offset {
            ahead_ns,
            round_trip_ns: 100,
        }),
        cluster: (rank == 0).then(|| ClusterState {
            start_unix_ns: Some(100_000_000_000),
            ..ClusterState::default()
        }),
        ..HostStatus::default()
    }
}

#[test]
fn rows_of_all_hosts_are_in_the_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    let a = part(
        &folder.path().join("a"),
        "h0",
        "10.0.0.1",
        &[0.0, 2.0, 10.0],
    );
    let b = part(&folder.path().join("b"), "h1", "10.0.0.2", &[0.0, 1.0, 9.5]);
    finish(&a, 100.001, 0, "complete");
    finish(&b, 102.004, 1, "duration");
    let statuses = [
        status("h0", 0, Phase::Done, 0),
        status("h1", 1, Phase::Done, 2_000_000_000),
    ];
    let out = folder.path().join("out");
    let place = Folder::make(&out).unwrap().0;
    let merged = merge(&[a.clone(), b.clone()], &statuses, &place, false).unwrap();
    let table = fs::read_to_string(out.join("counters.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines,
        [
            "host,time_s,vnode,received_bytes",
            "h0,0,10.0.0.1,0",
            "h1,0,10.0.0.2,0",
            "h1,1,10.0.0.2,100",
            "h0,2,10.0.0.1,200",
            "h1,9.5,10.0.0.2,950",
            "h0,10,10.0.0.1,1000",
        ]
    );
    // The clock was two seconds ahead, so the start was 3 ms late.
    assert!((merged.starts_apart_ms - 3.0).abs() < 0.1, "{merged:?}");
    assert_eq!((merged.done, merged.failed, merged.processes), (1, 1, 2));
    assert_eq!(merged.ended, "duration");
    assert_eq!(merged.traffic["sent_bytes"], 100);
    assert_eq!(merged.warnings, ["h0: slow", "h1: slow"]);
    assert!(!merged.is_good());
    let plan = read_json(&place, "plan.json").unwrap().unwrap();
    assert_eq!(plan["processes"][1]["host"], "h1");
    let said = |path: &str| fs::read_to_string(out.join(path)).unwrap();
    assert_eq!(said("vnodes/10.0.0.2/p/stdout"), "h1");
    assert!(b.folder.path().join("vnodes").exists());
    let page = said("report/report.html");
    assert!(
        page.contains("a run over 2 hosts") && page.contains("<svg"),
        "{page}"
    );
    // A second merge, which moves the files, has the same result.
    merge(&[a, b], &statuses, &place, true).unwrap();
    assert_eq!(said("counters.csv"), table);
}

#[test]
fn a_lost_host_is_named_with_what_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let a = part(&hosts.join("h0"), "h0", "10.0.0.1", &[0.0]);
    part(&hosts.join("h1"), "h1", "10.0.0.2", &[0.0, 1.0]);
    finish(&a, 100.0, 0, "complete");
    // The host died while it wrote a row.
    let path = hosts.join("h1/counters.csv");
    let text = fs::read_to_string(&path).unwrap() + "2,10.0.0.2,4";
    fs::write(path, text).unwrap();
    let meet = folder.path().join(rendezvous::FOLDER);
    fs::create_dir_all(&meet).unwrap();
    for (rank, status) in [
        status("h0", 0, Phase::Done, 0),
        status("h1", 1, Phase::Running, 500_000_000),
    ]
    .iter()
    .enumerate()
    {
        let meet = Folder::open(&meet).unwrap();
        write_json(&meet, &format!("{rank}.json"), status).unwrap();
    }
    let place = Folder::open(folder.path()).unwrap();
    let (parts, statuses) = shared(&place).unwrap();
    let merged = merge(&parts, &statuses, &place, true).unwrap();
    assert_eq!(merged.lost, ["h1"]);
    assert_eq!((merged.done, merged.unknown), (1, 1));
    assert_eq!(merged.hosts[1].last_heard_s, Some(11.5));
    assert!(
        merged.warnings[1].starts_with("h1 was lost; last heartbeat 11.5 s"),
        "{merged:?}"
    );
    let rows = fs::read_to_string(folder.path().join("counters.csv")).unwrap();
    assert_eq!(rows.lines().count(), 4);
    assert!(folder.path().join("vnodes/10.0.0.2/p/stdout").exists());
    assert!(!hosts.join("h0/vnodes").exists());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let a = part(&folder.path().join("a"), "h0", "10.0.0.1", &[0.0]);
    let b = part(&folder.path().join("b"), "h0", "10.0.0.2", &[0.0]);
    let out = Folder::make(&folder.path().join("out")).unwrap().0;
    let refused = |parts: &[HostResults]| merge(parts, &[], &out, false).unwrap_err().to_string();
    let twice = refused(&[a.clone(), b]);
    assert!(twice.ends_with("are both of host h0"), "{twice}");
    let c = part(&folder.path().join("c"), "h1", "10.0.0.2", &[0.0]);
    fs::write(c.folder.path().join("experiment.yaml"), "name: y\n").unwrap();
    let other = refused(&[a, c]);
    assert!(other.ends_with("experiment.yaml differs"), "{other}");
    let empty = HostResults::read(Folder::open(folder.path()).unwrap())
        .unwrap_err()
        .to_string();
    assert!(empty.contains("has no results"), "{empty}");
    assert!(matches!(shared(&out), Err(MergeError::Nothing(_))));
}

/// Fields that are not numbers have one order, whatever the order of the hosts.
#[test]
fn tables_of_no_numbers_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let part = part(folder.path(), "h0", "10.0.0.1", &[0.0]);
    let statuses = ["NaN", "x", "-NaN", "63", "0.5", "inf", ""];
    let rows: String = (0..1000)
        .map(|i| {
            format!(
                "{},10.1.0.{},p\n",
                statuses[i * 31 % 7],
                statuses[i * 17 % 5]
            )
        })
        .collect();
    let text = format!("start_s,vnode,program\n{rows}");
    fs::write(folder.path().join("processes.csv"), text).unwrap();
    let out = Folder::make(&folder.path().join("out")).unwrap().0;
    merge(&[part], &[], &out, false).unwrap();
    let merged = fs::read_to_string(folder.path().join("out/processes.csv")).unwrap();
    assert_eq!(merged.lines().count(), 1001);
}

/// The number of hosts in another host's status does not decide how many files are read.
#[test]
fn a_status_that_claims_many_hosts_is_one_status() {
    let folder = tempfile::tempdir().unwrap();
    let meet = Folder::make(&folder.path().join(rendezvous::FOLDER))
        .unwrap()
        .0;
    let many = HostStatus {
        size: usize::MAX,
        ..status("h0", 0, Phase::Done, 0)
    };
    write_json(&meet, "0.json", &many).unwrap();
    write_json(&meet, "7.json", &many).unwrap();
    let shared = Folder::open(folder.path()).unwrap();
    let statuses = rendezvous::statuses(&shared);
    assert_eq!(
        statuses.len(),
        1,
        "a file of rank 7 says that it is of rank 0"
    );
}
