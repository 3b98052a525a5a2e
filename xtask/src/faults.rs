//! `cargo xtask faults`: many faults in every command that changes the kernel, in the VM; see
//! `integration::faults`.
use clap::Args;

use crate::{
    suite,
    vm::{self, Request, kernel::Kernel, virtual_time::VirtualTime},
};

/// Arguments of `faults`.
#[derive(Args)]
#[command(after_help = "\
Each command (load, load in place, unload, set, exec, run and more) gets faults that are spread
evenly over it: a system call fails, the kernel refuses a request of netlink, or SIGKILL. After
each, the message must be clear, the exit code right, the next command must repair, and an
unload must leave nothing.

Examples:
  cargo xtask faults                    1,000 of each kind, in an hour
  cargo xtask faults --each 100000 --only 'load of machines'
                                        at each system call of one command")]
pub struct Faults {
    /// Number of faults of each kind.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    each: u32,
    /// Only the commands with this in their name.
    #[arg(long, value_name = "COMMAND")]
    only: Option<String>,
    /// Moves each fault by this number of places: turns 0, 1, 2 and so on cover all places.
    #[arg(long, default_value_t = 0)]
    turn: u32,
    /// The kernel.
    #[arg(long)]
    kernel: Option<Kernel>,
}

impl Faults {
    pub fn run(self) -> anyhow::Result<u8> {
        let object = suite::object(false)?;
        let mut argv = suite::tool(&object, "faults")?;
        argv.push(self.each.to_string());
        argv.extend([self.only.unwrap_or_default(), self.turn.to_string()]);
        let kernel = self.kernel.unwrap_or_else(vm::quick_kernel);
        let request = Request {
            clock: (!kernel.is_emulated()).then(VirtualTime::default),
            ..Request::new(argv)
        };
        vm::run(&kernel, &request)
    }
}
