//! Controllers of the cgroup tree of version 2: limits of memory and shares of
//! processors.
//!
//! A controller works in a cgroup if all those around it hand it on. The root of the
//! tree is the machine's: what is handed on there for us is taken back.
use std::{fs, io, path::Path};

use super::cgroup::{CgroupError, Tree, file_error};

const HANDED_ON: &str = "cgroup.subtree_control";

/// Controllers of a list that the tree does not have: they are in a tree of version
/// 1, or not in the kernel.
pub fn missing(tree: &Tree, wanted: &[&'static str]) -> Vec<&'static str> {
    let have = words(&tree.root().join("cgroup.controllers"));
    let lacks = |name: &&'static str| !have.iter().any(|h| h == name);
    wanted.iter().copied().filter(lacks).collect()
}

/// Controllers of a list that the root does not hand on yet.
pub fn new_at_root(tree: &Tree, wanted: &[&'static str]) -> Vec<&'static str> {
    let there = words(&tree.root().join(HANDED_ON));
    let is_new = |name: &&'static str| !there.iter().any(|h| h == name);
    wanted.iter().copied().filter(is_new).collect()
}

/// Hands controllers on from the root down to a folder and to those in it.
pub fn enable(tree: &Tree, folder: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let mut way: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| path.starts_with(tree.root()))
        .collect();
    way.reverse();
    way.into_iter().try_for_each(|path| hand_on(path, wanted))
}

/// Hands controllers on from one cgroup to those in it.
pub fn hand_on(path: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    change(path, wanted, '+').map_err(file_error("hand controllers on in", path))
}

/// Takes back what [`new_at_root`] named, from a folder up to the root: a cgroup
/// cannot give up what one in it hands on. Others may use it by now: then it stays.
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

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}
