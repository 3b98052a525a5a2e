//! Putting the results of several hosts together: one folder, as if one host had run
//! it all, in which every row says which host it is from.
//!
//! It reads what [`crate::run`] writes and starts nothing.
mod report;
mod summary;
mod tables;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use emu_report::ReportError;
use serde_json::{Value, json};

pub use summary::{HostPart, Merged, State};

use crate::rendezvous::{self, Word};

/// Results that cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file or folder.
    #[error("{what}: {source}")]
    System {
        /// Operation and object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the results is not what it should be.
    #[error("{}: {what}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Not the results of one run.
    #[error("{} and {} are of different runs: {what} differs", a.display(), b.display())]
    Different {
        /// A folder.
        a: PathBuf,
        /// Another one.
        b: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// Two parts of one host.
    #[error("{} and {} are both of host {host}", a.display(), b.display())]
    Twice {
        /// A folder.
        a: PathBuf,
        /// Another one.
        b: PathBuf,
        /// The host.
        host: String,
    },
    /// The report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Nothing to put together.
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
pub struct Part {
    /// Its name in the topology.
    pub host: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl Part {
    /// Reads whose results a folder has.
    ///
    /// # Errors
    /// [`MergeError::Nothing`], or a plan that is none.
    pub fn read(folder: &Path) -> Result<Self, MergeError> {
        let plan = read_json(&folder.join("plan.json"))?
            .ok_or_else(|| MergeError::Nothing(folder.to_owned()))?;
        let host = plan["host"].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            host,
            folder: folder.to_owned(),
        })
    }
}

/// The parts and the words of a run over several hosts that shared a folder.
///
/// # Errors
/// [`MergeError::Nothing`].
pub fn shared(folder: &Path) -> Result<(Vec<Part>, Vec<Word>), MergeError> {
    let hosts = folder.join("hosts");
    let entries = fs::read_dir(&hosts).map_err(|_| MergeError::Nothing(folder.to_owned()))?;
    let mut parts = Vec::new();
    for entry in entries.flatten() {
        // A host that was lost early may have left nothing.
        if let Ok(part) = Part::read(&entry.path()) {
            parts.push(part);
        }
    }
    let words = rendezvous::words(folder);
    let rank = |part: &Part| words.iter().position(|w| w.host == part.host);
    parts.sort_by(|a, b| (rank(a), &a.host).cmp(&(rank(b), &b.host)));
    Ok((parts, words))
}

/// Puts parts together in a folder: tables with a column `host`, all vnodes' files,
/// one summary and one report. With `take`, the vnodes' files are moved, else copied.
///
/// # Errors
/// [`MergeError`].
pub fn merge(parts: &[Part], words: &[Word], out: &Path, take: bool) -> Result<Merged, MergeError> {
    agree(parts)?;
    fs::create_dir_all(out).map_err(MergeError::system("make", out))?;
    for name in ["experiment.yaml", "topology.yaml"] {
        if let Some(part) = parts.iter().find(|p| p.folder.join(name).exists()) {
            let (from, to) = (part.folder.join(name), out.join(name));
            if from != to {
                fs::copy(&from, &to).map_err(MergeError::system("copy", &from))?;
            }
        }
    }
    let mut plan: Option<Value> = None;
    let mut environments = BTreeMap::new();
    for part in parts {
        if let Some(one) = read_json(&part.folder.join("plan.json"))? {
            add_plan(&mut plan, one);
        }
        if let Some(one) = read_json(&part.folder.join("environment.json"))? {
            environments.insert(&part.host, one);
        }
        vnodes(&part.folder.join("vnodes"), &out.join("vnodes"), take)?;
    }
    write_json(&out.join("plan.json"), &plan.unwrap_or_default())?;
    write_json(
        &out.join("environment.json"),
        &json!({"hosts": environments}),
    )?;
    for (name, order) in tables::TABLES {
        tables::merge(parts, name, order, out)?;
    }
    let merged = Merged::new(parts, words, out)?;
    report::write(&merged, out)?;
    // Last: who waits for it finds everything else.
    write_json(&out.join("summary.json"), &merged)?;
    Ok(merged)
}

/// All must be of one run, each of another host.
fn agree(parts: &[Part]) -> Result<(), MergeError> {
    let mut hosts: BTreeMap<&str, &Path> = BTreeMap::new();
    for part in parts {
        if let Some(before) = hosts.insert(&part.host, &part.folder) {
            return Err(MergeError::Twice {
                a: before.to_owned(),
                b: part.folder.clone(),
                host: part.host.clone(),
            });
        }
    }
    let Some((first, rest)) = parts.split_first() else {
        return Ok(());
    };
    let text = |part: &Part, name: &str| fs::read(part.folder.join(name)).ok();
    let seed = |part: &Part| -> Result<Value, MergeError> {
        let plan = read_json(&part.folder.join("plan.json"))?;
        Ok(plan.map(|p| p["seed"].clone()).unwrap_or_default())
    };
    let first_seed = seed(first)?;
    for part in rest {
        let differs = |what| MergeError::Different {
            a: first.folder.clone(),
            b: part.folder.clone(),
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

/// The plan of all: the first one's with everybody's processes.
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

/// Brings the folders of vnodes over; each vnode is on one host.
fn vnodes(from: &Path, to: &Path, take: bool) -> Result<(), MergeError> {
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    fs::create_dir_all(to).map_err(MergeError::system("make", to))?;
    for entry in entries.flatten() {
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if take && !new.exists() {
            fs::rename(&old, &new).map_err(MergeError::system("move", &old))?;
        } else {
            copy(&old, &new)?;
        }
    }
    if take {
        // Empty by now, but for what was copied.
        let _ = fs::remove_dir(from);
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), MergeError> {
    if !from.is_dir() {
        return fs::copy(from, to)
            .map(|_| ())
            .map_err(MergeError::system("copy", from));
    }
    fs::create_dir_all(to).map_err(MergeError::system("make", to))?;
    let entries = fs::read_dir(from).map_err(MergeError::system("read", from))?;
    for entry in entries.flatten() {
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Reads JSON; none if there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, MergeError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(MergeError::system("read", path)(error)),
    };
    let value = serde_json::from_slice(&bytes).map_err(|e| MergeError::Bad {
        path: path.to_owned(),
        what: e.to_string(),
    })?;
    Ok(Some(value))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), MergeError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| MergeError::system("write", path)(e.into()))?;
    bytes.push(b'\n');
    // As a whole: who waits for the file may read it.
    let new = path.with_extension("json.new");
    fs::write(&new, bytes).map_err(MergeError::system("write", &new))?;
    fs::rename(&new, path).map_err(MergeError::system("write", path))
}

#[cfg(test)]
mod tests;
