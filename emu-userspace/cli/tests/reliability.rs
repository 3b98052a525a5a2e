//! The page on reliability names tests that exist, and SECURITY.md counts the unsafe code.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files of Rust below a folder of the repository, except for builds.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [
        "emu-common",
        "emu-ebpf",
        "emu-userspace",
        "experiments",
        "tests",
        "xtask",
    ] {
        sources(&root().join(folder), &mut found);
    }
    found
}

/// The cells between backticks in the rows of the first table below a heading.
fn named(page: &str) -> BTreeSet<String> {
    let (_, rest) = page.split_once("## Promises and their tests").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let cells = table.lines().filter_map(|line| line.rsplit('|').nth(1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    words.map(str::to_owned).collect()
}

#[test]
fn tests_that_the_page_on_reliability_names_exist() {
    let page = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let mut missing = named(&page);
    assert!(missing.len() > 20, "{missing:?}");
    for path in all_sources() {
        let text = fs::read_to_string(path).unwrap();
        // The tests of the corpus are made by a macro from the names of the targets.
        missing.retain(|name| {
            !text.contains(&format!("fn {name}()"))
                && !text.contains(&format!("        name: \"{name}\",\n        body:"))
        });
    }
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

/// The crate of a file, by the manifest above it.
fn crate_of(path: &Path) -> String {
    let folder = path
        .ancestors()
        .find(|folder| folder.join("Cargo.toml").is_file())
        .unwrap();
    let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let name = text.lines().find_map(|line| line.strip_prefix("name = "));
    name.unwrap().trim_matches('"').to_owned()
}

#[test]
fn security_counts_the_unsafe_code_of_each_crate() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let count = |line: &str| {
            ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"]
                .iter()
                .map(|word| line.matches(word).count())
                .sum::<usize>()
        };
        let sum: usize = text.lines().filter(is_code).map(count).sum();
        if sum > 0 && path != Path::new(file!()) && !path.ends_with("cli/tests/reliability.rs") {
            *counts.entry(crate_of(&path)).or_default() += sum;
        }
    }
    let expected: String = counts
        .iter()
        .map(|(name, count)| format!("| `{name}` | {count} |\n"))
        .collect();
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    assert!(
        page.contains(&expected),
        "SECURITY.md must have\n{expected}"
    );
}
