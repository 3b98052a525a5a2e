//! `cargo xtask soak`: everything at once for a long time, in the VM; see `integration::soak`.
use std::time::Duration;

use clap::Args;

use crate::{
    suite,
    vm::{self, Request, kernel::Kernel},
};

/// Arguments of `soak`.
#[derive(Args)]
#[command(after_help = "\
Prints the use of memory, descriptors, maps and more at the start, in the middle and at the
end, and a verdict: what grew, and what was lost that the model does not lose.

Examples:
  cargo xtask soak                       half an hour
  cargo xtask soak --minutes 600 --vnodes 5000")]
pub struct Soak {
    /// Length, by the machine's clock.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// Vnodes of each of the two groups whose packets are counted.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=30_000))]
    vnodes: u32,
    /// The kernel.
    #[arg(long)]
    kernel: Option<Kernel>,
}

impl Soak {
    pub fn run(self) -> anyhow::Result<u8> {
        let object = suite::object(false)?;
        let mut argv = suite::tool(&object, "soak")?;
        let time = Duration::from_secs(u64::from(self.minutes) * 60);
        argv.extend([time.as_secs().to_string(), self.vnodes.to_string()]);
        let kernel = self.kernel.unwrap_or_else(vm::quick_kernel);
        let request = Request {
            // The program itself gives up ten minutes after its time.
            timeout: Some(time + Duration::from_secs(1_200)),
            ..Request::new(argv)
        };
        vm::run(&kernel, &request)
    }
}
