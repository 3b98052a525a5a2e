//! The fuzz targets: for each parser of input that somebody else may have written, a function
//! that takes any bytes and panics if the parser misbehaves.
//!
//! `cargo xtask fuzz TARGET` runs a target under libFuzzer (`tests/fuzz/libfuzzer`). The test
//! `replay` runs all of them on their corpus with stable Rust, so what was found once stays
//! tested. Packets have a target of their own, `integration::packet_fuzz`, since it needs a
//! kernel.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a broken property must fail")]

mod files;
mod protocols;
mod records;
mod tables;

use std::path::{Path, PathBuf};

/// A fuzz target.
pub struct Target {
    /// Name, also of its folder of inputs below `tests/fuzz/corpus`.
    pub name: &'static str,
    /// Its body: panics if a property does not hold.
    pub body: fn(&[u8]),
    /// Folders of the repository with further inputs.
    pub seeds: &'static [&'static str],
}

/// All targets that need no kernel.
pub const TARGETS: [Target; 11] = [
    Target {
        name: "topology",
        body: files::topology,
        seeds: &["topologies", "emu-userspace/model/tests/cases"],
    },
    Target {
        name: "experiment",
        body: files::experiment,
        seeds: &["experiments", "emu-userspace/model/tests/experiment-cases"],
    },
    Target {
        name: "change",
        body: files::change,
        seeds: &[],
    },
    Target {
        name: "quantity",
        body: files::quantity,
        seeds: &[],
    },
    Target {
        name: "selector",
        body: files::selector,
        seeds: &[],
    },
    Target {
        name: "recording",
        body: tables::recording,
        seeds: &[],
    },
    Target {
        name: "distribution",
        body: tables::distribution,
        seeds: &[],
    },
    Target {
        name: "state",
        body: records::state,
        seeds: &[],
    },
    Target {
        name: "results",
        body: records::results,
        seeds: &[],
    },
    Target {
        name: "cni",
        body: protocols::cni,
        seeds: &[],
    },
    Target {
        name: "vm",
        body: protocols::vm,
        seeds: &[],
    },
];

/// The root of the repository, where the seeds are.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The inputs of a target in the repository, in the order of their names.
///
/// # Panics
/// If a folder cannot be read.
pub fn inputs(target: &Target) -> Vec<PathBuf> {
    let corpus = format!("tests/fuzz/corpus/{}", target.name);
    let folders = target.seeds.iter().copied().chain([corpus.as_str()]);
    let mut paths: Vec<PathBuf> = folders
        .flat_map(|folder| {
            let folder = root().join(folder);
            let entries = folder.read_dir();
            entries.unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        })
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
}

/// Runs a target by its name.
///
/// # Panics
/// If there is no such target, or a property does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no fuzz target {name}"));
    (target.body)(data);
}

/// Bytes as text, as a reader of files that must be UTF-8 sees them; `None` if they are not.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}
