//! The folder of results, and the working folders in it.
//!
//! During the run the folders of results belong to root, so that no program can put a link or
//! a fifo where root writes or reads. Programs own their working folders and the files of
//! their output. At the end everything is given to the user.
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::fs::{FileExt, fchown},
    path::{Path, PathBuf},
};

use emu_kernel::{
    beneath::Folder,
    user::{Credentials, Person},
};
use emu_model::experiment::{Process, Schedule};
use serde::Serialize;
use serde_json::Value;

use super::{Input, RunError, Summary, digest, environment};

const ENVIRONMENT: &str = "environment.json";
/// Name of the folder with the working folders.
const WORK: &str = "work";
/// Name of the folder with the programs' output and the collected files.
const VNODES: &str = "vnodes";

#[derive(Debug)]
pub(super) struct Files {
    out: Folder,
    /// Parent folders that were created for the results.
    around: Vec<Folder>,
    owner: Option<Credentials>,
    /// Owner and group of the folder before the run.
    before: (u32, u32),
}

/// Whether an error is due to what a program did with its own files.
fn is_theirs(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidInput, IsADirectory, NotADirectory, NotFound};
    matches!(
        kind,
        FileTooLarge | InvalidInput | IsADirectory | NotADirectory | NotFound
    )
}

fn error(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> RunError {
    RunError::system(format!("{operation} {}", path.display()))
}

impl Files {
    /// Digest of the tables of the results.
    pub fn digest(&self) -> io::Result<String> {
        digest::of_results(&self.out)
    }

    /// Creates the folder, or takes an existing one if it is empty.
    pub fn create(out: &Path, person: Option<&Person>) -> Result<Self, RunError> {
        let (folder, around) = Folder::make(out).map_err(error("make the folder", out))?;
        Self::within(folder, around, person)
    }

    /// Creates the folder of this host below the folder that the hosts share.
    pub fn create_in(
        shared: &Folder,
        below: &Path,
        person: Option<&Person>,
    ) -> Result<Self, RunError> {
        let path = shared.path().join(below);
        let folder = shared.make_folder(below);
        let folder = folder.map_err(error("make the folder", &path))?;
        Self::within(folder, Vec::new(), person)
    }

    fn within(out: Folder, around: Vec<Folder>, person: Option<&Person>) -> Result<Self, RunError> {
        let path = out.path().to_owned();
        let entries = out.entries().map_err(error("read", &path))?;
        if !entries.is_empty() {
            return Err(RunError::Exists(path));
        }
        let before = match out.take() {
            // A file server may map root to nobody; all further access uses descriptors.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => out.owner(),
            other => other,
        };
        let before = before.map_err(error("take", &path))?;
        let owner = person.map(Person::credentials);
        let files = Self {
            out,
            around,
            owner,
            before,
        };
        for folder in files.around.iter().chain([&files.out]) {
            files.let_pass(folder)?;
        }
        Ok(files)
    }

    /// Lets the programs of the user pass through a folder of root.
    fn let_pass(&self, folder: &Folder) -> Result<(), RunError> {
        match &self.owner {
            Some(_) => folder.let_pass().map_err(error("open up", folder.path())),
            None => Ok(()),
        }
    }

    /// Gives a new file to the user.
    fn own(&self, file: &File, path: &Path) -> Result<(), RunError> {
        match &self.owner {
            Some(o) => fchown(file, Some(o.uid), Some(o.gid)).map_err(error("give away", path)),
            None => Ok(()),
        }
    }

    /// Creates the folder of a process below another one, owned by root.
    fn folder(&self, kind: &str, below: impl AsRef<Path>) -> Result<Folder, RunError> {
        let path = Path::new(kind).join(below);
        let mut folder = self.out.again().map_err(error("open", &path))?;
        for name in &path {
            let next = folder.make_folder(name);
            folder = next.map_err(error("make the folder", &self.out.path().join(&path)))?;
            self.let_pass(&folder)?;
        }
        Ok(folder)
    }

    /// Creates a table of the results.
    pub fn table(&self, name: &str) -> Result<csv::Writer<File>, RunError> {
        let file = self
            .out
            .create(name)
            .map_err(error("make", Path::new(name)))?;
        Ok(csv::Writer::from_writer(file))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let path = self.out.path().join(name);
        let mut file = self.out.create(name).map_err(error("make", &path))?;
        file.write_all(bytes).map_err(error("write", &path))
    }

    pub fn json(&self, name: &str, value: &impl Serialize) -> Result<(), RunError> {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| error("write", Path::new(name))(e.into()))?;
        bytes.push(b'\n');
        self.write(name, &bytes)
    }

    /// Writes the inputs of the run: experiment, topology, plan, environment.
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

    /// Creates the working folder of a process, owned by the user, and empty if `fresh`.
    pub fn make_work(&self, process: &Process, fresh: bool) -> Result<Folder, RunError> {
        let below = Path::new(&process.folder);
        let path = self.out.path().join(WORK).join(below);
        if fresh {
            let old = Path::new(WORK).join(below);
            self.out.remove(old).map_err(error("empty", &path))?;
        }
        let around = below.parent().unwrap_or(Path::new(""));
        let around = self.folder(WORK, around)?;
        let name = below.file_name().unwrap_or_default();
        let work = around.make_folder(name).map_err(error("make", &path))?;
        if let Some(o) = &self.owner {
            work.give(o.uid, o.gid).map_err(error("give away", &path))?;
        }
        Ok(work)
    }

    /// Opens the files for a process's standard output and standard error.
    pub fn logs(&self, process: &Process) -> Result<[File; 2], RunError> {
        let folder = self.folder(VNODES, &process.folder)?;
        let open = |name: &str| -> Result<File, RunError> {
            let path = folder.path().join(name);
            let file = folder.append(name).map_err(error("open", &path))?;
            // They belong to the user, since programs open /dev/stdout and /dev/stderr by
            // name.
            self.own(&file, &path)?;
            Ok(file)
        };
        Ok([open("stdout")?, open("stderr")?])
    }

    /// The last line that a process wrote to standard error.
    pub fn last_words(&self, process: &Process) -> Option<String> {
        const MOST: u64 = 4096;
        let path = Path::new(VNODES).join(&process.folder).join("stderr");
        let file = self.out.file(path).ok()?;
        let at = file.metadata().ok()?.len().saturating_sub(MOST);
        let mut bytes = vec![0; MOST as usize];
        let count = file.read_at(&mut bytes, at).ok()?;
        let text = String::from_utf8_lossy(&bytes[..count]);
        let line = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(line.trim().chars().take(200).collect())
    }

    /// Copies files of the working folder to the results; returns the number of files for
    /// each pattern. Files of a later session go to a folder of their own. Links, fifos and
    /// files of other users are skipped.
    pub fn collect(
        &self,
        process: &Process,
        patterns: &[String],
        session: Option<usize>,
    ) -> Result<Vec<usize>, RunError> {
        let work = Path::new(WORK).join(&process.folder);
        let Ok(work) = self.out.folder(work) else {
            return Ok(vec![0; patterns.len()]);
        };
        let mut to = PathBuf::from(&process.folder);
        if let Some(session) = session {
            to = to.join(format!("session-{session}"));
        }
        let matches = |part: &str, name: &OsString| {
            let pattern = glob::Pattern::new(part);
            let name = name.to_string_lossy();
            pattern.is_ok_and(|pattern| pattern.matches(&name))
        };
        let mut counts = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let found = work.find(pattern, &matches);
            let mut count = 0;
            for path in found.map_err(error("search", work.path()))? {
                // The file may have disappeared or changed its type meanwhile.
                let Ok(file) = work.file(&path) else { continue };
                drop(file);
                let around = to.join(path.parent().unwrap_or(Path::new("")));
                let folder = self.folder(VNODES, around)?;
                let name = path.file_name().unwrap_or_default();
                match work.copy(&path, &folder, name) {
                    // The file has changed meanwhile, or is of a type that cannot be kept.
                    Err(e) if is_theirs(e.kind()) => {}
                    Err(e) => return Err(error("copy", &work.path().join(&path))(e)),
                    Ok(_) => count += 1,
                }
            }
            counts.push(count);
        }
        Ok(counts)
    }

    /// Writes the summary, completes the environment, removes the working folders, and gives
    /// everything to the user.
    pub fn finish(
        &self,
        summary: &Summary,
        environment: &mut Value,
        keep_work: bool,
    ) -> Result<(), RunError> {
        self.json("summary.json", summary)?;
        environment::add_packages(environment);
        self.json(ENVIRONMENT, environment)?;
        let removed = match keep_work {
            true => Ok(()),
            false => {
                let path = self.out.path().join(WORK);
                self.out.remove(WORK).map_err(error("remove", &path))
            }
        };
        self.hand_over()?;
        removed
    }

    /// Gives the results to the user, innermost first: from then on the user may change them.
    fn hand_over(&self) -> Result<(), RunError> {
        let path = self.out.path();
        let Some(o) = &self.owner else {
            let (uid, gid) = self.before;
            return self.out.give(uid, gid).map_err(error("give back", path));
        };
        let all = self.out.give_all(o.uid, o.gid);
        all.map_err(error("hand over", path))?;
        for folder in self.around.iter().rev() {
            let given = folder.give(o.uid, o.gid);
            given.map_err(error("hand over", folder.path()))?;
        }
        Ok(())
    }
}
