//! Injects faults into every command that changes the kernel, prints a table and ends with 1 if
//! there are findings: `faults NUMBER-OF-EACH-KIND [SCENARIO [TURN]]`, by `cargo xtask faults`.
#![expect(clippy::print_stdout, reason = "the report")]
use std::{process::ExitCode, time::Duration};

use integration::{
    faults::{self, KINDS, SCENARIOS},
    netns,
};

/// Time for one fault and the commands around it.
const LONGEST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let each: Option<u64> = arguments.next().and_then(|text| text.parse().ok());
    let filter = arguments.next().unwrap_or_default();
    let turn = arguments.next().and_then(|text| text.parse().ok());
    let turn: u64 = turn.unwrap_or_default();
    let Some(each) = each else {
        eprintln!("usage: faults NUMBER-OF-EACH-KIND [SCENARIO [TURN]]");
        return ExitCode::from(2);
    };
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|scenario| scenario.name.contains(&filter))
        .collect();
    println!("{}", faults::HEADER);
    let mut findings = Vec::new();
    for kind in KINDS {
        for &scenario in &chosen {
            let faults = each.div_ceil(chosen.len() as u64);
            let limit = LONGEST * (faults as u32 + 2);
            let outcome = netns::isolated_within(limit, move || {
                faults::walk(scenario, kind, (faults, turn), |line| eprintln!("{line}"))
            });
            println!("{outcome}");
            findings.extend(outcome.findings);
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    ExitCode::from(u8::from(!findings.is_empty()))
}
