//! The folder of results, and the working folders in it.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{chown, fchown},
    path::{Path, PathBuf},
};

use emu_kernel::user::{Credentials, Person};
use emu_model::experiment::{Process, Schedule};
use serde::Serialize;
use serde_json::Value;

use super::{Input, RunError, Summary, environment};

const ENVIRONMENT: &str = "environment.json";

/// The folder of results.
#[derive(Debug)]
pub(super) struct Files {
    out: PathBuf,
    owner: Option<Credentials>,
}

fn error(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    RunError::system(format!("{operation} {}", path.display()))
}

impl Files {
    /// Makes the folder; it may be there if it is empty.
    pub fn create(out: &Path, person: Option<&Person>) -> Result<Self, RunError> {
        let files = Self {
            out: std::path::absolute(out).map_err(error("find", out))?,
            owner: person.map(Person::credentials),
        };
        if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(RunError::Exists(out.to_owned()));
        }
        files.folder(&files.out)?;
        Ok(files)
    }

    /// Makes a folder and those around it, as the user's.
    fn folder(&self, path: &Path) -> Result<(), RunError> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.folder(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(error("make the folder", path)(e)),
            Ok(()) => self.own(path),
        }
    }

    fn own(&self, path: &Path) -> Result<(), RunError> {
        match &self.owner {
            Some(o) => chown(path, Some(o.uid), Some(o.gid)).map_err(error("give away", path)),
            None => Ok(()),
        }
    }

    /// Opens a file of the results.
    pub fn open(&self, path: &Path, append: bool) -> Result<File, RunError> {
        let file = OpenOptions::new()
            .create(true)
            .append(append)
            .write(true)
            .truncate(!append)
            .open(path)
            .map_err(error("open", path))?;
        if let Some(o) = &self.owner {
            fchown(&file, Some(o.uid), Some(o.gid)).map_err(error("give away", path))?;
        }
        Ok(file)
    }

    /// A table of the results.
    pub fn table(&self, name: &str) -> Result<csv::Writer<File>, RunError> {
        Ok(csv::Writer::from_writer(
            self.open(&self.out.join(name), false)?,
        ))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let path = self.out.join(name);
        let mut file = self.open(&path, false)?;
        io::Write::write_all(&mut file, bytes).map_err(error("write", &path))
    }

    /// Writes JSON.
    pub fn json(&self, name: &str, value: &impl Serialize) -> Result<(), RunError> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| error("write", Path::new(name))(e.into()))?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// What the run is made from.
    pub fn inputs(
        &self,
        input: &Input,
        schedule: &Schedule,
        environment: &Value,
    ) -> Result<(), RunError> {
        self.write("experiment.yaml", input.text.as_bytes())?;
        self.write("topology.yaml", input.topology_text.as_bytes())?;
        self.json("plan.json", schedule)?;
        self.json(ENVIRONMENT, environment)
    }

    /// Working folder of a process.
    pub fn work(&self, process: &Process) -> PathBuf {
        self.out.join("work").join(&process.folder)
    }

    /// Makes the working folder, empty if `fresh`.
    pub fn make_work(&self, process: &Process, fresh: bool) -> Result<PathBuf, RunError> {
        let path = self.work(process);
        if fresh && path.exists() {
            fs::remove_dir_all(&path).map_err(error("empty", &path))?;
        }
        self.folder(&path)?;
        Ok(path)
    }

    fn results(&self, process: &Process) -> PathBuf {
        self.out.join("vnodes").join(&process.folder)
    }

    /// Opens the files for what a process prints.
    pub fn logs(&self, process: &Process) -> Result<[File; 2], RunError> {
        let folder = self.results(process);
        self.folder(&folder)?;
        let open = |name: &str| self.open(&folder.join(name), true);
        Ok([open("stdout")?, open("stderr")?])
    }

    /// The last words that a process printed as errors.
    pub fn last_words(&self, process: &Process) -> Option<String> {
        const MOST: u64 = 4096;
        let mut file = File::open(self.results(process).join("stderr")).ok()?;
        let length = file.metadata().ok()?.len();
        io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(MOST))).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(line.trim().chars().take(200).collect())
    }

    /// Copies files of the working folder to the results; returns how many for each of
    /// the patterns. A later session's go to a folder of their own.
    pub fn collect(
        &self,
        process: &Process,
        patterns: &[String],
        session: Option<usize>,
    ) -> Result<Vec<usize>, RunError> {
        let work = self.work(process);
        let root = glob::Pattern::escape(&work.display().to_string());
        let mut counts = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let mut count = 0;
            let found = glob::glob(&format!("{root}/{pattern}"))
                .into_iter()
                .flatten();
            for path in found.flatten() {
                let plain = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
                let Some(below) = path.strip_prefix(&work).ok().filter(|_| plain) else {
                    continue;
                };
                let mut to = self.results(process);
                if let Some(session) = session {
                    to = to.join(format!("session-{session}"));
                }
                let to = to.join(below);
                if let Some(folder) = to.parent() {
                    self.folder(folder)?;
                }
                fs::copy(&path, &to).map_err(error("copy", &path))?;
                self.own(&to)?;
                count += 1;
            }
            counts.push(count);
        }
        Ok(counts)
    }

    /// Writes the summary, completes the environment, and removes the working folders.
    pub fn finish(
        &self,
        summary: &Summary,
        environment: &mut Value,
        keep_work: bool,
    ) -> Result<(), RunError> {
        self.json("summary.json", summary)?;
        environment::add_packages(environment);
        self.json(ENVIRONMENT, environment)?;
        let work = self.out.join("work");
        if keep_work || !work.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&work).map_err(error("remove", &work))
    }
}
