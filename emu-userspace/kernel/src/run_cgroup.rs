//! The cgroups of a run: `emu/ns-COOKIE/run-NAME/ADDRESS/PROGRAM`.
//!
//! All of a run is below one folder, so that one write to its `cgroup.kill` ends all
//! of it, whoever writes.
use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cgroup::{self, CgroupError, Tree, file_error},
    controllers,
    identity::{self, Identities, IdentityError},
    state::StateDir,
};

/// The cgroups of a run.
pub struct Cohort {
    tree: Tree,
    name: String,
    identities: Identities,
    controllers: Vec<&'static str>,
}

/// The cgroup of one program on one vnode.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    folder: File,
}

/// Name below [`Tree::folder`] of a run in the calling thread's network namespace.
fn full_name(dir: &StateDir, run: &str) -> String {
    format!("{}/{}{run}", dir.name(), cgroup::RUN)
}

impl Cohort {
    /// Makes the folder of a run, and attaches the hooks that make its processes
    /// vnodes, if they are not.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(
        dir: &StateDir,
        run: &str,
        vnodes: u32,
        processes: u32,
    ) -> Result<Self, IdentityError> {
        let room = identity::usual_room(vnodes).max(vnodes.saturating_add(processes));
        let ready = identity::prepare(dir, room)?;
        let name = full_name(dir, run);
        cgroup::create(&ready.tree.folder(&name))?;
        Ok(Self {
            identities: Identities::open(ready.record.map_id)?,
            tree: ready.tree,
            name,
            controllers: Vec::new(),
        })
    }

    /// Controllers of a list that the cgroup tree does not have.
    pub fn lacks(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        controllers::missing(&self.tree, wanted)
    }

    /// Controllers of a list that would have to be handed on by the machine's own root.
    pub fn new_at_root(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        controllers::new_at_root(&self.tree, wanted)
    }

    /// Makes controllers work in all places from now on.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn control(&mut self, wanted: &[&'static str]) -> Result<(), CgroupError> {
        controllers::enable(&self.tree, &self.folder(), wanted)?;
        self.controllers = wanted.to_vec();
        Ok(())
    }

    /// Gives a vnode a share of busy processors, against 100 of others.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn set_weight(&self, vnode: IpAddr, weight: u32) -> Result<(), CgroupError> {
        let folder = self.folder().join(vnode.to_string());
        cgroup::create(&folder)?;
        put(&folder, "cpu.weight", weight.clamp(1, 10_000))
    }

    /// Makes the cgroup of a program on a vnode.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn place(&mut self, vnode: IpAddr, program: &str) -> Result<Place, IdentityError> {
        let path = self.folder().join(vnode.to_string()).join(program);
        let id = cgroup::create(&path)?;
        if let Some(vnode) = path.parent().filter(|_| !self.controllers.is_empty()) {
            controllers::hand_on(vnode, &self.controllers)?;
        }
        // Before a process is in it.
        self.identities.assign(id, vnode)?;
        let folder = File::open(&path).map_err(file_error("open the cgroup", &path))?;
        Ok(Place { path, folder })
    }

    /// Removes the cgroup of a program that has ended. What still dies in it is left
    /// to [`Cohort::remove`].
    pub fn leave(&mut self, place: Place) {
        if let Ok(id) = cgroup::identifier(&place.path)
            && cgroup::remove(&place.path).is_ok()
        {
            self.identities.forget(id);
        }
    }

    fn folder(&self) -> PathBuf {
        self.tree.folder(&self.name)
    }

    /// Kills what is left and removes all cgroups.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(mut self) -> Result<(), CgroupError> {
        let folder = self.folder();
        clear(&folder, &mut self.identities)
    }
}

fn clear(folder: &Path, identities: &mut Identities) -> Result<(), CgroupError> {
    if !folder.exists() {
        return Ok(());
    }
    cgroup::kill_all(folder)?;
    for id in cgroup::identifiers(folder) {
        identities.forget(id);
    }
    cgroup::remove(folder)
}

/// Stores a setting of a cgroup.
fn put(folder: &Path, setting: &str, value: impl ToString) -> Result<(), CgroupError> {
    let file = folder.join(setting);
    fs::write(&file, value.to_string()).map_err(file_error("set", &file))
}

/// Takes back controllers that a run in the calling thread's network namespace had
/// the machine's own root hand on.
///
/// # Errors
/// [`IdentityError`].
pub fn take_back(names: &[&str]) -> Result<(), IdentityError> {
    let tree = Tree::find()?;
    let folder = tree.folder(&StateDir::here()?.name());
    controllers::take_back(&tree, &folder, names);
    Ok(())
}

/// Does away with a run whose process is gone, in the calling thread's network
/// namespace.
///
/// # Errors
/// [`IdentityError`].
pub fn clear_after(run: &str) -> Result<(), IdentityError> {
    let dir = StateDir::here()?;
    let tree = Tree::find()?;
    let folder = tree.folder(&full_name(&dir, run));
    match dir.identity() {
        Some(record) => {
            let mut identities = Identities::open(record.map_id)?;
            Ok(clear(&folder, &mut identities)?)
        }
        None => Ok(cgroup::kill_all(&folder)?),
    }
}

impl Place {
    /// Its folder, open, for [`super::spawn`].
    pub fn folder(&self) -> &File {
        &self.folder
    }

    /// Processes that are in it.
    pub fn processes(&self) -> Vec<i32> {
        let found = cgroup::processes(&self.path).into_iter();
        found.flat_map(|(_, ids)| ids).collect()
    }

    /// Limits memory; without swap, and all of them end if one takes too much.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        put(&self.path, "memory.max", bytes)?;
        put(&self.path, "memory.oom.group", 1)?;
        // Not there without swap.
        let _ = put(&self.path, "memory.swap.max", 0);
        Ok(())
    }

    /// Gives it a share of busy processors among the programs of its vnode.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn set_weight(&self, weight: u16) -> Result<(), CgroupError> {
        put(&self.path, "cpu.weight", weight)
    }

    /// Whether the memory limit ended something.
    pub fn was_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        text.lines()
            .any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n != "0"))
    }

    /// Kills all of them, without waiting.
    pub fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            // cgroup.kill came with Linux 5.14.
            self.signal(libc::SIGKILL);
        }
    }

    /// Sends all of them a signal.
    pub fn signal(&self, signal: i32) {
        for id in self.processes().into_iter().filter(|id| *id > 0) {
            // SAFETY: takes numbers, of which the first is one process.
            unsafe { libc::kill(id, signal) };
        }
    }

    /// Processor time of all that ever was in it.
    pub fn cpu(&self) -> Option<Duration> {
        let text = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
        line.parse().ok().map(Duration::from_micros)
    }
}
