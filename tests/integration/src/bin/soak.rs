//! Runs a soak in a network namespace of its own, prints its tables and ends with 1 if
//! something grew, was lost or failed: `soak SECONDS VNODES`, by `cargo xtask soak`.
#![expect(clippy::print_stdout, reason = "the report")]
use std::{process::ExitCode, time::Duration};

use integration::{
    netns,
    soak::{self, Options},
};

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let &[seconds, vnodes] = numbers.as_slice() else {
        eprintln!("usage: soak SECONDS VNODES");
        return ExitCode::from(2);
    };
    let options = Options {
        time: Duration::from_secs(seconds.into()),
        vnodes,
    };
    let report = netns::isolated_within(options.time + netns::TEST_TIMEOUT, move || {
        soak::run(&options)
    });
    print!("{}", report.to_text());
    ExitCode::from(u8::from(!report.findings().is_empty()))
}
