//! `cargo xtask vm`, and the VMs of other verbs: the launcher with the programs, packages and
//! folders of this workspace.
use std::{
    env,
    io::{IsTerminal, stdin, stdout},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use vm_launcher::{Need, Provider, clock_settings};
pub use vm_launcher::{
    Request, hosts,
    kernel::{self, Kernel},
    virtual_time::{self, VirtualTime},
};

use crate::{build, install, testing};

/// This workspace, for the launcher.
pub struct Workspace;

impl Provider for Workspace {
    fn helpers(&self) -> anyhow::Result<PathBuf> {
        build::packages(&["vm-init", "vm-xstate", "vm-time", "vm-random"])
    }

    fn static_init(&self) -> anyhow::Result<PathBuf> {
        build::static_package("vm-init", build::Profile::Debug)
    }

    fn install(&self, purpose: &str, needs: &[Need]) -> anyhow::Result<()> {
        install::debian(purpose, needs)
    }

    fn unpack_testing(&self, package: &str, folder: &Path) -> anyhow::Result<()> {
        testing::unpack(package, folder)
    }

    fn cache(&self) -> PathBuf {
        build::target()
    }

    fn trial_command(&self) -> Option<&str> {
        Some("cargo xtask vm -- true")
    }

    fn notice(&self, text: &str) {
        eprintln!("xtask: {text}");
    }
}

/// The User-Mode Linux that runs commands: the newer one if it works here.
pub fn quick_kernel() -> Kernel {
    Kernel::quick(&Workspace)
}

/// Runs a command in a VM and returns its exit status.
pub fn run(kernel: &Kernel, request: &Request) -> anyhow::Result<u8> {
    kernel.run(&Workspace, request)
}

/// Arguments of `vm`.
#[derive(Args)]
#[command(after_help = "\
The command sees this machine's files as they are, and has the exit status of the command.
Standard input reaches a shell on a terminal, or a command if it is a file; not from a pipe.
Its network is its own: a loopback interface and what the command makes. In QEMU, so are
its temporary files.

With --hosts N the command runs in N VMs at once, which an Ethernet segment joins: host
number $EMU_RANK (from 0) of $EMU_SIZE is called h0, h1, …, and its interface eth0 has
172.16.0.1, .2, …

Examples:
  cargo xtask vm
  cargo xtask vm -- tc qdisc show
  cargo xtask vm --kernel 6.12 -- target/debug/emu load topologies/p2plab.yaml
  cargo xtask vm --timeout 60 -- target/debug/emu doctor
  cargo xtask vm --hosts 2 -- sh -c 'ping -c 3 172.16.0.1; emu run experiment.yaml
                      --rank $EMU_RANK --size $EMU_SIZE --out results'")]
pub struct Vm {
    /// The kernel: `uml` (User-Mode Linux), `uml-testing` (that of Debian testing, quicker),
    /// `6.1` or `6.12` (Debian's, in QEMU), or the path of a User-Mode Linux binary or of
    /// a bootable image.
    #[arg(long, default_value = "uml")]
    kernel: Kernel,
    /// Memory of the VM.
    #[arg(long, default_value = "4G")]
    mem: String,
    /// Seconds after which the VM is stopped.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Seconds without output after which the VM is stopped.
    #[arg(long, value_name = "SECONDS")]
    silence: Option<u64>,
    #[command(flatten)]
    clock: ClockArguments,
    /// Number of VMs, the hosts of one network.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(hosts::COUNT))]
    hosts: Option<u8>,
    /// The command; a shell when left out.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Vm {
    /// Runs the command and returns its exit status.
    pub fn run(self) -> anyhow::Result<u8> {
        let shell = self.command.is_empty();
        if shell && !(stdin().is_terminal() && stdout().is_terminal()) {
            bail!("a shell needs a terminal; give a command: cargo xtask vm -- COMMAND");
        }
        let argv = if shell {
            vec![env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())]
        } else {
            self.command
        };
        let timeout = self.timeout.map(Duration::from_secs);
        let request = || Request {
            memory: self.mem.clone(),
            timeout: timeout.or(self.clock.wall_limit()),
            clock: self.clock.clock(false),
            silence: self.silence.map(Duration::from_secs),
            interactive: shell,
            ..Request::new(argv.clone())
        };
        match self.hosts {
            Some(_) if shell => bail!("several VMs have no shell; give a command"),
            Some(count) => hosts::run(&Workspace, &self.kernel, count.into(), |rank| Request {
                name: Some(hosts::name(rank)),
                ..request()
            }),
            None => run(&self.kernel, &request()),
        }
    }
}

/// Tells the user where a command runs.
pub fn announce(what: &str, kernel: &Kernel, is_virtual: bool) {
    eprintln!(
        "xtask: {what} cannot run on this kernel as this user; running it in a User-Mode \
         Linux VM ({kernel}) that shares this machine's files{}",
        in_virtual_time(is_virtual)
    );
}

/// The part of that notice about the clock.
pub const fn in_virtual_time(is_virtual: bool) -> &'static str {
    if is_virtual {
        ", in virtual time (--real-time for the machine's)"
    } else {
        ""
    }
}

/// Arguments about the clock, for commands that run something in a VM.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Virtual time")]
pub struct ClockArguments {
    /// The VM's clock goes on with its work, not with the machine: idle time is skipped,
    /// and computing takes none. See docs/virtual-time.md.
    #[arg(long, conflicts_with = "real_time")]
    pub virtual_time: bool,
    /// The VM's clock is the machine's.
    #[arg(long)]
    pub real_time: bool,
    /// Emulated time that each entry of a program into the kernel takes.
    #[arg(long, value_name = "TIME", default_value = "1us", value_parser = clock_settings::short_time)]
    pub call_cost: Duration,
    /// Computing takes emulated time, too: the processor time that it took here, times
    /// this factor (`1x`, `4x`, `0.5x`).
    #[arg(long, value_name = "FACTOR", value_parser = clock_settings::factor)]
    pub cpu: Option<u64>,
    /// With several VMs: emulated time that a frame takes from one to another. Longer ones
    /// let the VMs run longer at once; emu deducts it from the latencies it emulates
    /// (`host_latency`), so it should be at most the shortest latency between two vnodes
    /// on different hosts.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = clock_settings::latency)]
    pub segment_latency: Duration,
    /// Seed of everything random in the VM; `none`: real randomness.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clock_settings::seed)]
    pub vm_seed: clock_settings::Seed,
    /// Seconds of real time after which the VM is stopped.
    #[arg(long, value_name = "SECONDS")]
    pub wall_limit: Option<u64>,
}

impl ClockArguments {
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
