//! Time to create many vnodes: a load without qdiscs, filters and the journal, so that the
//! measurement runs on kernels without fq.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use emu_kernel::{addr, bpf, link, netlink::Netlink, session::SessionError};
use emu_model::{
    plan::{self, Plan},
    topology,
};
use emu_report::Table;
use serde::Serialize;

use super::{BenchError, MedianCi, namespace::Namespace};

/// Loads per number of vnodes.
const TURNS: usize = 5;

/// Load times in seconds for one number of vnodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FillingRow {
    /// Number of vnodes in the topology.
    pub vnodes: u32,
    /// Parsing the file and planning.
    pub plan_s: MedianCi,
    /// Verifying and loading the programs, and filling the maps.
    pub maps_s: MedianCi,
    /// Adding the routes that make the addresses local.
    pub routes_s: MedianCi,
    /// Sum of the three parts.
    pub all_s: MedianCi,
}

/// Loads each number of vnodes, each time in a new scratch namespace.
///
/// # Errors
/// [`BenchError`] if a namespace cannot be created or a load fails.
pub fn run(sizes: &[u32]) -> Result<Vec<FillingRow>, BenchError> {
    sizes.iter().filter_map(|v| row(*v).transpose()).collect()
}

fn row(vnodes: u32) -> Result<Option<FillingRow>, BenchError> {
    let mut seen: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        let parts = Namespace::new()?.enter(|| once(vnodes))?;
        for (seen, part) in seen.iter_mut().zip(parts) {
            seen.push(part.as_secs_f64());
        }
    }
    let [plan_s, maps_s, routes_s, all_s] = seen.map(MedianCi::of);
    Ok((|| {
        Some(FillingRow {
            vnodes,
            plan_s: plan_s?,
            maps_s: maps_s?,
            routes_s: routes_s?,
            all_s: all_s?,
        })
    })())
}

/// Times of the plan, the maps and the routes, and their sum.
fn once(vnodes: u32) -> Result<[Duration; 4], BenchError> {
    let text = format!(
        "version: 1\naddressing: anyip\ngroups: {{a: {{prefix: 10.64.0.0/14, nodes: {vnodes}, \
         up: 1mbit, down: 8mbit, latency: 20ms}}}}\n"
    );
    let start = Instant::now();
    let topology =
        topology::parse(&text, "bench").map_err(|e| SessionError::Topology(Box::new(e)))?;
    let plan = Plan::new(&topology, None).map_err(SessionError::Plan)?;
    let planned = start.elapsed();
    let programs = bpf::load(&plan).map_err(|e| SessionError::Bpf(Box::new(e)))?;
    let filled = start.elapsed();
    announce(&plan.address_ranges)?;
    let all = start.elapsed();
    drop(programs);
    Ok([planned, filled - planned, all - filled, all])
}

fn announce(runs: &[(IpAddr, IpAddr)]) -> Result<(), BenchError> {
    let mut netlink = Netlink::open()?;
    let lo = link::link(&mut netlink, "lo")?.map_or(1, |l| l.index);
    let routes = plan::covering_prefixes(runs);
    let routes = routes.into_iter().map(|p| addr::add_local_route(lo, p));
    netlink.batch(routes.collect())?;
    Ok(())
}

/// Table with one row per number of vnodes.
pub fn table(rows: &[FillingRow]) -> Table {
    let mut table = Table::new([
        "vnodes",
        "plan, s",
        "programs and maps, s",
        "routes, s",
        "all, s",
        "95 % interval",
    ]);
    for row in rows {
        let seconds = |time: &MedianCi| format!("{:.3}", time.median);
        table.row([
            row.vnodes.to_string(),
            seconds(&row.plan_s),
            seconds(&row.maps_s),
            seconds(&row.routes_s),
            seconds(&row.all_s),
            format!("{:.3} to {:.3}", row.all_s.low, row.all_s.high),
        ]);
    }
    table
}
