//! What loads left of network namespaces that no longer exist: state, pinned maps, which
//! keep their memory, and cgroups. The kernel itself removed the rest with the namespace.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

use crate::{
    apply,
    cgroup::{self, Tree},
    machines,
    state::{self, StateError},
    threads,
};

/// Leftovers of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stale {
    /// Name of its state folder.
    pub name: String,
    /// Files and folders that are left.
    pub paths: Vec<PathBuf>,
}

/// Files that are a network namespace: those of processes, of their threads and open files,
/// and those that are mounted.
fn candidates() -> Vec<PathBuf> {
    let list = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten();
        entries.flatten().map(|entry| entry.path()).collect()
    };
    let mut files = Vec::new();
    for process in list(Path::new("/proc")) {
        let is_process = process
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !is_process {
            continue;
        }
        files.push(process.join("ns/net"));
        files.extend(
            list(&process.join("task"))
                .into_iter()
                .map(|task| task.join("ns/net")),
        );
        files.extend(list(&process.join("fd")).into_iter().filter(|fd| {
            fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("net:["))
        }));
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        let places = mounts.lines().filter(|line| line.contains(" - nsfs "));
        let places = places.filter_map(|line| line.split(' ').nth(4));
        files.extend(places.map(|place| process.join("root").join(place.trim_start_matches('/'))));
    }
    files
}

/// Names of the state folders of all namespaces that can be seen from here.
///
/// # Errors
/// [`StateError::Cookie`] for the caller's own namespace.
fn alive() -> Result<BTreeSet<String>, StateError> {
    let here = state::StateDir::here()?.name();
    let find = move || {
        let mut names = BTreeSet::from([here]);
        let mut seen = BTreeSet::new();
        for path in candidates() {
            let Ok(m) = fs::metadata(&path) else { continue };
            if !seen.insert((m.dev(), m.ino())) {
                continue;
            }
            let entered = File::open(&path)
                .ok()
                .is_some_and(|file| setns(file.as_fd(), CloneFlags::CLONE_NEWNET).is_ok());
            if entered && let Ok(dir) = state::StateDir::here() {
                names.insert(dir.name());
            }
        }
        names
    };
    // A thread of its own: it does not come back from the namespaces.
    // Without the list, namespaces that are alive would seem to be gone.
    threads::apart(find).map_err(StateError::Cookie)
}

/// Leftovers of namespaces that no longer exist.
///
/// # Errors
/// [`StateError`].
pub fn find() -> Result<Vec<Stale>, StateError> {
    let names = state::names();
    let alive = alive()?;
    if alive.is_empty() {
        return Ok(Vec::new());
    }
    let tree = Tree::find().ok();
    let mut stale = Vec::new();
    for name in names.difference(&alive) {
        let cgroup = tree.as_ref().map(|tree| tree.folder(name));
        // Its processes have sockets of the namespace, in whatever namespace they are.
        let used = cgroup.as_ref().is_some_and(|folder| {
            let processes = cgroup::processes(folder);
            processes.iter().any(|(_, ids)| !ids.is_empty())
        });
        if used || state::is_locked(name) {
            continue;
        }
        let mut paths = state::paths(name);
        paths.push(apply::pins(name));
        paths.extend(cgroup);
        paths.retain(|path| fs::symlink_metadata(path).is_ok());
        if !paths.is_empty() {
            stale.push(Stale {
                name: name.clone(),
                paths,
            });
        }
    }
    Ok(stale)
}

/// Removes leftovers; returns what could not be removed, with the reason.
pub fn remove(stale: &[Stale]) -> Vec<String> {
    let mut failures = Vec::new();
    for one in stale {
        if let Err(error) = Tree::find().and_then(|tree| tree.remove(&one.name)) {
            failures.push(error.to_string());
        }
        let paths = state::paths(&one.name);
        for path in paths.into_iter().chain([apply::pins(&one.name)]) {
            let removed = match fs::symlink_metadata(&path) {
                Err(_) => Ok(()),
                Ok(m) if m.is_dir() => {
                    machines::remove(&path).and_then(|()| fs::remove_dir_all(&path))
                }
                Ok(_) => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                failures.push(format!("{}: {error}", path.display()));
            }
        }
    }
    failures
}
