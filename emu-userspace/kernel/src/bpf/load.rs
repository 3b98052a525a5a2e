//! Loads the object with the map sizes of a plan, and fills the maps.
use std::{
    io, thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        HashMap, MapError,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{ProgramError, SchedClassifier},
};
use emu_common::{
    layout::{AddrKey, ImpairmentState, V4_MAPPED_BITS, VnodeRef, feature},
    model::random,
    names,
};
use emu_model::plan::{Entries, MapCapacity, Plan, Recordings, jitter_tables};

use nix::net::if_::if_nametoindex;

use super::{BpfError, Mapped, Programs, address_key, map_error};
use crate::{state, user};

/// The compiled programs.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/emu.bpf.o"));

/// Loads the object with the sizes of a plan and fills its maps.
///
/// # Errors
/// [`BpfError`]; nothing is attached yet, and dropping the result frees all.
pub fn load(plan: &Plan) -> Result<Programs, BpfError> {
    load_with(plan, true)
}

/// Like [`load`]; without `orphan` the egress program shapes packets that still have a
/// socket. Only for tests of the bytecode.
pub fn load_with(plan: &Plan, orphan: bool) -> Result<Programs, BpfError> {
    let entries = Entries::of(plan);
    let room = MapCapacity::of(plan, &entries);
    let tables = match plan.features() & feature::IMPAIRMENTS {
        0 => Vec::new(),
        _ => user::as_caller(|| jitter_tables(plan)).map_err(|e| BpfError::User(Box::new(e)))??,
    };
    let recordings = user::as_caller(|| Recordings::read(&plan.traces, &plan.courses))
        .map_err(|e| BpfError::User(Box::new(e)))??;
    let sizes = (tables.len(), recordings.rows().len());
    let mut ebpf = open_with(plan, orphan, plan.features(), &room, sizes)?;
    for name in names::programs(plan.features()).iter().copied() {
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
        // A correlation needs an initial number.
        let last = [1, 2, 3, 4, 5].map(|what| random::mix(stage.seed ^ what) as u32);
        maps.stages.set(index, ImpairmentState { last, ..stage });
    }
    for (index, row) in recordings.rows().iter().enumerate() {
        maps.rows.set(index, *row);
    }
    let mut table = Mapped::new(programs.map(names::MAP_TABLES)?, names::MAP_TABLES)?;
    for (index, entry) in tables.into_iter().enumerate() {
        table.set(index, i64::from(entry));
    }
    Ok(programs)
}

/// The error of a program, with the verifier's log.
pub(crate) fn program_error(program: &'static str, source: ProgramError) -> BpfError {
    BpfError::Program {
        program,
        log: verifier_log(program, &source),
        source: Box::new(source),
    }
}

/// The object for a plan with these [`feature`]s: its maps are created, and its programs not
/// yet verified. Only for measuring the cost of the verification.
pub fn open(plan: &Plan, features: u32) -> Result<Ebpf, BpfError> {
    let room = MapCapacity::of(plan, &Entries::of(plan));
    open_with(plan, true, features, &room, (0, 0))
}

fn open_with(
    plan: &Plan,
    orphan: bool,
    features: u32,
    room: &MapCapacity,
    (tables, rows): (usize, usize),
) -> Result<Ebpf, BpfError> {
    let groups = plan.groups.len().max(1) as u32;
    let orphan = u32::from(orphan);
    let ebpf = EbpfLoader::new()
        .map_max_entries(names::MAP_VNODES, room.slots)
        .map_max_entries(names::MAP_GROUPS, plan.group_prefixes.len().max(1) as u32)
        .map_max_entries(names::MAP_PAIRS, groups * groups)
        .map_max_entries(names::MAP_PIPES, room.slots * 2)
        .map_max_entries(names::MAP_IMPAIRMENTS, room.stages)
        .map_max_entries(names::MAP_TABLES, tables.max(1) as u32)
        .map_max_entries(names::MAP_FILTERS, room.filters)
        .map_max_entries(names::MAP_LATEST, room.latest)
        .map_max_entries(names::MAP_DEPARTURES, room.ring)
        .map_max_entries(names::MAP_QUEUE_DELAYS, groups * 2)
        .map_max_entries(names::MAP_PORTS, room.ports)
        .map_max_entries(names::MAP_ROWS, rows.max(1) as u32)
        .map_max_entries(names::MAP_SCHEDULES, room.schedules)
        .override_global(names::GLOBAL_ORPHAN, &orphan, true)
        .override_global(names::GLOBAL_FEATURES, &features, true)
        .override_global(names::GLOBAL_UPLINK, &uplink(plan), true)
        .override_global(names::GLOBAL_HOST_LATENCY, &plan.host_latency_ns, true)
        .override_global(names::GLOBAL_LATEST_MASK, &(room.latest - 1), true)
        .load(OBJECT)
        .map_err(Box::new)?;
    Ok(ebpf)
}

/// Identifies the programs of this build.
pub fn object_mark() -> u64 {
    OBJECT.iter().fold(OBJECT.len() as u64, |mark, byte| {
        random::mix(mark ^ u64::from(*byte))
    })
}

/// Stores the verifier's log in a file, since it would fill screens.
fn verifier_log(program: &str, error: &ProgramError) -> String {
    let ProgramError::LoadError { verifier_log, .. } = error else {
        return String::new();
    };
    let text = verifier_log.to_string();
    // Not every failure is the verifier's.
    if text.trim().is_empty() {
        return String::new();
    }
    match state::store_verifier_log(program, &text) {
        Ok(path) => format!(" (verifier log: {})", path.display()),
        Err(_) => String::new(),
    }
}

/// Index of the interface to the other hosts; 0 if there is none.
fn uplink(plan: &Plan) -> u32 {
    plan.uplink()
        .and_then(|name| if_nametoindex(name).ok())
        .unwrap_or(0)
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

/// Longest wait for the kernel's refill of preallocated memory.
const REFILL: Duration = Duration::from_secs(2);

/// An update of a map without preallocated elements.
///
/// Those of a trie come from a reserve of a few that an interrupt refills (since Linux
/// 6.16, kernel/bpf/memalloc.c). Updates in a quick row find it empty where that interrupt
/// comes late, and fail with `ENOMEM` though there is memory.
fn patiently(mut update: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    let start = Instant::now();
    loop {
        match update() {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::OutOfMemory
                    && start.elapsed() < REFILL =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
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
        let key = Key::new(bits, address_key(prefix.network()));
        patiently(|| map.insert(&key, *group as u32, 0))
            .map_err(map_error("fill", names::MAP_GROUPS))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aya::{maps::MapError, sys::SyscallError};

    use super::*;

    fn error(kind: io::ErrorKind) -> MapError {
        MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: kind.into(),
        })
    }

    #[test]
    fn an_update_waits_for_the_reserve_and_for_nothing_else() {
        let mut left = 3;
        let mut late = || {
            left -= 1;
            (left == 0)
                .then_some(())
                .ok_or_else(|| error(io::ErrorKind::OutOfMemory))
        };
        patiently(&mut late).unwrap();
        assert_eq!(left, 0);
        let mut tries = 0;
        let mut wrong = || {
            tries += 1;
            Err(error(io::ErrorKind::InvalidInput))
        };
        patiently(&mut wrong).unwrap_err();
        assert_eq!(tries, 1);
        patiently(|| Err(error(io::ErrorKind::OutOfMemory))).unwrap_err();
    }
}
