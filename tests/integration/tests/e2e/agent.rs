//! `emu agent`: it follows its file, survives kills, and reports its true state.
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use integration::{
    agent::Agent,
    command::{emu, emu_json, try_emu},
    netns::isolated,
    openmetrics::{Sample, Scrape},
    udp,
};

use crate::safety::snapshot;

/// The queues are long enough for the backlog of a sender that got no CPU for seconds.
const TOPOLOGY: &str = "
version: 1
name: NAME
seed: 7
profiles: {line: {up: 8mbit, down: 8mbit, queue: 10MB}}
groups:
  a: {prefix: 10.1.0.0/24, nodes: 20, profile: line, latency: LATENCY}
  b: {prefix: 10.2.0.0/24, nodes: 20, profile: line, latency: 5ms}
latencies:
  - {between: [a, b], latency: 20ms}
";

pub fn text(name: &str, latency: &str) -> String {
    TOPOLOGY.replace("NAME", name).replace("LATENCY", latency)
}

/// A folder with the symbolic links that the kubelet creates for a ConfigMap.
struct ConfigMap {
    folder: tempfile::TempDir,
    version: u32,
}

impl ConfigMap {
    fn new(text: &str) -> Self {
        // On a file system of the guest kernel: the VM's view of the host's has no inotify
        // events.
        let folder = tempfile::tempdir_in("/run").unwrap();
        let mut map = Self { folder, version: 0 };
        map.put(text);
        symlink("..data/topology.yaml", map.file()).unwrap();
        map
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("topology.yaml")
    }

    /// Replaces the contents atomically, and removes the old ones.
    fn put(&mut self, text: &str) {
        self.version += 1;
        let at = |name: &str| self.folder.path().join(name);
        let (now, old) = (
            format!("..{}", self.version),
            format!("..{}", self.version - 1),
        );
        fs::create_dir(at(&now)).unwrap();
        fs::write(at(&now).join("topology.yaml"), text).unwrap();
        symlink(&now, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let _ = fs::remove_dir_all(at(&old));
    }
}

/// Checks that the parser of Prometheus' own client accepts a scrape, if Debian's package
/// of that client is installed.
fn prometheus_takes(scrape: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scrape");
    fs::write(&file, scrape).unwrap();
    let program = "import sys
try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
except ImportError:
    sys.exit(42)
print(sum(len(f.samples) for f in parse(open(sys.argv[1]).read())))";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", program])
        .arg(&file)
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() != Some(42) => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        _ => println!("SKIPPED the parser of Prometheus' client: no python3-prometheus-client"),
    }
}

/// Collects all strings below these keys of a JSON tree.
fn strings<'a>(value: &'a serde_json::Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => strings(value, keys, found),
                }
            }
        }
        serde_json::Value::Array(list) => {
            list.iter().for_each(|value| strings(value, keys, found));
        }
        _ => {}
    }
}

/// Checks that a scrape has every metric and label that the dashboard queries.
fn dashboard_finds(scrape: &Scrape) {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../packaging/grafana/emu.json"
    );
    let dashboard: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut queries = Vec::new();
    strings(&dashboard, &["expr", "query"], &mut queries);
    queries.retain(|query| query.contains("emu_"));
    assert!(queries.len() > 8, "{queries:?}");
    for query in queries {
        let names = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let metrics: Vec<&str> = names.filter(|name| name.starts_with("emu_")).collect();
        for metric in &metrics {
            let kinds = [("_total", "counter"), ("_bucket", "histogram")];
            let found = kinds
                .iter()
                .find_map(|(suffix, kind)| Some((metric.strip_suffix(suffix)?, *kind)));
            let (family, right) = found.unwrap_or((metric, "gauge"));
            let kind = scrape.types.get(family).map(String::as_str);
            assert_eq!(kind, Some(right), "{query}");
        }
        let by = query
            .split_once("by (")
            .and_then(|(_, rest)| rest.split_once(')'));
        for label in by.map_or("", |(labels, _)| labels).split(", ") {
            let has = |s: &integration::openmetrics::Sample| {
                metrics.contains(&s.name.as_str()) && s.labels.contains_key(label)
            };
            // The label `instance` is added by Prometheus.
            let known = ["", "instance"].contains(&label) || scrape.samples.iter().any(has);
            assert!(known, "{label} of {query}");
        }
    }
}

/// Checks that a histogram's buckets are cumulative and that the last equals the count;
/// returns the sum and the count.
fn histogram(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> (f64, f64) {
    let is_ours = |s: &&Sample| {
        s.name == format!("{name}_bucket")
            && labels.iter().all(|(key, value)| s.labels[*key] == *value)
    };
    let le = |s: &Sample| match s.labels["le"].as_str() {
        "+Inf" => f64::INFINITY,
        bound => bound.parse().unwrap(),
    };
    let buckets: Vec<&Sample> = scrape.samples.iter().filter(is_ours).collect();
    assert!(buckets.len() > 10, "{buckets:?}");
    assert!(
        buckets
            .windows(2)
            .all(|w| le(w[0]) < le(w[1]) && w[0].value <= w[1].value),
        "{buckets:?}"
    );
    let last = buckets[buckets.len() - 1];
    let count = scrape.sum(&format!("{name}_count"), labels);
    assert_eq!((le(last), last.value), (f64::INFINITY, count));
    (scrape.sum(&format!("{name}_sum"), labels), count)
}

#[test]
fn the_agent_follows_its_file_and_reports_it() {
    isolated(|| {
        let before = snapshot();
        let mut map = ConfigMap::new(&text("one", "10ms"));
        let file = map.file().display().to_string();
        let agent = Agent::start(&format!("{file} --per-vnode --interval 60s"), 9750);
        assert_eq!(agent.wait_good()["topology"], "one");
        assert_eq!(agent.health(), 200);

        // A valid new version is loaded in place, an invalid one is not loaded at all.
        map.put(&text("two", "30ms"));
        agent.wait("the second version", |_, value| value["topology"] == "two");
        map.put("version: 1\ngroups: {}\nfoo: 1\n");
        let bad = agent.wait("the report of a bad file", |code, value| {
            code == 200 && !value["problem"].is_null()
        });
        assert_eq!(bad["topology"], "two");
        assert!(
            bad["problem"]
                .as_str()
                .unwrap()
                .contains("unknown key `foo`"),
            "{bad}"
        );

        let (a, b) = (udp::socket("10.1.0.1"), udp::socket("10.2.0.1"));
        for tag in 0..50 {
            udp::send(&a, "10.2.0.1", tag, 1_000).unwrap();
        }
        assert_eq!(udp::receive(&b, 50, Duration::from_secs(3)).len(), 50);
        let (scrape, body) = agent.scrape();
        prometheus_takes(&body);
        dashboard_finds(&scrape);
        let total = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels);
        let up = [("group", "a"), ("direction", "up")];
        let status = &emu_json("status")["groups"][0]["up"];
        assert_eq!(total("emu_packets_total", &up), 50.0);
        assert_eq!(status["packets"], 50);
        assert_eq!(total("emu_bytes_total", &up), 50.0 * 1_028.0);
        // Each datagram takes 1.028 ms and, in a burst, waits for all before it.
        let (sum_s, count) = histogram(&scrape, "emu_queue_delay_seconds", &up);
        assert_eq!(count, 50.0);
        assert!((0.0514..=1.3108).contains(&sum_s), "{sum_s} s");
        let delay = &emu_json("status")["groups"][0]["up_queue_delay"];
        assert_eq!(delay["packets"], 50);
        let p99 = delay["p99_ns"].as_f64().unwrap();
        assert!((1e6..=67.2e6).contains(&p99), "{delay}");
        assert_eq!(
            total("emu_vnode_packets_total", &[("vnode", "10.2.0.1")]),
            50.0
        );
        assert_eq!(total("emu_agent_in_sync", &[]), 0.0);
        let reloads = |result| total("emu_agent_reloads_total", &[("result", result)]);
        let counts = ["anew", "in_place", "bad_file", "failed"].map(reloads);
        assert_eq!(counts, [1.0, 1.0, 1.0, 0.0], "{}", agent.log());
        assert_eq!(total("emu_fq_drops_total", &[]), 0.0);
        let late_s = total("emu_fq_lateness_seconds", &[("interface", "emu-ifb0")]);
        assert!(late_s > 0.0, "fq is never exactly in time: {body}");

        // The file is valid again and equals the loaded state; then a removed part is
        // restored.
        map.put(&text("two", "30ms"));
        agent.wait_good();
        assert_eq!(agent.scrape().0.sum("emu_agent_in_sync", &[]), 1.0);
        assert_eq!(agent.terminate(), Some(0));
        assert_eq!(emu_json("status")["ok"], true);
        integration::command::run("tc qdisc del dev lo clsact");
        let agent = Agent::start(&format!("{file} --on-exit unload --interval 1s"), 9750);
        agent.wait_good();
        assert_eq!(emu_json("status")["ok"], true);
        assert_eq!(agent.terminate(), Some(0));
        assert_eq!(snapshot(), before);
    });
}

/// Sends from one vnode to another while `meanwhile` runs; returns the number of sent
/// datagrams and the delays of those that arrived.
fn traffic(meanwhile: impl FnOnce()) -> (u32, Vec<f64>) {
    let (a, b) = (udp::socket("10.1.0.1"), udp::socket("10.2.0.1"));
    let send = |tag| udp::send(&a, "10.2.0.1", tag, 200).unwrap();
    let sent = udp::send_while(Duration::from_millis(4), send, meanwhile);
    let arrivals = udp::receive(&b, sent as usize + 1, Duration::from_secs(2));
    (sent, arrivals.iter().map(udp::Arrival::delay_ms).collect())
}

fn least(delays_ms: &[f64]) -> f64 {
    delays_ms.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Number of times that the agent is killed; `EMU_KILLS=100` for the long form.
fn kills() -> u64 {
    let given = std::env::var("EMU_KILLS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// SIGKILL at moments spread over all phases of an agent, while the file changes: every
/// packet is shaped, no packet is lost, and in the end the network is as the file says.
#[test]
fn killed_again_and_again() {
    isolated(|| {
        let mut map = ConfigMap::new(&text("start", "10ms"));
        let file = map.file().display().to_string();
        Agent::start(&file, 9750).wait_good();
        let pins = emu_json("status")["pins"].as_str().unwrap().to_owned();
        let state = Path::new(&pins).file_name().unwrap();
        let mark = Path::new("/run/emu").join(state).join("changing");
        let (mut interrupted, mut log) = (0, String::new());
        let (sent, delays) = traffic(|| {
            for round in 0..kills() {
                let agent = Agent::start(&file, 9750);
                // Some agents die before they have read the file, some after they are
                // ready.
                thread::sleep(Duration::from_millis(round * 37 % 190));
                let latency = [10, 25, 40][round as usize % 3];
                map.put(&text(&format!("round-{round}"), &format!("{latency}ms")));
                thread::sleep(Duration::from_millis(50 + round * 13 % 60));
                log += &agent.kill();
                interrupted += u32::from(mark.exists());
            }
            let agent = Agent::start(&file, 9750);
            let last = format!("round-{}", kills() - 1);
            agent.wait("the state of the file", |_, value| {
                value["topology"] == last.as_str()
            });
        });
        println!(
            "{} kills: {sent} packets sent, {} arrived; {interrupted} kills in the middle of a change",
            kills(),
            delays.len()
        );
        let reasons = &emu_json("status")["reasons"];
        assert_eq!(delays.len(), sent as usize, "{reasons}\n{log}");
        // The smallest latency of any version is 10 + 20 + 5 ms.
        let quickest = least(&delays);
        assert!(quickest >= 35.0, "a packet passed after {quickest} ms");
        let status = emu_json("status");
        assert_eq!(status["ok"], true, "{status}");
        let latency = [10.0, 25.0, 40.0][(kills() as usize - 1) % 3];
        let (_, delays) = traffic(|| thread::sleep(Duration::from_millis(300)));
        // The minimum is compared: background load makes packets late, never early.
        let more = least(&delays) - latency - 25.0;
        assert!(
            (0.0..10.0).contains(&more),
            "{more} ms more than the file asks"
        );
        emu("unload");
    });
}

/// Each event runs once and on time, even if the agent is killed between events; the next
/// agent catches up on the events that were due in between.
#[test]
fn events_go_on_with_another_agent() {
    isolated(|| {
        let events = "events:
  - {at: 500ms, set: {group: a, latency: 50ms}}
  - {at: 1s, down: 10.1.0.9}
  - {at: 3s, set: {group: b, latency: 60ms}}
  - {at: 3500ms, up: 10.1.0.9}
  - {at: 8s, set: {between: [a, b], latency: 70ms}}
";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.yaml");
        fs::write(&file, text("timed", "10ms") + events).unwrap();
        let file = file.display().to_string();
        let begin = Instant::now();
        let agent = Agent::start(&format!("{file} --start-at now"), 9750);
        agent.wait_good();
        let done = |agent: &Agent| agent.scrape().0.sum("emu_agent_events_total", &[]);
        while done(&agent) < 2.0 {
            thread::sleep(Duration::from_millis(50));
        }
        let start = agent.wait_good()["events_start_unix_s"].clone();
        assert_eq!(emu_json("status")["down"], serde_json::json!(["10.1.0.9"]));
        agent.kill();
        thread::sleep(Duration::from_secs(5).saturating_sub(begin.elapsed()));
        let agent = Agent::start(&format!("{file} --start-at now --log-format json"), 9750);
        agent.wait("events on time again", |_, value| {
            value["events_start_unix_s"] == start
        });
        while done(&agent) < 2.0 {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(emu_json("status")["down"], serde_json::json!([]));
        while done(&agent) < 3.0 {
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(
            agent
                .scrape()
                .0
                .sum("emu_agent_events_total", &[("result", "done")]),
            3.0
        );
        for line in agent.log().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(
                line["level"].is_string() && line["message"].is_string(),
                "{line}"
            );
        }
        let (_, delays) = traffic(|| thread::sleep(Duration::from_millis(500)));
        let more = least(&delays) - (50.0 + 70.0 + 60.0);
        assert!(
            (0.0..10.0).contains(&more),
            "{more} ms more than the events ask"
        );
        drop(agent);
        emu("unload");
    });
}

/// The capabilities of the systemd unit suffice to load and unload.
#[test]
fn few_capabilities_are_enough() {
    if !Path::new("/usr/bin/setpriv").exists() {
        println!("SKIPPED: no setpriv");
        return;
    }
    isolated(|| {
        let before = snapshot();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.yaml");
        fs::write(&file, text("few", "10ms")).unwrap();
        let emu_path = integration::command::emu_path();
        let few = "+net_admin,+bpf,+perfmon,-sys_admin";
        let with = |arguments: &str| {
            integration::command::run(&format!(
                "setpriv --bounding-set -all,{few} --inh-caps -all,{few} {} {arguments}",
                emu_path.display()
            ))
        };
        // An agent runs where the BPF file system is mounted.
        emu(&format!("load {} --no-verify", file.display()));
        emu("unload");
        with(&format!("load {} --no-verify", file.display()));
        assert_eq!(emu_json("status")["ok"], true);
        with("unload");
        assert_eq!(snapshot(), before);
        assert_eq!(try_emu("status").status.code(), Some(1));
    });
}
