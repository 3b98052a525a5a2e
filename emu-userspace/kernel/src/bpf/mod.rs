//! The BPF object: its programs and maps, pinning them, and finding them again from another
//! process; `load` creates them.
mod load;
#[expect(
    unsafe_code,
    reason = "maps are memory that the kernel changes at the same time"
)]
mod mapped;
#[expect(unsafe_code, reason = "the bpf call has no safe interface")]
pub mod run;
mod store;

use std::{
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, PerCpuArray},
    programs::{ProgramError, SchedClassifier},
};
use emu_common::{
    Reason,
    layout::{
        AddrKey, Direction, ImpairmentState, PairLink, Pipe, Port, QueueDelayHistogram, Row,
        Schedule, VnodeRef, pipe_flag, schedule_flag,
    },
    model::schedule::{self, Column, Rows},
    names,
};
use emu_model::{
    plan::{Current, TableError},
    recording::RecordingError,
};

pub(super) use load::{OBJECT, program_error};
pub use load::{load, load_with, object_mark, open};
pub use mapped::Mapped;

use crate::{state::State, user::UserError};

/// Why the object could not be loaded, or its maps not accessed.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel refused the object.
    #[error("load the BPF object: {0}")]
    Load(#[from] Box<aya::EbpfError>),
    /// The verifier refused a program.
    #[error("load the BPF program {program}: {source}{log}")]
    Program {
        program: &'static str,
        source: Box<ProgramError>,
        /// Path of the verifier's log, as the end of the message.
        log: String,
    },
    #[error(transparent)]
    Table(#[from] TableError),
    /// A trace's recording.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Reading such a file with the caller's rights.
    #[error(transparent)]
    User(#[from] Box<UserError>),
    /// A map or program is missing from the object.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// A map operation failed.
    #[error("{operation} {map}: {source}")]
    Map {
        operation: &'static str,
        map: &'static str,
        source: Box<aya::maps::MapError>,
    },
    /// Memory-mapping a map failed.
    #[error("map {map} into memory: {source}")]
    Mmap {
        map: &'static str,
        source: io::Error,
    },
    /// Pinning failed.
    #[error("pin the maps in {}: {detail}", path.display())]
    Pin { path: PathBuf, detail: String },
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
    pub fn map_ids(&self) -> Result<Vec<(String, u32)>, BpfError> {
        names::MAPS
            .iter()
            .map(|name| {
                let info = self.map(name)?.info().map_err(map_error("look at", name))?;
                Ok(((*name).to_owned(), info.id()))
            })
            .collect()
    }

    /// Names of the programs that this topology needs; the others are not in the kernel.
    fn loaded(&self) -> impl Iterator<Item = &'static str> + '_ {
        let loaded = |name: &&str| {
            self.program(name)
                .is_some_and(|program| program.fd().is_ok())
        };
        names::PROGS.into_iter().filter(loaded)
    }

    /// The ports of machines, to be filled.
    pub fn ports(&self) -> Result<Mapped<Port>, BpfError> {
        Mapped::new(self.map(names::MAP_PORTS)?, names::MAP_PORTS)
    }

    /// Identifier and name of every program of a filter.
    pub fn program_ids(&self) -> Result<Vec<(String, u32)>, BpfError> {
        let id = |name: &'static str| {
            let program = self.program(name).ok_or(BpfError::Missing(name))?;
            let info = program.info().map_err(|source| BpfError::Program {
                program: name,
                source: Box::new(source),
                log: String::new(),
            })?;
            Ok((name.to_owned(), info.id()))
        };
        self.loaded().map(id).collect()
    }

    /// Pins every map and every program of a filter below `directory`.
    pub fn pin(&mut self, directory: &Path) -> Result<(), BpfError> {
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
        for name in self.loaded().collect::<Vec<_>>() {
            let program = self.ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
            program
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
    pub fn maps(&self) -> Result<Maps, BpfError> {
        let open = |name| {
            // Not by the identifier, which needs CAP_SYS_ADMIN.
            let fd = self.map(name)?.fd().as_fd().try_clone_to_owned();
            let fd = fd.map_err(|source| BpfError::Mmap { map: name, source })?;
            MapData::from_fd(fd).map_err(map_error("open", name))
        };
        Maps::from_opener(open)
    }
}

/// The ports of machines of a finished load.
pub(crate) fn open_ports(state: &State) -> Result<Mapped<Port>, BpfError> {
    let map = open_map(&state.pins, &state.map_ids, names::MAP_PORTS)?;
    Mapped::new(&map, names::MAP_PORTS)
}

/// Opens a map by its pin, or by its identifier if the pins are not accessible (`ip netns exec`
/// hides the BPF file system).
fn open_map(pins: &Path, ids: &[(String, u32)], name: &'static str) -> Result<MapData, BpfError> {
    if let Ok(map) = MapData::from_pin(pins.join(name)) {
        return Ok(map);
    }
    let id = ids.iter().find(|(n, _)| n == name).map_or(0, |(_, id)| *id);
    MapData::from_id(id).map_err(map_error("open", name))
}

/// The rows of a schedule in the map.
struct MapRows<'a> {
    rows: &'a Mapped<Row>,
    first: u32,
}

impl Rows for MapRows<'_> {
    fn row(&self, index: u32) -> Row {
        let index = self.first.saturating_add(index) as usize;
        self.rows.get(index).unwrap_or_default()
    }

    fn find(&self, count: u32, column: Column, key: u64) -> u32 {
        schedule::search(count, key, |index| match column {
            Column::Start => self.row(index).start_ns,
            Column::Work => self.row(index).work,
        })
    }
}

/// The maps that user space reads and writes after the load.
pub struct Maps {
    /// Both pipes of every vnode.
    pub pipes: Mapped<Pipe>,
    /// Links between leaf groups, row by row.
    pub pairs: Mapped<PairLink>,
    /// Impairments of pipes and links.
    pub stages: Mapped<ImpairmentState>,
    /// Departure times of the packets in queues limited in packets.
    pub ring: Mapped<u64>,
    /// Rows of all schedules.
    pub rows: Mapped<Row>,
    /// Schedule of each pipe; a single one where no pipe has one.
    pub schedules: Mapped<Schedule>,
    vnodes: HashMap<MapData, AddrKey, VnodeRef>,
    reasons: PerCpuArray<MapData, u64>,
    waits: PerCpuArray<MapData, QueueDelayHistogram>,
}

impl Maps {
    /// Opens the maps by their pins, or by their identifiers.
    pub fn open(pins: &Path, ids: &[(String, u32)]) -> Result<Self, BpfError> {
        Self::from_opener(|name| open_map(pins, ids, name))
    }

    fn from_opener(
        open: impl Fn(&'static str) -> Result<MapData, BpfError>,
    ) -> Result<Self, BpfError> {
        let reasons = Map::PerCpuArray(open(names::MAP_REASONS)?);
        let waits = Map::PerCpuArray(open(names::MAP_QUEUE_DELAYS)?);
        let vnodes = Map::HashMap(open(names::MAP_VNODES)?);
        Ok(Self {
            ring: Mapped::new(&open(names::MAP_DEPARTURES)?, names::MAP_DEPARTURES)?,
            vnodes: HashMap::try_from(vnodes).map_err(map_error("open", names::MAP_VNODES))?,
            pipes: Mapped::new(&open(names::MAP_PIPES)?, names::MAP_PIPES)?,
            pairs: Mapped::new(&open(names::MAP_PAIRS)?, names::MAP_PAIRS)?,
            stages: Mapped::new(&open(names::MAP_IMPAIRMENTS)?, names::MAP_IMPAIRMENTS)?,
            rows: Mapped::new(&open(names::MAP_ROWS)?, names::MAP_ROWS)?,
            schedules: Mapped::new(&open(names::MAP_SCHEDULES)?, names::MAP_SCHEDULES)?,
            reasons: PerCpuArray::try_from(reasons)
                .map_err(map_error("open", names::MAP_REASONS))?,
            waits: PerCpuArray::try_from(waits)
                .map_err(map_error("open", names::MAP_QUEUE_DELAYS))?,
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

    /// A pipe with the rate and the latency that its schedule has at a time
    /// (`CLOCK_MONOTONIC`), if it follows one; a rate of none is an outage or no limit.
    pub fn pipe_at(&self, index: usize, now_ns: u64) -> Option<Pipe> {
        let mut pipe = self.pipes.get(index)?;
        let schedule = self.schedules.get(index).unwrap_or_default();
        if pipe.flags & pipe_flag::SCHEDULED == 0 || !schedule::has_begun(&schedule, now_ns) {
            return Some(pipe);
        }
        let rows = MapRows {
            rows: &self.rows,
            first: schedule.first_row,
        };
        if schedule.flags & schedule_flag::RATES != 0 {
            let row = schedule::row_at(&rows, &schedule, now_ns);
            pipe.ns_per_byte_q20 = row.ns_per_byte_q20;
        }
        if let Some((latency_ns, _)) = schedule::latency(&rows, &schedule, now_ns) {
            pipe.latency_ns = latency_ns;
        }
        Some(pipe)
    }

    /// Makes an address a vnode.
    pub fn add_vnode(&mut self, address: IpAddr, place: VnodeRef) -> Result<(), BpfError> {
        self.vnodes
            .insert(address_key(address), place, 0)
            .map_err(map_error("add to", names::MAP_VNODES))
    }

    /// Removes a vnode's address; it is no error if it is not in the map.
    pub fn remove_vnode(&mut self, address: IpAddr) -> Result<(), BpfError> {
        match self.vnodes.remove(&address_key(address)) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("remove from", names::MAP_VNODES)(error)),
        }
    }

    /// Whether the rows of all schedules are these.
    pub fn has_rows(&self, rows: &[Row]) -> bool {
        let is_loaded = |(index, row): (usize, &Row)| self.rows.get(index) == Some(*row);
        self.rows.len() == rows.len().max(1) && rows.iter().enumerate().all(is_loaded)
    }

    /// The queue-delay histogram of a group's pipes, over all CPUs.
    pub fn waits(
        &self,
        group: usize,
        direction: Direction,
    ) -> Result<QueueDelayHistogram, BpfError> {
        let each = self
            .waits
            .get(&(group as u32 * 2 + direction as u32), 0)
            .map_err(map_error("read", names::MAP_QUEUE_DELAYS))?;
        let mut sum = QueueDelayHistogram::default();
        each.iter().for_each(|waits| sum.add(waits));
        Ok(sum)
    }

    /// Count of each reason, over all CPUs.
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

/// The map key of an address.
pub fn address_key(address: IpAddr) -> AddrKey {
    match address {
        IpAddr::V4(a) => AddrKey::from_v4(a.octets()),
        IpAddr::V6(a) => AddrKey::from_v6(a.octets()),
    }
}
