//! Processes of vnodes: their cgroups, and the programs that give their sockets the vnode's
//! address.
//!
//! The programs are attached once, to the cgroup of the network namespace, when its first
//! process starts. They find the vnode by the identifier of its cgroup in a hash map. They
//! are attached without links, since the pins of links would not outlive the mount namespace
//! of `ip netns exec`; removing the cgroup detaches them.
mod loopback;

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray},
    programs::{Program, ProgramError, ProgramFd},
};
use emu_common::{
    layout::Identity,
    model::identity::{SocketEvent, loopback::PLACES},
    names::{self, MAP_EVENTS, MAP_IDENTITY, MAP_SOCKETS, MAP_V6_ONLY},
};

pub(super) use loopback::with_loopback;
pub use loopback::with_shared_loopback;

use super::{
    bpf::{self, BpfError},
    cgroup::{self, CgroupError, Tree},
    machines::{MachineError, Machines},
    netlink::NetlinkError,
    state::{IdentityRecord, SharedLock, StateDir, StateError, Undo, WriterLock},
};

/// Why a process could not join a vnode.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A program could not be attached.
    #[error("attach {program} to the cgroup: {source}")]
    Attach {
        program: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting of the kernel.
    #[error("set {}: {source}", path.display())]
    Sysctl { path: PathBuf, source: io::Error },
    /// There are fewer loopback addresses than vnodes.
    #[error(
        "{vnode} can have no loopback of its own: only the first {} vnodes of a host can; \
         `loopback: shared` in the topology lets all use the machine's",
        PLACES
    )]
    NoLoopback { vnode: IpAddr },
    /// The topology went away meanwhile.
    #[error("the topology was unloaded meanwhile")]
    Gone,
}

/// `enum bpf_attach_type` of the uapi header linux/bpf.h; `None` for a program that is no hook.
fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "emu_guard_in" => 0,
        "emu_guard" => 1,
        "emu_socket" => 2,
        "emu_bind4" => 8,
        "emu_bind6" => 9,
        "emu_connect4" => 10,
        "emu_connect6" => 11,
        "emu_sendmsg4" => 14,
        "emu_sendmsg6" => 15,
        "emu_recvmsg4" => 19,
        "emu_recvmsg6" => 20,
        "emu_setsockopt" => 22,
        "emu_peername4" => 29,
        "emu_peername6" => 30,
        "emu_sockname4" => 31,
        "emu_sockname6" => 32,
        _ => return None,
    })
}

/// Sockets whose vnode is recorded; those used least recently are forgotten, and then belong to
/// the vnode of the process that calls.
const SOCKETS: u32 = 65_536;

/// Programs that are loaded but not attached.
pub struct Hooks {
    ebpf: Ebpf,
}

impl Hooks {
    /// Loads the programs with maps for this number of vnodes.
    pub fn load(vnodes: u32) -> Result<Self, BpfError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_IDENTITY, vnodes.max(1))
            .map_max_entries(MAP_SOCKETS, SOCKETS)
            .map_max_entries(MAP_V6_ONLY, SOCKETS)
            .load(bpf::OBJECT)
            .map_err(Box::new)?;
        for name in names::PROGS_IDENTITY {
            let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
            let loaded = match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSkb(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::CgroupSockopt(program) => program.load(),
                _ => return Err(BpfError::Missing(name)),
            };
            loaded.map_err(|source| bpf::program_error(name, source))?;
        }
        Ok(Self { ebpf })
    }

    /// Attaches all programs to a cgroup.
    pub fn attach(&self, cgroup: &File) -> Result<(), IdentityError> {
        self.each(cgroup, Command::Attach)
    }

    /// Detaches them.
    pub fn detach(&self, cgroup: &File) -> Result<(), IdentityError> {
        self.each(cgroup, Command::Detach)
    }

    fn each(&self, cgroup: &File, command: Command) -> Result<(), IdentityError> {
        for name in names::PROGS_IDENTITY {
            let fd = self.fd(name)?.map_err(|e| bpf::program_error(name, e))?;
            let fd = std::os::fd::AsFd::as_fd(fd);
            let attach_type = attach_type(name).ok_or(BpfError::Missing(name))?;
            attach(cgroup, fd, attach_type, command).map_err(|source| IdentityError::Attach {
                program: name,
                source,
            })?;
        }
        Ok(())
    }

    fn fd(&self, name: &'static str) -> Result<Result<&ProgramFd, ProgramError>, BpfError> {
        let program = self.ebpf.program(name).ok_or(BpfError::Missing(name))?;
        Ok(program.fd())
    }

    /// Identifiers of the maps of identities and of counters.
    pub fn map_ids(&self) -> Result<(u32, u32), BpfError> {
        let id = |name| match self.ebpf.map(name) {
            Some(Map::HashMap(map) | Map::PerCpuArray(map)) => {
                let info = map.info().map_err(bpf::map_error("look at", name))?;
                Ok(info.id())
            }
            _ => Err(BpfError::Missing(name)),
        };
        Ok((id(MAP_IDENTITY)?, id(MAP_EVENTS)?))
    }
}

#[derive(Debug, Clone, Copy)]
enum Command {
    Attach = 8,
    Detach = 9,
}

/// `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`, in parallel with programs of others.
fn attach(
    cgroup: &File,
    program: BorrowedFd<'_>,
    attach_type: u32,
    command: Command,
) -> io::Result<()> {
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let flags = match command {
        Command::Attach => BPF_F_ALLOW_MULTI,
        Command::Detach => 0,
    };
    let attributes: [u32; 4] = [
        cgroup.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
        attach_type,
        flags,
    ];
    // SAFETY: the attributes of these commands begin with these four numbers
    // (uapi/linux/bpf.h); the size given says that there are no more.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Assigns the processes of a cgroup to a vnode.
pub fn assign(map_id: u32, cgroup_id: u64, who: &Identity) -> Result<(), BpfError> {
    Identities::open(map_id)?.assign(cgroup_id, who)
}

/// The map of identities.
pub(super) struct Identities(HashMap<MapData, u64, Identity>);

impl Identities {
    pub fn open(map_id: u32) -> Result<Self, BpfError> {
        let map = MapData::from_id(map_id).map_err(bpf::map_error("open", MAP_IDENTITY))?;
        let map =
            HashMap::try_from(Map::HashMap(map)).map_err(bpf::map_error("open", MAP_IDENTITY))?;
        Ok(Self(map))
    }

    pub fn assign(&mut self, cgroup_id: u64, who: &Identity) -> Result<(), BpfError> {
        self.0
            .insert(cgroup_id, who, 0)
            .map_err(bpf::map_error("fill", MAP_IDENTITY))
    }

    /// Removes a cgroup from the map; it is no error if it is not there.
    pub fn forget(&mut self, cgroup_id: u64) {
        let _ = self.0.remove(&cgroup_id);
    }
}

/// Processes of vnodes, and counters of the hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of running processes.
    pub processes: usize,
    /// Number of vnodes with a process.
    pub vnodes: usize,
    /// Count of each event, over all CPUs.
    pub events: Vec<(SocketEvent, u64)>,
}

/// The summary of a network namespace; `None` before its first process.
pub fn summary(dir: &StateDir) -> Result<Option<Summary>, IdentityError> {
    if dir.identity().is_none() {
        return Ok(None);
    }
    let tree = Tree::find()?;
    // The cgroup was removed, and with its hooks the maps.
    let Some(record) = ready(dir, &tree) else {
        return Ok(None);
    };
    let folder = tree.folder(&dir.name());
    let mut vnodes = BTreeSet::new();
    let mut processes = 0;
    for (path, ids) in cgroup::processes(&folder) {
        vnodes.insert(cgroup::vnode_name(&folder, &path));
        processes += ids.len();
    }
    Ok(Some(Summary {
        processes,
        vnodes: vnodes.len(),
        events: events(&record)?,
    }))
}

fn events(record: &IdentityRecord) -> Result<Vec<(SocketEvent, u64)>, BpfError> {
    let open = bpf::map_error("open", MAP_EVENTS);
    let map = MapData::from_id(record.events_map_id).map_err(open)?;
    let map: PerCpuArray<_, u64> =
        PerCpuArray::try_from(Map::PerCpuArray(map)).map_err(bpf::map_error("open", MAP_EVENTS))?;
    SocketEvent::ALL
        .iter()
        .map(|event| {
            let values = map
                .get(&(*event as u32), 0)
                .map_err(bpf::map_error("read", MAP_EVENTS))?;
            Ok((*event, values.iter().sum()))
        })
        .collect()
}

/// The record of attached programs whose cgroup still exists.
fn ready(dir: &StateDir, tree: &Tree) -> Option<IdentityRecord> {
    let record = dir.identity()?;
    let now = cgroup::identifier(&tree.folder(&dir.name())).ok()?;
    (now == record.cgroup_id).then_some(record)
}

/// Loads and attaches the programs of a network namespace.
fn set_up(
    dir: &StateDir,
    lock: &WriterLock,
    tree: &Tree,
    vnodes: u32,
    has_own_loopback: bool,
) -> Result<(), IdentityError> {
    // The verifier runs before anything is changed.
    let hooks = Hooks::load(vnodes)?;
    dir.record(lock, &Undo::Cgroup { name: dir.name() })?;
    // An interrupted set-up may have left programs, which would run as well.
    tree.remove(&dir.name())?;
    let folder = tree.folder(&dir.name());
    let cgroup_id = cgroup::create(&folder)?;
    let file = cgroup::open(&folder)?;
    hooks.attach(&file)?;
    let (map_id, events_map_id) = hooks.map_ids()?;
    let has_loopback_v6 = has_own_loopback && loopback::add_v6(dir, lock)?;
    let record = IdentityRecord {
        cgroup_id,
        map_id,
        events_map_id,
        has_loopback_v6,
    };
    Ok(dir.store_identity(lock, &record)?)
}

/// A namespace that is ready for processes, under a shared lock.
pub(super) struct Ready {
    pub tree: Tree,
    pub record: IdentityRecord,
    /// Held until the process is in its cgroup.
    pub _shared: SharedLock,
}

/// Attaches the programs unless they are attached; `room` is the number of cgroups for which
/// they are then loaded.
pub(super) fn prepare(
    dir: &StateDir,
    room: u32,
    has_own_loopback: bool,
) -> Result<Ready, IdentityError> {
    let tree = Tree::find()?;
    let mut shared = dir.share()?;
    if ready(dir, &tree).is_none() {
        drop(shared);
        let lock = dir.wait()?;
        if !dir.is_loaded()? {
            return Err(IdentityError::Gone);
        }
        if ready(dir, &tree).is_none() {
            set_up(dir, &lock, &tree, room, has_own_loopback)?;
        }
        drop(lock);
        shared = dir.share()?;
    }
    // An unload ran between the two locks.
    let is_loaded = dir.is_loaded()?;
    let record = ready(dir, &tree).filter(|_| is_loaded);
    let record = record.ok_or(IdentityError::Gone)?;
    Ok(Ready {
        tree,
        record,
        _shared: shared,
    })
}

/// Number of cgroups for which the maps of a host with this number of vnodes are sized: each
/// vnode may have one of `emu exec` and as many of runs.
pub(super) const fn usual_room(vnodes: u32) -> u32 {
    vnodes.saturating_mul(2).saturating_add(1024)
}

/// Moves the calling process, with its future children, into a vnode with the loopback of its
/// `place`, see [`with_loopback`]. Takes only a moment, except for the first process of a
/// namespace.
///
/// # Errors
/// [`IdentityError`]; the process may then be in either cgroup.
pub(super) fn enter(
    dir: &StateDir,
    machines: &Machines,
    vnode: IpAddr,
    place: Option<u32>,
    vnodes: u32,
) -> Result<(), IdentityError> {
    let ready = prepare(dir, usual_room(vnodes), place.is_some())?;
    let folder = ready.tree.folder(&dir.name()).join(vnode.to_string());
    let cgroup_id = cgroup::create(&folder)?;
    // A machine has no other address, and its processes need no hooks.
    if !machines.has(vnode) {
        let who = with_loopback(vnode, place, ready.record.has_loopback_v6)?;
        assign(ready.record.map_id, cgroup_id, &who)?;
    }
    cgroup::join(&folder)?;
    machines.enter(vnode)?;
    Ok(())
}
