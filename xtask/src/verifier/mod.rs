//! `cargo xtask verifier`: compares the number of instructions that the verifier processes
//! for each program with the table in the repository. A program near the kernel's limit of a
//! million may load here and fail on another kernel.
#![expect(clippy::print_stdout, reason = "the table")]
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use clap::Args;
use table::{Measured, Table};

use crate::{
    build,
    suite::{self, Place},
    tally::Tally,
    vm::{Workspace, kernel::Kernel},
};

const TABLE: &str = "tests/verifier/insns.json";

/// Arguments of `verifier`.
#[derive(Args)]
#[command(after_help = "\
Measured are this machine's kernel (as root), User-Mode Linux, and those of 6.1 and 6.12
that are installed with QEMU. A kernel that the table does not have is shown, not judged.")]
pub struct Verifier {
    /// Update the table from the kernels' current counts.
    #[arg(long)]
    update: bool,
    /// Kernels: `host`, `uml`, `uml-testing`, `6.1`, `6.12` or paths; default: those that are
    /// available.
    kernels: Vec<Place>,
}

impl Verifier {
    pub fn run(self) -> anyhow::Result<u8> {
        let object = suite::fresh_object()?;
        let at_hand = Kernel::named()
            .into_iter()
            .filter(|k| *k == Kernel::Uml || k.at_hand(&Workspace))
            .map(Place::Vm);
        let places = if self.kernels.is_empty() {
            [Place::Host].into_iter().chain(at_hand).collect()
        } else {
            self.kernels
        };
        if self.update {
            return update(&object, &places);
        }
        let mut ok = true;
        for place in places {
            ok &= check(&object, &place, print)?.ok();
        }
        Ok(u8::from(!ok))
    }
}

fn path() -> PathBuf {
    build::root().join(TABLE)
}

fn read() -> anyhow::Result<Table> {
    let text = fs::read_to_string(path()).with_context(|| format!("read {TABLE}"))?;
    serde_json::from_str(&text).with_context(|| format!("read {TABLE}"))
}

/// Measures on a kernel.
fn measure(object: &Path, place: &Place) -> anyhow::Result<Measured> {
    let argv = suite::verified_insns(object)?;
    let output = place
        .command(&argv)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start the measurement on {place}"))?;
    if !output.status.success() {
        bail!("the programs do not load on {place}");
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("read the counts of {place}"))
}

fn update(object: &Path, places: &[Place]) -> anyhow::Result<u8> {
    let mut measured = Vec::new();
    for place in places {
        match place.unable() {
            Some(why) => println!("SKIPPED {place}: {why}"),
            None => measured.push(measure(object, place)?),
        }
    }
    let mut table = read().unwrap_or_default();
    for kernel in &measured {
        show(kernel, &table, &print);
    }
    table.update(&measured);
    let text = serde_json::to_string_pretty(&table)? + "\n";
    fs::write(path(), text).with_context(|| format!("write {TABLE}"))?;
    println!("renewed {TABLE}");
    Ok(0)
}

/// Measures a kernel, shows its counts, and counts each program as a test.
pub fn check(object: &Path, place: &Place, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    if let Some(why) = place.unable() {
        return Ok(Tally::skipped(&format!("{place}: {why}"), print));
    }
    let measured = measure(object, place)?;
    let table = read()?;
    show(&measured, &table, &print);
    let Some(rows) = table.judge(&measured) else {
        let family = measured.family();
        let why = format!("{TABLE} has no {family}; `cargo xtask verifier --update` adds it");
        return Ok(Tally::skipped(&format!("{place}: {why}"), print));
    };
    let mut tally = Tally::default();
    for row in rows {
        match row.wrong {
            None => tally.passed += 1,
            Some(wrong) => {
                tally.failed += 1;
                let words = format!("{} {wrong}", row.program);
                print(&format!(
                    "{words}: if it has to be, `cargo xtask verifier --update`"
                ));
                tally.failures.push(words);
            }
        }
    }
    Ok(tally)
}

fn show(measured: &Measured, table: &Table, print: &dyn Fn(&str)) {
    print(&format!("verified instructions on {}", measured.release));
    if measured.programs.is_empty() {
        print("  this kernel does not say (Linux 5.16 and newer do)");
    }
    let rows = table.judge(measured).unwrap_or_default();
    for (program, now) in &measured.programs {
        let before = rows.iter().find(|row| row.program == *program);
        let before = before.and_then(|row| row.table);
        let before = before.map_or_else(|| "-".to_owned(), |count| count.to_string());
        print(&format!("  {program:<24} {now:>8}  table {before:>8}"));
    }
}

fn print(line: &str) {
    println!("{line}");
}
