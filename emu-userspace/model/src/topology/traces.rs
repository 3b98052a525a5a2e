//! The `traces` section of a file: rates, latencies and losses that follow a recording after
//! `emu start`.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Topology,
    events::{EventTarget, Reader},
    reader::{Field, Record, resolve},
    sections::Groups,
    units,
};

/// Keys of a trace.
pub(super) const TRACE_KEYS: &[&str] = &[
    "group", "vnode", "between", "from", "to", "file", "up", "down", "at", "begin", "loop",
    "window",
];
/// Values of [`Trace::waits`]: false, true.
const BEGINNINGS: [&str; 2] = ["clock", "first-packet"];
/// Shortest window of a trace of delivery opportunities.
const SHORTEST_WINDOW: Duration = Duration::from_millis(5);

/// Directions of an access link that follow a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Both directions; always for a link between groups.
    Both,
    /// From the vnode into the network.
    Up,
    /// From the network to the vnode.
    Down,
}

/// A recording and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The recording.
    pub file: PathBuf,
    /// The access links or the link that follow it.
    pub target: EventTarget,
    /// The directions that follow it.
    pub side: Side,
    /// Time of its start since the start of the clock.
    pub at: Duration,
    /// Whether it then waits for the first packet of its target.
    pub waits: bool,
    /// Whether it repeats.
    pub loops: bool,
    /// Time over which delivery opportunities are counted as a rate.
    pub window: Duration,
}

/// Reads the section; `topology` is the rest of the file.
pub(super) fn traces(
    record: &Record<'_>,
    groups: &Groups<'_>,
    topology: &Topology,
    folder: &Path,
) -> Vec<Trace> {
    let Some(list) = record.get("traces").and_then(|f| f.list()) else {
        return Vec::new();
    };
    let mut reader = Reader::new(groups, topology, &[]);
    let mut traces = Vec::new();
    for field in list {
        read(&field, &mut reader, folder, &mut traces);
    }
    traces
}

fn read(
    field: &Field<'_>,
    reader: &mut Reader<'_, '_>,
    folder: &Path,
    traces: &mut Vec<Trace>,
) -> Option<()> {
    let record = field.record(TRACE_KEYS)?;
    let place = reader.place(&record);
    let time = |key, default| match record.get(key) {
        Some(field) => field.unit(units::time),
        None => Some(default),
    };
    let at = time("at", Duration::ZERO);
    let window = time("window", Duration::from_millis(100));
    if let (Some(field), Some(window)) = (record.get("window"), window)
        && window < SHORTEST_WINDOW
    {
        field.report(
            field
                .problem("the window is too short")
                .expected("5ms or more"),
        );
    }
    let loops = record.get("loop").map_or(Some(false), |f| f.boolean());
    let waits = match record.get("begin") {
        Some(field) => resolve(&field, "beginning", BEGINNINGS.iter().copied()).map(|i| i == 1),
        None => Some(false),
    };
    if let (Some(EventTarget::Link(..)), Some(true), Some(field)) =
        (place, waits, record.get("begin"))
    {
        field.report(
            field
                .problem("packets of a link are not counted")
                .expected("`begin: clock` for a link between groups"),
        );
    }
    let file = |key| {
        record
            .get(key)
            .and_then(|f| f.text())
            .map(|f| folder.join(f))
    };
    let (both, up, down) = (file("file"), file("up"), file("down"));
    if both.is_some() == (up.is_some() || down.is_some()) {
        field.report(
            field
                .problem("the file of the trace is not clear")
                .expected("`file: drive.csv`, or `up: up.trace` and `down: down.trace`"),
        );
        return None;
    }
    if let (Some(EventTarget::Link(..)), Some(side)) =
        (place, record.get("up").or(record.get("down")))
    {
        side.report(
            side.problem("a link between groups has no up and down")
                .expected("`file`, and `from` and `to` for one direction"),
        );
        return None;
    }
    for (file, side) in [(both, Side::Both), (up, Side::Up), (down, Side::Down)] {
        if let Some(file) = file {
            traces.push(Trace {
                file,
                target: place?,
                side,
                at: at?,
                waits: waits?,
                loops: loops?,
                window: window?,
            });
        }
    }
    Some(())
}
