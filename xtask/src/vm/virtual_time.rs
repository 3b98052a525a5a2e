//! The emulated clock of a VM of User-Mode Linux: what people ask for, and what its
//! kernel's process is told.
use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context;
use clap::Args;
use vm_protocol::{
    clock_page::{self, ClockPage, Word},
    settings,
};

use super::{Request, kernel::Kernel, segment::Plug};
use crate::build;

/// Name of the clock page in a VM's folder.
const PAGE: &str = "clock";
/// Time of day at which every VM boots, so that the same run is the same run:
/// 2026-01-01T00:00:00Z.
const START_NS: u64 = 1_767_225_600_000_000_000;
/// Emulated time that a frame takes to another VM where nothing else is asked for: below the
/// latency of most access links, and so long that both VMs have work in each window.
const SEGMENT_LATENCY: Duration = Duration::from_millis(5);
/// The number under which the kernel finds its Ethernet segment.
pub const SEGMENT_FD: i32 = 900;

/// Arguments about the clock, for commands that run something in a VM.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Virtual time")]
pub struct Arguments {
    /// The VM's clock goes on with its work, not with the machine: idle time is skipped,
    /// and computing takes none. See docs/virtual-time.md.
    #[arg(long, conflicts_with = "real_time")]
    pub virtual_time: bool,
    /// The VM's clock is the machine's.
    #[arg(long)]
    pub real_time: bool,
    /// Emulated time that each entry of a program into the kernel takes.
    #[arg(long, value_name = "TIME", default_value = "1us", value_parser = short_time)]
    pub call_cost: Duration,
    /// Computing takes emulated time, too: the processor time that it took here, times
    /// this factor (`1x`, `4x`, `0.5x`).
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub cpu: Option<u64>,
    /// With several VMs: emulated time that a frame takes from one to another. Longer ones
    /// let the VMs run longer at once; emu deducts it from the latencies it emulates
    /// (`host_latency`), so it should be at most the shortest latency between two vnodes
    /// on different hosts.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = latency)]
    pub segment_latency: Duration,
    /// Seed of everything random in the VM; `none`: real randomness.
    #[arg(long, value_name = "N", default_value = "1", value_parser = seed)]
    pub vm_seed: Seed,
    /// Seconds of real time after which the VM is stopped.
    #[arg(long, value_name = "SECONDS")]
    pub wall_limit: Option<u64>,
}

/// A seed, or real randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(Option<u64>);

impl Arguments {
    /// The clock that is asked for, if it is to be emulated; `default` where nothing is said.
    pub fn clock(&self, default: bool) -> Option<VirtualTime> {
        let wanted = self.virtual_time || self.cpu.is_some() || (default && !self.real_time);
        wanted.then(|| VirtualTime {
            call_cost: self.call_cost,
            cpu_permille: self.cpu.unwrap_or(0),
            segment_latency: self.segment_latency,
            seed: self.vm_seed.0,
        })
    }

    /// When the VM is stopped.
    pub fn wall_limit(&self) -> Option<Duration> {
        self.wall_limit.map(Duration::from_secs)
    }
}

/// How the emulated clock of a VM goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualTime {
    /// Emulated time of each entry into the kernel.
    pub call_cost: Duration,
    /// Emulated time for processor time, in thousandths; 0: computing is free.
    pub cpu_permille: u64,
    /// Emulated time that a frame takes to another VM.
    pub segment_latency: Duration,
    /// Seed of everything random.
    pub seed: Option<u64>,
}

impl Default for VirtualTime {
    fn default() -> Self {
        Self {
            call_cost: Duration::from_nanos(settings::DEFAULT_CALL_NS),
            cpu_permille: 0,
            segment_latency: SEGMENT_LATENCY,
            seed: Some(1),
        }
    }
}

impl VirtualTime {
    /// Tells the kernel's process, whose VM has this folder.
    pub fn configure(
        &self,
        command: &mut Command,
        folder: &Path,
        interactive: bool,
        plug: Option<&Plug>,
    ) {
        let mut set = |name: &str, value: u64| {
            command.env(name, value.to_string());
        };
        // With processor time charged, an entry takes what it took.
        let call = if self.cpu_permille == 0 {
            self.call_cost
        } else {
            Duration::ZERO
        };
        set(settings::CALL_NS, call.as_nanos() as u64);
        set(settings::CPU_PERMILLE, self.cpu_permille);
        set(settings::START_NS, START_NS);
        set(settings::PACED, u64::from(interactive));
        if let Some(seed) = self.seed {
            set(settings::SEED, seed);
        }
        if let Some(plug) = plug {
            set(
                settings::CONTROL_FD,
                u64::from(plug.number().unsigned_abs()),
            );
            set(settings::SEGMENT_FD, u64::from(SEGMENT_FD.unsigned_abs()));
        }
        command.env(settings::PAGE, folder.join(PAGE));
        command.args([
            settings::GUEST_PARAMETER,
            // The delay loop is calibrated against a clock that stands still meanwhile.
            "lpj=4000000",
            // They compare ways to compute parities for a number of ticks each, which takes
            // longer than the rest of the boot, and a number of ticks that is not always
            // the same. Only btrfs and md ask for the winner.
            "initcall_blacklist=calibrate_xor_blocks,raid6_select_algo,raid6_init",
            // Addresses of programs follow from the seed of the kernel's generator, which
            // mixes in when it was asked: one thing less that can differ.
            "norandmaps",
        ]);
    }
}

/// Whether virtual time works on a kernel here, which is tried once: an emulated hour of sleep
/// must be over within a minute.
pub fn works(kernel: &Kernel) -> bool {
    let mark = build::target().join(format!("virtual-time-on-{}", kernel.file_name()));
    if mark.exists() {
        return true;
    }
    let trial = Request {
        clock: Some(VirtualTime::default()),
        timeout: Some(Duration::from_secs(60)),
        ..Request::new(vec!["sleep".to_owned(), "3600".to_owned()])
    };
    eprintln!("xtask: trying virtual time on this machine once");
    let works = kernel.run(&trial).is_ok_and(|status| status == 0);
    if works {
        // Only spares the next trial.
        let _ = fs::write(mark, "");
    }
    works
}

/// The line that tells how far a VM's clock went; none if it never started.
pub fn report(folder: &Path) -> Option<String> {
    let page = read(folder).ok()?;
    let (emulated, wall) = (page.emulated_ns() as f64 / 1e9, page.wall_ns() as f64 / 1e9);
    let spins = match page.spins() {
        0 => String::new(),
        n => format!(
            ", {n} spins (programs computed without a call until time jumped; \
             two runs may differ)"
        ),
    };
    Some(format!(
        "virtual time: {emulated:.1} s emulated in {wall:.1} s ({:.1} times real time), \
         {} entries into the kernel{spins}",
        emulated / wall.max(1e-3),
        page.get(Word::Entries),
    ))
}

/// What the clock page of a VM's folder says.
fn read(folder: &Path) -> anyhow::Result<ClockPage> {
    let bytes = fs::read(folder.join(PAGE)).context("read the clock page")?;
    ClockPage::parse(&bytes).with_context(|| {
        format!(
            "the VM's clock was not emulated: its page has {} bytes for {}",
            bytes.len(),
            clock_page::BYTES
        )
    })
}

/// Nanoseconds to seconds, with a unit: `1us`, `250ns`, `0`.
fn short_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as in 1us or 250ns");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    if !(0.0..=1e9).contains(&(number * unit)) {
        return Err(format!("{text} is not between 0 and 1000ms"));
    }
    Ok(Duration::from_nanos((number * unit).round() as u64))
}

/// A latency between two VMs: with none they could not run at once.
fn latency(text: &str) -> Result<Duration, String> {
    match short_time(text)? {
        Duration::ZERO => Err("a frame takes some time; write it as in 5ms or 20us".to_owned()),
        latency => Ok(latency),
    }
}

/// A factor in thousandths.
fn factor(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
    match number {
        Ok(factor) if (0.001..=1_000.0).contains(&factor) => Ok((factor * 1e3).round() as u64),
        _ => Err(format!(
            "{text:?} is not a factor from 0.001x to 1000x; write it as in 1x or 0.5x"
        )),
    }
}

fn seed(text: &str) -> Result<Seed, String> {
    if text == "none" {
        return Ok(Seed(None));
    }
    let number = text.parse();
    number
        .map(|seed| Seed(Some(seed)))
        .map_err(|_| format!("{text:?} is neither a number nor `none`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_factors_and_seeds_are_read_with_their_units() {
        assert_eq!(short_time("1us"), Ok(Duration::from_micros(1)));
        assert_eq!(short_time("0.5us"), Ok(Duration::from_nanos(500)));
        assert_eq!(short_time("0"), Ok(Duration::ZERO));
        for wrong in ["1", "us", "-1us", "2s", "1 parsec", "2000ms", "NaNus"] {
            assert!(short_time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(latency("20us"), Ok(Duration::from_micros(20)));
        assert!(latency("0").is_err() && latency("0ns").is_err());
        assert_eq!((factor("1x"), factor("0.25")), (Ok(1_000), Ok(250)));
        for wrong in ["0", "0x", "-1x", "x", "1e9x", "NaN"] {
            assert!(factor(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            (seed("7"), seed("none")),
            (Ok(Seed(Some(7))), Ok(Seed(None)))
        );
        assert!(seed("-1").is_err());
    }
}
