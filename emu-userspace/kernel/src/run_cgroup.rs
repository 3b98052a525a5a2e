//! The cgroup subtree of a run: `emu/ns-COOKIE/run-NAME/ADDRESS/PROGRAM`.
//!
//! All processes of a run are below one folder, so one write to its `cgroup.kill` ends all of
//! them, also after the run's own process has died.
use std::{
    collections::HashMap,
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cgroup::{self, CgroupError, Tree, file_error},
    controllers,
    identity::{self, Identities, IdentityError},
    machines::{Machines, Surroundings},
    session::Loaded,
    state::StateDir,
};
use emu_model::topology::Loopback;

/// The cgroup subtree of a run.
pub struct RunCgroup {
    tree: Tree,
    name: String,
    identities: Identities,
    machines: Machines,
    /// Places of all vnodes, if they have loopback of their own.
    places: HashMap<IpAddr, u32>,
    has_loopback_v6: bool,
    controllers: Vec<&'static str>,
}

#[derive(Debug)]
pub struct ProcessCgroup {
    path: PathBuf,
    folder: File,
    machine: Option<Surroundings>,
}

/// Path of a run below [`Tree::folder`], in the calling thread's network namespace.
fn full_name(dir: &StateDir, run: &str) -> String {
    format!("{}/{}{run}", dir.name(), cgroup::RUN)
}

impl RunCgroup {
    /// Creates the folder of a run, and attaches the hooks that make its processes vnodes if
    /// they are not attached yet.
    pub fn new(
        dir: &StateDir,
        run: &str,
        loaded: &Loaded,
        processes: u32,
    ) -> Result<Self, IdentityError> {
        let vnodes = u32::try_from(loaded.plan.vnodes.len()).unwrap_or(u32::MAX);
        let room = identity::usual_room(vnodes).max(vnodes.saturating_add(processes));
        let has_own_loopback = loaded.plan.loopback == Loopback::Own;
        let ready = identity::prepare(dir, room, has_own_loopback)?;
        let addresses = loaded.plan.vnodes.iter().map(|v| v.address);
        let places = if has_own_loopback {
            addresses.zip(loaded.slots.iter().copied()).collect()
        } else {
            HashMap::new()
        };
        let name = full_name(dir, run);
        cgroup::create(&ready.tree.folder(&name))?;
        Ok(Self {
            identities: Identities::open(ready.record.map_id)?,
            tree: ready.tree,
            machines: Machines::of(dir, &loaded.plan),
            name,
            places,
            has_loopback_v6: ready.record.has_loopback_v6,
            controllers: Vec::new(),
        })
    }

    /// Whether a vnode is a machine.
    pub fn is_machine(&self, vnode: IpAddr) -> bool {
        self.machines.has(vnode)
    }

    /// The wanted controllers that the cgroup tree does not have.
    pub fn missing_controllers(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        controllers::missing(&self.tree, wanted)
    }

    /// The wanted controllers that the machine's root cgroup does not delegate yet.
    pub fn new_at_root(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        controllers::new_at_root(&self.tree, wanted)
    }

    /// Enables controllers in all cgroups of the run that are created later.
    pub fn enable_controllers(&mut self, wanted: &[&'static str]) -> Result<(), CgroupError> {
        controllers::enable(&self.tree, &self.folder(), wanted)?;
        self.controllers = wanted.to_vec();
        Ok(())
    }

    /// Sets a vnode's CPU weight; the default of other vnodes is 100.
    pub fn set_weight(&self, vnode: IpAddr, weight: u32) -> Result<(), CgroupError> {
        let folder = self.folder().join(vnode.to_string());
        cgroup::create(&folder)?;
        put(&folder, "cpu.weight", weight.clamp(1, 10_000))
    }

    /// Creates the cgroup of a program on a vnode.
    pub fn process_cgroup(
        &mut self,
        vnode: IpAddr,
        program: &str,
    ) -> Result<ProcessCgroup, IdentityError> {
        let path = self.folder().join(vnode.to_string()).join(program);
        let id = cgroup::create(&path)?;
        if let Some(vnode) = path.parent().filter(|_| !self.controllers.is_empty()) {
            controllers::hand_on(vnode, &self.controllers)?;
        }
        let machine = self.machines.surroundings(vnode)?;
        // The map entry must exist before a process is in the cgroup.
        if machine.is_none() {
            let place = self.places.get(&vnode).copied();
            let who = identity::with_loopback(vnode, place, self.has_loopback_v6)?;
            self.identities.assign(id, &who)?;
        }
        let folder = cgroup::open(&path)?;
        Ok(ProcessCgroup {
            path,
            folder,
            machine,
        })
    }

    /// Removes the cgroup of a program that has ended. If processes are still dying in it,
    /// [`RunCgroup::remove`] removes it later.
    pub fn remove_process(&mut self, cgroup: ProcessCgroup) {
        if let Ok(id) = cgroup::identifier(&cgroup.path)
            && cgroup::remove(&cgroup.path).is_ok()
        {
            self.identities.forget(id);
        }
    }

    fn folder(&self) -> PathBuf {
        self.tree.folder(&self.name)
    }

    /// Kills all remaining processes and removes all cgroups.
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

/// Writes a setting of a cgroup.
fn put(folder: &Path, setting: &str, value: impl ToString) -> Result<(), CgroupError> {
    let file = folder.join(setting);
    fs::write(&file, value.to_string()).map_err(file_error("set", &file))
}

/// Disables the controllers that a run in the calling thread's network namespace had enabled
/// in the machine's root cgroup.
pub fn disable_controllers(names: &[&str]) -> Result<(), IdentityError> {
    let tree = Tree::find()?;
    let folder = tree.folder(&StateDir::here()?.name());
    controllers::take_back(&tree, &folder, names);
    Ok(())
}

/// Removes the cgroups of a run in the calling thread's network namespace after its process
/// has died.
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

impl ProcessCgroup {
    /// The open folder of the cgroup, for [`super::spawn`].
    pub fn folder(&self) -> &File {
        &self.folder
    }

    /// The namespaces of the vnode, if it is a machine.
    pub fn machine(&self) -> Option<&Surroundings> {
        self.machine.as_ref()
    }

    /// Identifiers of the processes in the cgroup.
    pub fn processes(&self) -> Vec<i32> {
        let found = cgroup::processes(&self.path).into_iter();
        found.flat_map(|(_, ids)| ids).collect()
    }

    /// Limits memory and forbids swap; if one process exceeds the limit, the kernel ends all
    /// processes of the cgroup.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        put(&self.path, "memory.max", bytes)?;
        put(&self.path, "memory.oom.group", 1)?;
        // The file does not exist on a kernel without swap.
        let _ = put(&self.path, "memory.swap.max", 0);
        Ok(())
    }

    /// Sets the CPU weight among the programs of its vnode.
    pub fn set_weight(&self, weight: u16) -> Result<(), CgroupError> {
        put(&self.path, "cpu.weight", weight)
    }

    /// Whether the memory limit has ended a process.
    pub fn was_out_of_memory(&self) -> bool {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        text.lines()
            .any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n != "0"))
    }

    /// Kills all processes, without waiting.
    pub fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_err() {
            // cgroup.kill came with Linux 5.14.
            self.signal(libc::SIGKILL);
        }
    }

    /// Sends a signal to all processes.
    pub fn signal(&self, signal: i32) {
        for id in self.processes().into_iter().filter(|id| *id > 0) {
            // SAFETY: takes numbers, of which the first is one process.
            unsafe { libc::kill(id, signal) };
        }
    }

    /// CPU time of all processes that have ever been in the cgroup.
    pub fn cpu(&self) -> Option<Duration> {
        let text = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
        line.parse().ok().map(Duration::from_micros)
    }
}
