//! `emu bench folding`.
use std::{path::PathBuf, time::Duration};

use clap::Args;
use emu_bench::{
    bittorrent::{Client, piece_bytes},
    folding::{self, Series, Settings},
};

use super::output::{Output, Watcher};
use crate::commands::Outcome;

/// Arguments of `emu bench folding`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench folding                              16 clients on 16 hosts and on one
  emu bench folding --full                       P2PLab's: 160 clients, 16 MB; takes hours
  emu bench folding --full --ratios 1 --out F    one of its runs; other runs, here or on
  emu bench folding --full --ratios 80 --out F   another machine, extend the same report

Needs root, the programs python3-libtorrent (or aria2c) and opentracker, and a kernel with
fq; `cargo xtask run -- bench folding` provides all three. Works in network namespaces of its
own.")]
pub(in crate::commands) struct Folding {
    /// Run a small swarm, which takes two minutes per run; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run P2PLab's swarm: 160 clients, one every 10 s, 16 MB, 1 to 80 clients per host.
    #[arg(long)]
    full: bool,
    /// Numbers of clients per host, one run for each.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ratios: Option<Vec<u32>>,
    /// Number of additional runs at the first ratio, which show the differences due to
    /// chance.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    repeats: Option<u32>,
    /// Run nothing, and report on the runs in the folder.
    #[arg(long, conflicts_with = "ratios")]
    report_only: bool,
    /// Number of downloading clients.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Option<u32>,
    /// Program of clients and seeders: libtorrent or aria2.
    #[arg(long, value_name = "NAME")]
    client: Option<Client>,
    /// Access link of each client, as in `down: 2mbit, up: 128kbit, latency: 30ms`.
    #[arg(long, value_name = "LINE")]
    line: Option<String>,
    /// Size of the file in KiB.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    file: Option<u32>,
    /// Time between the starts of two clients, as in `2s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Exit with code 1 if curves differ by more than this share of all data, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    at_most: f64,
    /// Folder for the results.
    #[arg(long, default_value = "bench-folding")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Folding {
    fn settings(&self) -> Settings {
        let mut settings = if self.full {
            Settings::full()
        } else {
            Settings::quick()
        };
        if let Some(clients) = self.clients {
            settings.clients = clients;
        }
        if let Some(client) = self.client {
            settings.client = client;
        }
        if let Some(line) = &self.line {
            settings.line.clone_from(line);
        }
        if let Some(kib) = self.file {
            settings.file_bytes = kib as usize * 1024;
            // As many pieces as P2PLab's file had.
            settings.piece_bytes = piece_bytes(settings.file_bytes, 64);
        }
        if let Some(interval) = self.interval {
            settings.interval = interval;
        }
        settings
    }

    fn series(&self) -> Series {
        let mut series = if self.full {
            Series::full()
        } else {
            Series::quick()
        };
        if let Some(ratios) = &self.ratios {
            series.ratios.clone_from(ratios);
        }
        if self.report_only {
            series.ratios.clear();
        }
        if let Some(repeats) = self.repeats {
            series.repeats = repeats;
        }
        series
    }

    pub(super) fn run(self) -> Outcome {
        let folder = std::path::absolute(&self.out)?;
        let output = Output {
            json: self.json,
            out: Some(folder.clone()),
        };
        let measurement = folding::Folding {
            settings: self.settings(),
            series: self.series(),
            at_most_percent: self.at_most,
            folder,
        };
        output.measure_and(&measurement, &mut Watcher::cancellable()?, |_| Ok(()))
    }
}
