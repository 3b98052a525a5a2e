//! The emulated clock of a User-Mode Linux VM: its settings, how the kernel's process gets
//! them, and its report at the end.
use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context;
use vm_protocol::{
    clock_page::{self, ClockPage, Word},
    settings,
};

use crate::{Request, kernel::Kernel, provider::Provider, segment::Plug};

/// Name of the clock page in a VM's folder.
const PAGE: &str = "clock";
/// Time of day at which every VM boots, so that runs are repeatable: 2026-01-01T00:00:00Z.
const START_NS: u64 = 1_767_225_600_000_000_000;
/// Default of the emulated time that a frame takes to another VM: below the latency of most
/// access links, and so long that both VMs have work in each window.
const SEGMENT_LATENCY: Duration = Duration::from_millis(5);
/// The number under which the kernel finds its Ethernet segment.
pub(crate) const SEGMENT_FD: i32 = 900;

/// The emulated clock of a VM.
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
    /// Passes the settings to the kernel's process of the VM with this folder.
    pub(crate) fn configure(
        &self,
        command: &mut Command,
        folder: &Path,
        interactive: bool,
        plug: Option<&Plug>,
    ) {
        let mut set = |name: &str, value: u64| {
            command.env(name, value.to_string());
        };
        // If processor time is charged, the time of an entry is part of it.
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
            // The clock, with which the delay loop would be calibrated, does not advance.
            "lpj=4000000",
            // These calls compare methods for parities for some ticks each, which takes longer
            // than the rest of the boot and differs between runs. Only btrfs and md use the
            // result.
            "initcall_blacklist=calibrate_xor_blocks,raid6_select_algo,raid6_init",
            // The addresses of programs would follow from the kernel's generator, which mixes
            // in the time of each request.
            "norandmaps",
        ]);
    }
}

/// Whether virtual time works on a kernel on this machine. One trial decides: an emulated hour
/// of sleep must take less than a minute.
pub fn works(provider: &dyn Provider, kernel: &Kernel) -> bool {
    let mark = provider
        .cache()
        .join(format!("virtual-time-on-{}", kernel.file_name()));
    if mark.exists() {
        return true;
    }
    let trial = Request {
        clock: Some(VirtualTime::default()),
        timeout: Some(Duration::from_secs(60)),
        ..Request::new(vec!["sleep".to_owned(), "3600".to_owned()])
    };
    provider.notice("trying virtual time on this machine once");
    let works = kernel.run(provider, &trial).is_ok_and(|status| status == 0);
    if works {
        // A failure of this write only causes another trial.
        let _ = fs::write(mark, "");
    }
    works
}

/// The emulated and the real time of a VM as text; `None` if its clock never started.
pub(crate) fn report(folder: &Path) -> Option<String> {
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

/// Reads the clock page in a VM's folder.
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
