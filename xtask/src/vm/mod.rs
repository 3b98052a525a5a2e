//! `cargo xtask vm`: a throwaway VM that shares this machine's files.
mod channel;
mod folder;
pub mod guest;
pub mod hosts;
mod initramfs;
pub mod kernel;
mod lockstep;
mod processor;
mod qemu;
mod segment;
mod terminal;
mod testing;
mod uml;
pub mod virtual_time;

use std::{
    env,
    io::{IsTerminal, stdin, stdout},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use kernel::Kernel;
use virtual_time::{Arguments, VirtualTime};

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
    clock: Arguments,
    /// So many VMs, the hosts of one network.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(hosts::COUNT))]
    hosts: Option<u8>,
    /// The command; a shell when left out.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What to run in a VM.
pub struct Request {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Memory, as UML and QEMU take it.
    pub memory: String,
    /// When to give up.
    pub timeout: Option<Duration>,
    /// How long the command may print nothing.
    pub silence: Option<Duration>,
    /// Whether a person types.
    pub interactive: bool,
    /// Before each line that it prints, where several run at once.
    pub name: Option<String>,
    /// Its place on a network.
    pub plug: Option<segment::Plug>,
    /// How its clock goes; none: as the machine's.
    pub clock: Option<VirtualTime>,
}

impl Request {
    /// A command with the defaults.
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            memory: "4G".to_owned(),
            timeout: None,
            silence: None,
            interactive: false,
            name: None,
            plug: None,
            clock: None,
        }
    }

    /// Whether a VM starts at all.
    fn trial() -> Self {
        Self {
            timeout: Some(Duration::from_secs(60)),
            ..Self::new(vec!["true".to_owned()])
        }
    }
}

impl Vm {
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
            Some(count) => hosts::run(&self.kernel, count.into(), |rank| Request {
                name: Some(hosts::name(rank)),
                ..request()
            }),
            None => self.kernel.run(&request()),
        }
    }
}

/// The one line that says where a command runs.
pub fn announce(what: &str, kernel: &Kernel, is_virtual: bool) {
    eprintln!(
        "xtask: {what} cannot run on this kernel as this user; running it in a User-Mode \
         Linux VM ({kernel}) that shares this machine's files{}",
        in_virtual_time(is_virtual)
    );
}

/// The part of that line about its clock.
pub const fn in_virtual_time(is_virtual: bool) -> &'static str {
    if is_virtual {
        ", in virtual time (--real-time for the machine's)"
    } else {
        ""
    }
}
