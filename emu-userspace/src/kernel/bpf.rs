//! The BPF object: loading it with the sizes of a plan, filling its maps,
//! pinning them, and finding them again from another process.
use std::{
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        HashMap, Map, MapData, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{ProgramError, SchedClassifier},
};
use emu_common::{
    Reason,
    layout::{AddrKey, PairLink, Pipe, Stage, V4_MAPPED_BITS, VnodeRef, feature},
    model::{order, random},
    names,
};

use super::mapped::Mapped;
use crate::plan::{Current, Entries, Plan, Room, TableError, jitter_tables};

/// The compiled programs.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/emu.bpf.o"));

/// The object could not be loaded or its maps not be reached.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel refused the object.
    #[error("load the BPF object: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("load the BPF program {program}: {source}{log}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's answer.
        source: Box<ProgramError>,
        /// Where the verifier's log is.
        log: String,
    },
    /// A jitter distribution's file.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A map or program is missing from the object.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("{operation} {map}: {source}")]
    Map {
        /// What was done.
        operation: &'static str,
        /// To which map.
        map: &'static str,
        /// The kernel's answer.
        source: Box<aya::maps::MapError>,
    },
    /// Memory-mapping a map failed.
    #[error("map {map} into memory: {source}")]
    Mmap {
        /// Which map.
        map: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Pinning failed.
    #[error("pin the maps in {}: {detail}", path.display())]
    Pin {
        /// The folder.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

pub(super) fn map_error(
    operation: &'static str,
    map: &'static str,
) -> impl FnOnce(aya::maps::MapError) -> BpfError {
    move |source| BpfError::Map {
        operation,
        map,
        source: Box::new(source),
    }
}

/// The programs of a loaded object, ready to attach.
pub struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// File descriptor of a program.
    ///
    /// # Errors
    /// [`BpfError::Missing`].
    pub fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, BpfError> {
        let program = self.ebpf.program(name).ok_or(BpfError::Missing(name))?;
        let fd = program.fd().map_err(|source| BpfError::Program {
            program: name,
            source: Box::new(source),
            log: String::new(),
        })?;
        Ok(fd.as_fd())
    }

    /// A program, for `BPF_PROG_TEST_RUN`.
    pub fn program(&self, name: &str) -> Option<&SchedClassifier> {
        match self.ebpf.program(name)? {
            aya::programs::Program::SchedClassifier(program) => Some(program),
            _ => None,
        }
    }

    /// Identifier and name of every map.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn map_ids(&self) -> Result<Vec<(String, u32)>, BpfError> {
        names::MAPS
            .iter()
            .map(|name| {
                let info = self.map(name)?.info().map_err(map_error("look at", name))?;
                Ok(((*name).to_owned(), info.id()))
            })
            .collect()
    }

    /// Pins every map below `directory`.
    ///
    /// # Errors
    /// [`BpfError::Pin`].
    pub fn pin(&self, directory: &Path) -> Result<(), BpfError> {
        let error = |detail: String| BpfError::Pin {
            path: directory.to_owned(),
            detail,
        };
        fs::create_dir_all(directory).map_err(|e| error(e.to_string()))?;
        for name in names::MAPS {
            self.map(name)?
                .pin(directory.join(name))
                .map_err(|e| error(format!("{name}: {e}")))?;
        }
        Ok(())
    }

    fn map(&self, name: &'static str) -> Result<&MapData, BpfError> {
        match self.ebpf.map(name).ok_or(BpfError::Missing(name))? {
            Map::Array(data)
            | Map::HashMap(data)
            | Map::LpmTrie(data)
            | Map::LruHashMap(data)
            | Map::PerCpuArray(data) => Ok(data),
            _ => Err(BpfError::Missing(name)),
        }
    }

    /// The maps of this object, for reading and writing.
    ///
    /// # Errors
    /// [`BpfError`].
    pub fn maps(&self) -> Result<Maps, BpfError> {
        let open = |name| {
            // Not by the identifier, which takes CAP_SYS_ADMIN.
            let fd = self.map(name)?.fd().as_fd().try_clone_to_owned();
            let fd = fd.map_err(|source| BpfError::Mmap { map: name, source })?;
            MapData::from_fd(fd).map_err(map_error("open", name))
        };
        Maps::from_opener(open)
    }
}

/// The maps that user space reads and writes after the load.
pub struct Maps {
    /// Both pipes of every vnode.
    pub pipes: Mapped<Pipe>,
    /// Links between leaf groups, row by row.
    pub pairs: Mapped<PairLink>,
    /// Impairments of pipes and links.
    pub stages: Mapped<Stage>,
    /// Departure times of the packets in queues limited in packets.
    pub ring: Mapped<u64>,
    vnodes: HashMap<MapData, AddrKey, VnodeRef>,
    reasons: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Opens the maps by their pins, or by their identifiers where the pins are
    /// out of sight (`ip netns exec` hides the BPF file system).
    ///
    /// # Errors
    /// [`BpfError`] when neither way leads to a map.
    pub fn open(pins: &Path, ids: &[(String, u32)]) -> Result<Self, BpfError> {
        Self::from_opener(|name| {
            if let Ok(map) = MapData::from_pin(pins.join(name)) {
                return Ok(map);
            }
            let id = ids.iter().find(|(n, _)| n == name).map_or(0, |(_, id)| *id);
            MapData::from_id(id).map_err(map_error("open", name))
        })
    }

    fn from_opener(
        open: impl Fn(&'static str) -> Result<MapData, BpfError>,
    ) -> Result<Self, BpfError> {
        let reasons = Map::PerCpuArray(open(names::MAP_REASONS)?);
        let vnodes = Map::HashMap(open(names::MAP_VNODES)?);
        Ok(Self {
            ring: Mapped::new(&open(names::MAP_RING)?, names::MAP_RING)?,
            vnodes: HashMap::try_from(vnodes).map_err(map_error("open", names::MAP_VNODES))?,
            pipes: Mapped::new(&open(names::MAP_PIPES)?, names::MAP_PIPES)?,
            pairs: Mapped::new(&open(names::MAP_PAIRS)?, names::MAP_PAIRS)?,
            stages: Mapped::new(&open(names::MAP_STAGES)?, names::MAP_STAGES)?,
            reasons: PerCpuArray::try_from(reasons)
                .map_err(map_error("open", names::MAP_REASONS))?,
        })
    }

    /// Copies of the arrays.
    pub fn current(&self) -> Current {
        Current {
            pipes: self.pipes.copy(),
            stages: self.stages.copy(),
            links: self.pairs.copy(),
            ring_slots: self.ring.len() as u32,
        }
    }

    /// Makes an address a vnode.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn add_vnode(&mut self, address: IpAddr, place: VnodeRef) -> Result<(), BpfError> {
        self.vnodes
            .insert(address_key(address), place, 0)
            .map_err(map_error("add to", names::MAP_VNODES))
    }

    /// Makes an address one that is no vnode; whether it was one or not.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn remove_vnode(&mut self, address: IpAddr) -> Result<(), BpfError> {
        match self.vnodes.remove(&address_key(address)) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("remove from", names::MAP_VNODES)(error)),
        }
    }

    /// How often each reason was counted, over all CPUs.
    ///
    /// # Errors
    /// [`BpfError::Map`].
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, BpfError> {
        Reason::ALL
            .iter()
            .map(|reason| {
                let values = self
                    .reasons
                    .get(&(*reason as u32), 0)
                    .map_err(map_error("read", names::MAP_REASONS))?;
                Ok((*reason, values.iter().sum()))
            })
            .collect()
    }
}

/// Loads the object with the sizes of a plan and fills its maps.
///
/// # Errors
/// [`BpfError`]; nothing is attached yet, and dropping the result frees all.
pub fn load(plan: &Plan) -> Result<Programs, BpfError> {
    load_with(plan, true)
}

/// As [`load`]; without `orphan` the egress program shapes at once what still
/// has a socket. Only for tests of the bytecode.
///
/// # Errors
/// As for [`load`].
pub fn load_with(plan: &Plan, orphan: bool) -> Result<Programs, BpfError> {
    let entries = Entries::of(plan);
    let room = Room::of(plan, &entries);
    let tables = match plan.features() & feature::STAGES {
        0 => Vec::new(),
        _ => jitter_tables(plan)?,
    };
    let mut ebpf = open_with(plan, orphan, plan.features(), &room, tables.len())?;
    for name in names::PROGS {
        let program: &mut SchedClassifier = ebpf
            .program_mut(name)
            .ok_or(BpfError::Missing(name))?
            .try_into()
            .map_err(|_| BpfError::Missing(name))?;
        program
            .load()
            .map_err(|source| program_error(name, source))?;
    }
    fill_vnodes(&mut ebpf, plan)?;
    fill_groups(&mut ebpf, plan)?;
    let programs = Programs { ebpf };
    let mut maps = programs.maps()?;
    for (index, link) in entries.links.into_iter().enumerate() {
        maps.pairs.set(index, link);
    }
    for (index, pipe) in entries.pipes.into_iter().enumerate() {
        maps.pipes.set(index, pipe);
    }
    for (index, stage) in entries.stages.into_iter().enumerate() {
        // A correlation has a number to begin with.
        let last = [1, 2, 3, 4, 5].map(|what| random::mix(stage.seed ^ what) as u32);
        maps.stages.set(index, Stage { last, ..stage });
    }
    let mut table = Mapped::new(programs.map(names::MAP_TABLES)?, names::MAP_TABLES)?;
    for (index, entry) in tables.into_iter().enumerate() {
        table.set(index, i64::from(entry));
    }
    Ok(programs)
}

/// What the verifier said of a program.
pub(super) fn program_error(program: &'static str, source: ProgramError) -> BpfError {
    BpfError::Program {
        program,
        log: verifier_log(program, &source),
        source: Box::new(source),
    }
}

/// The object as for a plan with these [`feature`]s: its maps are made, and its
/// programs not yet seen by the verifier. Only to measure what that costs.
///
/// # Errors
/// [`BpfError::Load`].
pub fn open(plan: &Plan, features: u32) -> Result<Ebpf, BpfError> {
    let room = Room::of(plan, &Entries::of(plan));
    open_with(plan, true, features, &room, 0)
}

fn open_with(
    plan: &Plan,
    orphan: bool,
    features: u32,
    room: &Room,
    tables: usize,
) -> Result<Ebpf, BpfError> {
    let groups = plan.groups.len().max(1) as u32;
    let orphan = u32::from(orphan);
    let ebpf = EbpfLoader::new()
        .map_max_entries(names::MAP_VNODES, room.slots)
        .map_max_entries(names::MAP_GROUPS, plan.group_prefixes.len().max(1) as u32)
        .map_max_entries(names::MAP_PAIRS, groups * groups)
        .map_max_entries(names::MAP_PIPES, room.slots * 2)
        .map_max_entries(names::MAP_STAGES, room.stages)
        .map_max_entries(names::MAP_TABLES, tables.max(1) as u32)
        .map_max_entries(names::MAP_OPENINGS, openings(plan))
        .map_max_entries(names::MAP_LATEST, latest(plan))
        .map_max_entries(names::MAP_RING, room.ring)
        .override_global(names::GLOBAL_ORPHAN, &orphan, true)
        .override_global(names::GLOBAL_FEATURES, &features, true)
        .override_global(names::GLOBAL_LATEST_MASK, &(latest(plan) - 1), true)
        .load(OBJECT)
        .map_err(Box::new)?;
    Ok(ebpf)
}

/// Tells the programs of this build from those of another.
pub fn object_mark() -> u64 {
    OBJECT.iter().fold(OBJECT.len() as u64, |mark, byte| {
        random::mix(mark ^ u64::from(*byte))
    })
}

/// Keeps the verifier's words in a file: they fill screens.
fn verifier_log(program: &str, error: &ProgramError) -> String {
    let ProgramError::LoadError { verifier_log, .. } = error else {
        return String::new();
    };
    let path = std::env::temp_dir().join(format!("emu-verifier-{program}.log"));
    match fs::write(&path, verifier_log.to_string()) {
        Ok(()) => format!(" (verifier log: {})", path.display()),
        Err(_) => String::new(),
    }
}

/// Room for what filters have opened: 64 peers for each filtered vnode.
fn openings(plan: &Plan) -> u32 {
    if plan.features() & feature::FILTERS == 0 {
        return 1;
    }
    (plan.vnodes.len() as u32)
        .saturating_mul(64)
        .clamp(4_096, 4 << 20)
}

/// Slots for the flows of paths with jitter: 64 peers for each vnode.
fn latest(plan: &Plan) -> u32 {
    if plan.features() & feature::STAGES == 0 {
        return order::MIN_SLOTS;
    }
    (plan.vnodes.len() as u32)
        .saturating_mul(64)
        .next_power_of_two()
        .clamp(order::MIN_SLOTS, order::MAX_SLOTS)
}

fn fill_vnodes(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), BpfError> {
    let map = ebpf
        .map_mut(names::MAP_VNODES)
        .ok_or(BpfError::Missing(names::MAP_VNODES))?;
    let mut map: HashMap<_, AddrKey, VnodeRef> =
        HashMap::try_from(map).map_err(map_error("open", names::MAP_VNODES))?;
    let groups = plan.groups.len() as u32;
    for (index, vnode) in plan.vnodes.iter().enumerate() {
        let value = VnodeRef {
            index: index as u32,
            pair_row: vnode.group as u32 * groups,
        };
        map.insert(address_key(vnode.address), value, 0)
            .map_err(map_error("fill", names::MAP_VNODES))?;
    }
    Ok(())
}

fn fill_groups(ebpf: &mut Ebpf, plan: &Plan) -> Result<(), BpfError> {
    let map = ebpf
        .map_mut(names::MAP_GROUPS)
        .ok_or(BpfError::Missing(names::MAP_GROUPS))?;
    let mut map: LpmTrie<_, AddrKey, u32> =
        LpmTrie::try_from(map).map_err(map_error("open", names::MAP_GROUPS))?;
    for (prefix, group) in &plan.group_prefixes {
        let bits = match prefix {
            ipnet::IpNet::V4(_) => V4_MAPPED_BITS + u32::from(prefix.prefix_len()),
            ipnet::IpNet::V6(_) => u32::from(prefix.prefix_len()),
        };
        map.insert(
            &Key::new(bits, address_key(prefix.network())),
            *group as u32,
            0,
        )
        .map_err(map_error("fill", names::MAP_GROUPS))?;
    }
    Ok(())
}

/// The map key of an address.
pub fn address_key(address: IpAddr) -> AddrKey {
    match address {
        IpAddr::V4(a) => AddrKey::from_v4(a.octets()),
        IpAddr::V6(a) => AddrKey::from_v6(a.octets()),
    }
}
