//! Merges the results of several hosts into one folder, with tables in which every row names
//! its host.
//!
//! It reads the files that [`crate::run`] writes, and starts nothing.
mod report;
mod summary;
mod tables;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use emu_kernel::beneath::{FileKind, Folder};
use emu_model::name::Name;
use emu_report::ReportError;
use serde_json::{Value, json};

pub use summary::{HostOutcome, HostSummary, Merged};

use crate::rendezvous::{self, HostStatus};

/// Largest file of results that is read into memory, in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// Why results cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
    /// A file of the results has the wrong format.
    #[error("{}: {what}", path.display())]
    Bad { path: PathBuf, what: String },
    /// The folders belong to different runs.
    #[error("{} and {} are of different runs: {what} differs", a.display(), b.display())]
    Different {
        a: PathBuf,
        b: PathBuf,
        what: &'static str,
    },
    /// Two folders belong to the same host.
    #[error("{} and {} are both of host {host}", a.display(), b.display())]
    Twice {
        a: PathBuf,
        b: PathBuf,
        host: String,
    },
    #[error(transparent)]
    Report(#[from] ReportError),
    /// There are no results.
    #[error(
        "{} has no results: neither hosts/ of a run over several hosts nor plan.json of one", .0.display()
    )]
    Nothing(PathBuf),
}

impl MergeError {
    fn system(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{operation} {}", path.display());
        |source| MergeError::System { what, source }
    }
}

/// The results of one host.
#[derive(Debug, Clone)]
pub struct HostResults {
    /// Name of the host in the topology.
    pub host: String,
    pub folder: Arc<Folder>,
}

impl HostResults {
    /// Reads the name of the host whose results are in a folder.
    ///
    /// # Errors
    /// [`MergeError::Nothing`], or a damaged `plan.json`.
    pub fn read(folder: Folder) -> Result<Self, MergeError> {
        let plan = read_json(&folder, "plan.json")?
            .ok_or_else(|| MergeError::Nothing(folder.path().to_owned()))?;
        let host = plan["host"].as_str().unwrap_or_default().to_owned();
        // A run over one host has no name of a host.
        if !host.is_empty() && Name::new(host.as_str()).is_err() {
            return Err(MergeError::Nothing(folder.path().to_owned()));
        }
        Ok(Self {
            host,
            folder: Arc::new(folder),
        })
    }
}

/// The results and the status of each host of a run with a shared folder.
pub fn shared(folder: &Folder) -> Result<(Vec<HostResults>, Vec<HostStatus>), MergeError> {
    let nothing = |_| MergeError::Nothing(folder.path().to_owned());
    let hosts = folder.folder("hosts").map_err(nothing)?;
    let entries = hosts.entries().map_err(nothing)?;
    let mut parts = Vec::new();
    for (name, _) in entries
        .into_iter()
        .filter(|(_, kind)| *kind == FileKind::Folder)
    {
        // A host that was lost early may have left no results.
        if let Ok(part) = hosts
            .folder(&name)
            .map_err(nothing)
            .and_then(HostResults::read)
        {
            parts.push(part);
        }
    }
    let statuses = rendezvous::statuses(folder);
    let rank = |part: &HostResults| statuses.iter().position(|s| s.host == part.host);
    parts.sort_by(|a, b| (rank(a), &a.host).cmp(&(rank(b), &b.host)));
    Ok((parts, statuses))
}

/// Merges the results of hosts in a folder: tables with a column `host`, the files of all
/// vnodes, one summary and one report. With `take`, the vnodes' files are moved, otherwise
/// copied.
pub fn merge(
    parts: &[HostResults],
    statuses: &[HostStatus],
    out: &Folder,
    take: bool,
) -> Result<Merged, MergeError> {
    agree(parts)?;
    for name in ["experiment.yaml", "topology.yaml"] {
        let text = parts
            .iter()
            .find_map(|p| p.folder.read(name, MOST_BYTES).ok());
        if let Some(text) = text {
            let replaced = out.replace(name, &text);
            replaced.map_err(MergeError::system("write", &out.path().join(name)))?;
        }
    }
    let mut plan: Option<Value> = None;
    let mut environments = BTreeMap::new();
    let mut left_out = Vec::new();
    for part in parts {
        if let Some(one) = read_json(&part.folder, "plan.json")? {
            add_plan(&mut plan, one);
        }
        if let Some(one) = read_json(&part.folder, "environment.json")? {
            environments.insert(&part.host, one);
        }
        let mut strange = 0;
        vnodes(&part.folder, out, take, &mut strange)?;
        if strange > 0 {
            left_out.push(format!(
                "{}: {strange} entries of its vnodes' folders were left out: links, fifos, or \
                 another user's",
                part.host
            ));
        }
    }
    write_json(out, "plan.json", &plan.unwrap_or_default())?;
    write_json(out, "environment.json", &json!({"hosts": environments}))?;
    for (name, order) in tables::TABLES {
        tables::merge(parts, name, order, out)?;
    }
    let mut merged = Merged::new(parts, statuses, out.path())?;
    merged.warnings.extend(left_out);
    report::write(&merged, out)?;
    // The summary is written last: a program that waits for it finds everything else.
    write_json(out, "summary.json", &merged)?;
    Ok(merged)
}

/// Checks that all results are of one run, each of another host.
fn agree(parts: &[HostResults]) -> Result<(), MergeError> {
    let mut hosts: BTreeMap<&str, &Path> = BTreeMap::new();
    for part in parts {
        if let Some(before) = hosts.insert(&part.host, part.folder.path()) {
            return Err(MergeError::Twice {
                a: before.to_owned(),
                b: part.folder.path().to_owned(),
                host: part.host.clone(),
            });
        }
    }
    let Some((first, rest)) = parts.split_first() else {
        return Ok(());
    };
    let text = |part: &HostResults, name: &str| part.folder.read(name, MOST_BYTES).ok();
    let seed = |part: &HostResults| -> Result<Value, MergeError> {
        let plan = read_json(&part.folder, "plan.json")?;
        Ok(plan.map(|p| p["seed"].clone()).unwrap_or_default())
    };
    let first_seed = seed(first)?;
    for part in rest {
        let differs = |what| MergeError::Different {
            a: first.folder.path().to_owned(),
            b: part.folder.path().to_owned(),
            what,
        };
        for name in ["experiment.yaml", "topology.yaml"] {
            if text(first, name) != text(part, name) {
                return Err(differs(name));
            }
        }
        if seed(part)? != first_seed {
            return Err(differs("the seed"));
        }
    }
    Ok(())
}

/// Adds the processes of one host's plan to the merged plan.
fn add_plan(plan: &mut Option<Value>, mut one: Value) {
    let host = one["host"].clone();
    let mut processes = one["processes"].take();
    for process in processes.as_array_mut().into_iter().flatten() {
        process["host"] = host.clone();
    }
    let plan = plan.get_or_insert_with(|| {
        one["host"] = Value::Null;
        one["processes"] = json!([]);
        one
    });
    if let (Some(all), Value::Array(more)) = (plan["processes"].as_array_mut(), processes) {
        all.extend(more);
    }
}

/// Name of the folder with the output of the vnodes' programs.
const VNODES: &str = "vnodes";

/// Copies or moves the folders of vnodes; each vnode is on one host. Counts entries that are
/// neither a folder nor a file of the folder's owner.
fn vnodes(part: &Folder, out: &Folder, take: bool, strange: &mut usize) -> Result<(), MergeError> {
    let Ok(from) = part.folder(VNODES) else {
        return Ok(());
    };
    let to = out.make_folder(VNODES);
    let to = to.map_err(MergeError::system("make", &out.path().join(VNODES)))?;
    let entries = from.entries();
    for (name, kind) in entries.map_err(MergeError::system("read", from.path()))? {
        let old = from.path().join(&name);
        if take && kind == FileKind::Folder && to.folder(&name).is_err() {
            let moved = from.rename(&name, &to, &name);
            moved.map_err(MergeError::system("move", &old))?;
        } else {
            copy(&from, &to, &name, kind, strange)?;
        }
    }
    if take {
        // Only copied files may be left.
        let _ = part.remove_empty(VNODES);
    }
    Ok(())
}

fn copy(
    from: &Folder,
    to: &Folder,
    name: &OsStr,
    kind: FileKind,
    strange: &mut usize,
) -> Result<(), MergeError> {
    let path = from.path().join(name);
    if kind != FileKind::Folder {
        match from.copy(name, to, name) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                return Err(MergeError::system("copy", &path)(e));
            }
            Err(_) => *strange += 1,
        }
        return Ok(());
    }
    let from = from
        .folder(name)
        .map_err(MergeError::system("read", &path))?;
    let made = to.make_folder(name);
    let to = made.map_err(MergeError::system("make", &to.path().join(name)))?;
    let entries = from.entries();
    for (name, kind) in entries.map_err(MergeError::system("read", &path))? {
        copy(&from, &to, &name, kind, strange)?;
    }
    Ok(())
}

/// Reads JSON; `None` if the file does not exist.
fn read_json(folder: &Folder, name: &str) -> Result<Option<Value>, MergeError> {
    let path = folder.path().join(name);
    let bytes = match folder.read(name, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MergeError::system("read", &path)(error)),
    };
    let value = serde_json::from_slice(&bytes).map_err(|e| MergeError::Bad {
        path,
        what: e.to_string(),
    })?;
    Ok(Some(value))
}

fn write_json(
    folder: &Folder,
    name: &str,
    value: &impl serde::Serialize,
) -> Result<(), MergeError> {
    let path = folder.path().join(name);
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| MergeError::system("write", &path)(e.into()))?;
    bytes.push(b'\n');
    // Written as a whole, since other programs may wait for the file.
    let replaced = folder.replace(name, &bytes);
    replaced
        .map(drop)
        .map_err(MergeError::system("write", &path))
}

#[cfg(test)]
mod tests;
