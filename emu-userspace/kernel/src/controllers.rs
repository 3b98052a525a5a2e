//! Controllers of the cgroup tree of version 2: memory limits and CPU weights.
//!
//! A controller works in a cgroup if all its parents enable it for their children. The root
//! of the tree belongs to the machine: what emu enables there, it disables again.
use std::{fs, io, path::Path};

use super::cgroup::{CgroupError, Tree, file_error};

const HANDED_ON: &str = "cgroup.subtree_control";

/// The wanted controllers that the tree does not have: they are in a tree of version 1, or
/// not in the kernel.
pub fn missing(tree: &Tree, wanted: &[&'static str]) -> Vec<&'static str> {
    let have = names(&tree.root().join("cgroup.controllers"));
    let lacks = |name: &&'static str| !have.iter().any(|h| h == name);
    wanted.iter().copied().filter(lacks).collect()
}

/// The wanted controllers that the root does not enable yet.
pub fn new_at_root(tree: &Tree, wanted: &[&'static str]) -> Vec<&'static str> {
    let enabled = names(&tree.root().join(HANDED_ON));
    let is_new = |name: &&'static str| !enabled.iter().any(|h| h == name);
    wanted.iter().copied().filter(is_new).collect()
}

/// Enables controllers from the root down to a folder and its children.
pub fn enable(tree: &Tree, folder: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let mut way: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| path.starts_with(tree.root()))
        .collect();
    way.reverse();
    way.into_iter().try_for_each(|path| hand_on(path, wanted))
}

/// Enables controllers in one cgroup for its children.
pub fn hand_on(path: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    change(path, wanted, '+').map_err(file_error("enable controllers in", path))
}

/// Disables the controllers that [`new_at_root`] returned, from a folder up to the root: a
/// cgroup cannot disable what a child enables. Controllers that others use by now stay
/// enabled.
pub fn take_back(tree: &Tree, folder: &Path, names: &[&str]) {
    let way = folder
        .ancestors()
        .take_while(|path| path.starts_with(tree.root()));
    for path in way {
        let _ = change(path, names, '-');
    }
}

fn change(path: &Path, names: &[&str], sign: char) -> io::Result<()> {
    let text: Vec<String> = names.iter().map(|name| format!("{sign}{name}")).collect();
    fs::write(path.join(HANDED_ON), text.join(" "))
}

fn names(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
