//! Results of `emu run`: their contents, their reproducibility, and the progress shown
//! meanwhile.
use std::collections::BTreeMap;

use integration::{
    command::{emu_path, python},
    netns::isolated,
};
use serde_json::Value;

use crate::run::{Lab, everything, no_residue};

/// The results name a script by its digest and a program of a package by its version, and
/// report a missing `collect` file.
#[test]
fn run_reports_versions_and_missing_outputs() {
    isolated(|| {
        let lab = Lab::new(
            "
programs:
  - name: writer
    on: adsl/0-2
    run: [sh, '{here}/write.sh', '{number}']
    collect: ['*.log', never.txt]
  - {name: failing, on: adsl/3, shell: 'exit 4', collect: [none.txt]}
",
        );
        let script = "test $1 = 1 || echo $1 > number.log\n";
        std::fs::write(lab.path("write.sh"), script).unwrap();
        let output = lab.run("");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary: Value = serde_json::from_str(&lab.read("out/summary.json")).unwrap();
        let warnings = [
            "writer: 1 of 3 left no `*.log`, the first on adsl/1",
            "writer: 3 of 3 left no `never.txt`, the first on adsl/0",
        ];
        assert_eq!(
            summary["warnings"],
            Value::from(warnings.to_vec()),
            "{said}"
        );
        assert_eq!(summary["collected"], 2);
        for line in warnings {
            assert!(said.contains(&format!("WARNING: {line}")), "{said}");
        }
        let environment: Value = serde_json::from_str(&lab.read("out/environment.json")).unwrap();
        let writer = &environment["programs"][0];
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(environment["kernel"], kernel.trim());
        assert_eq!(environment["seed"], 5);
        let sum =
            integration::command::run(&format!("sha256sum {}", lab.path("write.sh").display()));
        assert_eq!(
            writer["arguments"][0]["sha256"].as_str(),
            sum.split(' ').next(),
            "{writer}"
        );
        if std::path::Path::new("/usr/bin/dpkg-query").exists() {
            let package = writer["package"].as_str().unwrap_or_default();
            assert!(
                package.starts_with("dash ") || package.starts_with("bash "),
                "{writer}"
            );
        } else {
            println!("SKIPPED the packages of programs: no dpkg-query");
        }
    });
}

/// Three senders whose access links lose in bursts and duplicate; each numbers its
/// datagrams.
const LOSSY: &str = "
version: 1
groups:
  adsl:
    prefix: 10.1.0.0/24
    nodes: 4
    latency: 5ms
    up: {rate: 10mbit, loss: {gilbert_elliott: {to_bad: 5%, to_good: 30%}}, duplicate: 5%}
";
const SENDER: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(400):
    s.sendto(str(number).encode(), (sys.argv[1], 9000))
    time.sleep(0.001)
";
const RECEIVER: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind(('0.0.0.0', 9000))
s.settimeout(20)
while True:
    try:
        data, sender = s.recvfrom(64)
    except TimeoutError:
        break
    s.settimeout(2)
    print(sender[0], data.decode())
";

/// Datagrams that a receiver got from each sender in a run, in the order of arrival; sorted
/// where neighbouring packets may be reordered, see [`integration::udp::crossings`].
fn arrivals(python: &str, seed: u32) -> BTreeMap<String, Vec<u32>> {
    let lab = Lab::with(
        LOSSY,
        &format!(
            "
seed: {seed}
duration: 60s
programs:
  - {{name: receiver, on: adsl/0, run: [{python}, '{{here}}/receiver.py'], ready: {{udp: 9000}}}}
  - {{name: sender, on: adsl/1-3, run: [{python}, '{{here}}/sender.py', '{{ip:receiver}}']}}
"
        ),
    );
    std::fs::write(lab.path("receiver.py"), RECEIVER).unwrap();
    std::fs::write(lab.path("sender.py"), SENDER).unwrap();
    lab.good("");
    let mut arrivals: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for line in lab.read("out/vnodes/10.1.0.1/receiver/stdout").lines() {
        let (sender, number) = line.split_once(' ').unwrap();
        let of = arrivals.entry(sender.to_owned()).or_default();
        of.push(number.parse().unwrap());
    }
    if integration::processor_is_emulated() {
        arrivals.values_mut().for_each(|of| of.sort_unstable());
    }
    arrivals
}

/// The seed determines the fate of each packet: two runs lose and duplicate the same
/// packets, although the interleaving of the senders varies; another seed affects other
/// packets.
#[test]
fn run_decides_the_same_for_the_same_seed() {
    isolated(|| {
        let Some(python) = python() else {
            println!("SKIPPED the fate of packets: no python3");
            return;
        };
        let [first, again, other] = [3, 3, 4].map(|seed| arrivals(python, seed));
        assert_eq!(first.len(), 3, "{first:?}");
        assert_eq!(first, again);
        for (sender, numbers) in &first {
            // Of 400 datagrams, a seventh is lost in bursts, and a twentieth of the rest
            // arrives twice.
            let distinct: std::collections::BTreeSet<_> = numbers.iter().collect();
            let (lost, copies) = (400 - distinct.len(), numbers.len() - distinct.len());
            println!("{sender}: {lost} lost, {copies} copies, of 400");
            assert!((20..=120).contains(&lost), "{sender}: {lost} lost");
            assert!((3..=40).contains(&copies), "{sender}: {copies} copies");
            assert_ne!(Some(numbers), other.get(sender), "{sender}");
        }
    });
}

/// On a terminal one line shows the progress and is updated; at the end it is removed, and
/// the summary is printed.
#[test]
fn run_shows_its_progress_on_a_terminal() {
    isolated(|| {
        let before = everything();
        let lab = Lab::new(
            "
programs:
  - {name: short, on: adsl/0-2, run: [sleep, '1.5'], start: {every: 500ms}}
  - {name: bad, on: adsl/3, shell: 'sleep 1; exit 3'}
",
        );
        let line = format!("{} {}", emu_path().display(), lab.command_line("out"));
        let output = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        for state in [
            "2 running, 2 waiting, 0 done, 0 failed",
            "0 done, 1 failed",
            "3 done, 1 failed",
            "sent 0.0 kbit/s",
        ] {
            assert!(shown.contains(state), "no `{state}` in {shown}");
        }
        let (_, last) = shown.rsplit_once('\r').unwrap();
        assert!(!last.contains("running"), "{last}");
        no_residue(&before);
    });
}
