//! Text of what a load changes, for a comparison of before and after.
use std::{fs, path::Path};

use crate::command::run;

/// The state of the network namespace, as a user would list it.
pub fn snapshot() -> String {
    [
        "ip -d addr",
        "ip -d link",
        "ip -d route show table all",
        "ip -6 -d route show table all",
        "tc qdisc",
        "tc filter show dev lo ingress",
        "tc filter show dev lo egress",
        "ethtool -k lo",
    ]
    .map(|line| format!("# {line}\n{}", run(line)))
    .concat()
}

/// What emu has left outside of the network: state, pins, cgroups, network namespaces, mounts.
/// Locks stay, since others may wait for them.
pub fn left_behind() -> Vec<String> {
    let mut left = Vec::new();
    for folder in ["/run/emu", "/sys/fs/bpf/emu", "/sys/fs/cgroup/emu"] {
        list(Path::new(folder), &mut left);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains("/run/emu/"));
    left.extend(mounts.map(str::to_owned));
    left
}

fn list(folder: &Path, left: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // Files of the cgroup file system come with each folder.
        let is_control = !is_folder && path.starts_with("/sys/fs/cgroup");
        if is_control || name.ends_with(".lock") || name == "netns" {
            continue;
        }
        left.push(path.display().to_string());
        if is_folder {
            list(&path, left);
        }
    }
}
