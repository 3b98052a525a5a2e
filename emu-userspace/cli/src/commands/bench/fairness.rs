//! `emu bench fairness`.
use std::{path::PathBuf, time::Duration};

use clap::Args;
use emu_bench::fairness::{self, Settings};

use super::output::Output;
use crate::commands::Outcome;

/// Arguments of `emu bench fairness`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench fairness                   ten programs of 1 s, one every 250 ms
  emu bench fairness --full            P2PLab's: programs of 12 s, one every second

Needs root, and a kernel with fq: `cargo xtask run -- bench fairness`. Works in a network
namespace of its own.")]
pub(in crate::commands) struct Fairness {
    /// Run a small experiment; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run P2PLab's experiment: programs of 12 s, one every second.
    #[arg(long)]
    full: bool,
    /// Number of programs.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    programs: Option<u32>,
    /// Running time of one program on an idle machine, as in `2s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    alone: Option<Duration>,
    /// Exit with code 1 if Jain's index is lower.
    #[arg(long, value_name = "INDEX", default_value_t = 0.95)]
    at_least: f64,
    /// Folder for the results.
    #[arg(long, default_value = "bench-fairness")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Fairness {
    pub(super) fn run(self) -> Outcome {
        let scale = if self.full { 1.0 } else { 1.0 / 12.0 };
        let alone = self.alone.unwrap_or(Duration::from_secs(12).mul_f64(scale));
        let settings = Settings {
            programs: self.programs.unwrap_or(if self.full { 30 } else { 10 }),
            // P2PLab started one program every second, a twelfth of a program's running
            // time. A small run starts them a little less often, because a start takes time
            // too.
            interval: Duration::from_secs(1).mul_f64(scale.max(0.25)),
            alone,
        };
        let folder = std::path::absolute(&self.out)?;
        let output = Output {
            json: self.json,
            out: Some(folder.clone()),
        };
        let measurement = fairness::Fairness {
            settings,
            at_least: self.at_least,
            folder,
        };
        output.measure(&measurement)
    }
}
