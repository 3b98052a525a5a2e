//! `emu bench impairments`.
use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use emu_bench::{
    Preset,
    impairments::{Sizes, markdown},
};

use super::output::{Effort, Output, Watcher};
use crate::commands::Outcome;

/// Arguments of `emu bench impairments`.
#[derive(Args)]
#[command(after_help = Sizes::HELP)]
pub(in crate::commands) struct Impairments {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
    /// Write a Markdown page with tables to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Impairments {
    pub(super) fn run(self) -> Outcome {
        let full = self.effort.full;
        let sizes: Sizes = self.effort.sizes();
        let write_page = |outcome: &_| {
            let Some(path) = &self.markdown else {
                return Ok(());
            };
            fs::write(path, markdown(outcome, full))
                .with_context(|| format!("write {}", path.display()))
        };
        self.output
            .measure_and(&sizes, &mut Watcher::new(), write_page)
    }
}
