//! `emu bench scale`.
use std::{
    io::{IsTerminal, Write, stderr},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use emu_bench::scale::{self, Peer, Place, Settings};
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde_json::json;

use crate::commands::{FAILED, OK, Outcome, print, print_json};

use crate::commands::error::{CommandError, failure};

/// Arguments of `emu bench scale`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask run -- bench scale                 forty nodes of a DHT
  cargo xtask run --hosts 2 -- bench scale --full
                                                 5,760, as in P2PLab's largest experiment, on
                                                 two VMs; half an hour, 2 x 2 GiB
  cargo xtask run -- bench scale --peer bittorrent --full
                                                 150 BitTorrent clients, 1 MiB each; ten minutes

The peers are nodes of the BitTorrent DHT, or BitTorrent clients that share a file of four
seeders, each a process with an access link of its own: 2 Mbit/s down, 128 kbit/s up, 30 ms.
Needs root, a kernel with fq, and in the search path the program `peers` of experiments/peers,
or opentracker and python3-libtorrent.

With --rank and --size the measurement runs on several hosts at once, which share the folder
--out. The peers are distributed over the hosts, on the machines' own network, and the first
host has the results:
  emu bench scale --full --rank 0 --size 2 --address 192.168.7.1 --out /shared/1   # and --rank 1")]
pub(in crate::commands) struct Scale {
    /// Program of the peers: dht or bittorrent.
    #[arg(long, value_name = "NAME", default_value_t = Peer::Dht)]
    peer: Peer,
    /// Run forty nodes of a DHT, or twelve BitTorrent clients; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run as many nodes as P2PLab's largest experiment, 5,760, one every 250 ms; or 150
    /// BitTorrent clients, one every 3 s.
    #[arg(long)]
    full: bool,
    /// Number of peers.
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=60_000))]
    peers: Option<u32>,
    /// Time between the starts of two peers.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Time for which all peers run together.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    settle: Option<Duration>,
    /// Size of the file that BitTorrent clients share, in KiB.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    file: Option<u32>,
    /// Folder for the results.
    #[arg(long, default_value = "bench-scale")]
    out: PathBuf,
    /// Rank of this host among several, from 0.
    #[arg(long, value_name = "R", requires = "size")]
    rank: Option<usize>,
    /// Number of hosts that run the measurement.
    #[arg(long, value_name = "N", requires = "rank", value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: Option<u16>,
    /// Interface of each host towards the other hosts.
    #[arg(long, value_name = "NAME", default_value = "eth0", requires = "rank")]
    interface: String,
    /// Address of the first host on that interface; each following host has the next
    /// address.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "172.16.0.1",
        requires = "rank"
    )]
    address: Ipv4Addr,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Scale {
    pub(super) fn run(self) -> Outcome {
        let size = if self.full {
            Settings::full(self.peer)
        } else {
            Settings::quick(self.peer)
        };
        let settings = Settings {
            peers: self.peers.unwrap_or(size.peers),
            interval: self.interval.unwrap_or(size.interval),
            settle: self.settle.unwrap_or(size.settle),
            file_bytes: (self.file).map_or(size.file_bytes, |kib| kib as usize * 1024),
            ..size
        };
        let out = std::path::absolute(&self.out)?;
        let terminal = stderr().is_terminal();
        let place = self.place()?;
        let outcome = scale::run(&settings, place.as_ref(), &out, &mut |text| {
            if terminal {
                let _ = write!(stderr(), "\r\x1b[K{text}");
            }
        });
        if terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
        let Some(outcome) = outcome? else {
            return Ok(OK);
        };
        let judged = outcome.judged as usize;
        let complete = outcome.ready_s.len() == judged && outcome.right == judged;
        let report = report(&settings, &outcome, complete);
        report.write(&out, &outcome)?;
        if self.json {
            print_json(&json!({"ok": complete, "outcome": outcome}))?;
        } else {
            for (name, value) in facts(&outcome) {
                print(&format!("{name:<44} {value}"))?;
            }
            for (verdict, text) in report.verdicts() {
                print(&format!("{}: {text}", verdict.text()))?;
            }
            print(&format!(
                "report: {}",
                out.join("bench-scale.html").display()
            ))?;
        }
        Ok(if complete { OK } else { FAILED })
    }

    /// The position of this host among several, if there are several.
    fn place(&self) -> Result<Option<Place>, CommandError> {
        let Some((rank, size)) = self.rank.zip(self.size.map(usize::from)) else {
            return Ok(None);
        };
        if rank >= size {
            return Err(failure!(
                "host {rank} of {size}: hosts are numbered from 0 to {}",
                size - 1
            ));
        }
        Ok(Some(Place {
            rank,
            size,
            interface: self.interface.clone(),
            address: self.address,
        }))
    }
}

fn facts(o: &scale::Outcome) -> Vec<(&'static str, String)> {
    let [ready, right] = o.peer.milestones();
    let quantile = |share: f64| {
        let index = (o.ready_s.len() as f64 * share) as usize;
        let value = (o.ready_s).get(index.min(o.ready_s.len().saturating_sub(1)));
        value.map_or("–".to_owned(), |s| format!("{s:.2}"))
    };
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
    [
        ("peers", o.peers.to_string()),
        ("hosts", o.hosts.to_string()),
        ("load, s", format!("{:.2}", o.load_s)),
        ("starts took, s", format!("{:.1}", o.start_s)),
        ("starts planned, s", format!("{:.1}", o.start_planned_s)),
        (ready, o.ready_s.len().to_string()),
        ("after its start, median, s", quantile(0.5)),
        ("after its start, 99 %, s", quantile(0.99)),
        (right, o.right.to_string()),
        (
            "memory that the machines had less of, MiB",
            mib(o.used_bytes),
        ),
        (
            "memory of all peers, shared pages counted, MiB",
            mib(o.resident_bytes),
        ),
        ("processor time of all peers, s", format!("{:.1}", o.cpu_s)),
        (
            "processors busy, % (of the busiest host)",
            format!("{:.0}", o.busy * 100.0),
        ),
        (
            "error of a round trip, nobody there, ms",
            format!("{:+.2}", o.error_idle_ms),
        ),
        (
            "error of a round trip, all running, ms",
            format!("{:+.2}", o.error_running_ms),
        ),
    ]
    .into()
}

/// Allowed growth of the round-trip time's error while all peers run, in milliseconds,
/// compared with idle hosts: fq on a busy CPU wakes up late.
const MORE_ERROR_MS: f64 = 2.0;

fn accuracy(o: &scale::Outcome) -> (Verdict, String) {
    let verdict = if o.error_running_ms.abs() <= o.error_idle_ms.abs() + MORE_ERROR_MS {
        Verdict::Holds
    } else if o.limits.is_empty() {
        Verdict::Fails
    } else {
        Verdict::Undecided
    };
    let text = format!(
        "a round trip of {:.1} ms is {:+.2} ms off with all running, {:+.2} ms with nobody there",
        o.expected_ms, o.error_running_ms, o.error_idle_ms
    );
    (verdict, text)
}

/// P2PLab's figure of its largest experiment, with the bytes that the peers received.
fn progress(settings: &Settings, outcome: &scale::Outcome) -> (Chart, String) {
    let every = settings.drawn_every();
    let chart = Chart::new("What peers received")
        .x(Axis::new("time since the first start, s").from_zero())
        .y(Axis::new("IP packets, KiB").from_zero());
    let chart = (outcome.progress.iter().enumerate()).fold(chart, |chart, (index, curve)| {
        let name = if index == 0 { "a peer" } else { "" };
        chart.line(name, curve.iter().map(|(t, b)| (*t, b / 1024.0)))
    });
    let text = match every {
        1 => "Every peer is a curve that begins with its start.".to_owned(),
        every => format!("Every {every}th peer is a curve that begins with its start."),
    };
    (chart, text)
}

fn report(settings: &Settings, outcome: &scale::Outcome, complete: bool) -> Report {
    let here = Environment::here();
    let mut report = Report::new("bench-scale", "Many peers on one machine", &here);
    let [ready, right] = outcome.peer.milestones();
    let text = format!(
        "{} of {} peers {ready}, {} {right}",
        outcome.ready_s.len(),
        outcome.judged,
        outcome.right
    );
    report.verdict(
        if complete {
            Verdict::Holds
        } else {
            Verdict::Fails
        },
        text,
    );
    let (verdict, text) = accuracy(outcome);
    report.verdict(verdict, text);
    for limit in &outcome.limits {
        let text = format!("the host was the limit: {limit}");
        report.verdict(Verdict::Undecided, text);
    }
    let mut table = Table::new(["", "value"]);
    for (name, value) in facts(outcome) {
        table.row([name.to_owned(), value]);
    }
    report.table("facts", table);
    let chart = Chart::new(format!("When peers {ready}"))
        .x(Axis::new("time from the peer's start, s").from_zero())
        .y(Axis::new("share of peers").from_zero())
        .cdf("peers", outcome.ready_s.iter().copied());
    let (curves, text) = progress(settings, outcome);
    report.figure("progress", curves, &text);
    let text = format!("How many peers {ready}, and how soon after their start.");
    report.figure("ready", chart, &text);
    report
}
