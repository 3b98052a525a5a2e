//! `emu status`.
use std::net::IpAddr;

use clap::Args;
use emu_common::{
    layout::{
        Direction, ImpairmentState, NO_LIMIT_NS, PairLink, Pipe, QueueDelayHistogram, pipe_flag,
    },
    model::rate,
};
use emu_kernel::{
    bpf::Maps,
    counters::{self, Counters, pipe},
    identity::Summary,
    session::Loaded,
};
use emu_model::plan::PlanGroup;
use serde_json::{Value, json};

use super::{FAILED, OK, Outcome, print, print_json, table};
use crate::commands::error::failure;

/// Arguments of `emu status`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu status                 the groups and their counters
  emu status modem           every vnode of a group
  emu status 10.1.1.7        the pipes of a vnode
  emu status --json | jq '.groups[].down.drops_packets'")]
pub(super) struct Status {
    /// A vnode's address or a group's name.
    #[arg(value_name = "VNODE|GROUP")]
    what: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Outcome {
        let Some(what) = &self.what else {
            let (loaded, missing) = Loaded::find_settled()?;
            return overview(&loaded, &loaded.maps()?, missing, self.json);
        };
        let loaded = Loaded::find()?;
        let maps = loaded.maps()?;
        if let Ok(address) = what.parse::<IpAddr>() {
            return vnode(&loaded, &maps, address, self.json);
        }
        let group = loaded.topology.group_named(what);
        let group = group.ok_or_else(|| {
            let names: Vec<_> = loaded.plan.groups.iter().map(|g| &*g.name).collect();
            failure!("no vnode or group {what:?}; groups: {}", names.join(", "))
        })?;
        members(&loaded, &maps, group, self.json)
    }
}

fn overview(loaded: &Loaded, maps: &Maps, mut missing: Vec<String>, as_json: bool) -> Outcome {
    let plan = &loaded.plan;
    let totals = counters::by_group(loaded, maps);
    let waits = counters::waits_by_group(loaded, maps)?;
    let reasons = maps.reasons()?;
    if loaded.is_half_changed() {
        missing.push("the rest of an interrupted change".to_owned());
    }
    let processes = loaded.processes()?;
    let (cut, down) = (cut(loaded, maps), down(loaded, maps));
    if as_json {
        let groups: Vec<Value> = plan
            .groups
            .iter()
            .zip(totals.iter().zip(&waits))
            .map(|(group, ([up, down], [up_waits, down_waits]))| {
                json!({"name": group.name, "vnodes": group.local_vnodes, "up": up, "down": down,
                    "up_queue_delay": waits_json(up_waits),
                    "down_queue_delay": waits_json(down_waits)})
            })
            .collect();
        let reasons: serde_json::Map<String, Value> = reasons
            .iter()
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect();
        print_json(&json!({
            "ok": missing.is_empty(), "missing": missing, "name": plan.name,
            "topology": loaded.state.topology, "host": plan.host,
            "loaded_at_unix_s": loaded.state.loaded_at_unix_s, "seed": loaded.plan.seed,
            "interfaces": plan.interfaces, "vnodes": plan.vnodes.len(),
            "pins": loaded.state.pins, "groups": groups, "reasons": reasons,
            "exec": processes.as_ref().map(processes_json),
            "cut": cut, "down": down,
        }))?;
    } else {
        let mut table = table(
            &[
                "group",
                "vnodes",
                "up packets",
                "bytes",
                "drops",
                "p50, p99 ms",
                "down packets",
                "bytes",
                "drops",
                "p50, p99 ms",
            ],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
        );
        let local = |(group, _): &(&PlanGroup, _)| group.local_vnodes > 0;
        let figures = totals.iter().zip(&waits);
        for (group, (totals, waits)) in plan.groups.iter().zip(figures).filter(local) {
            let mut row = vec![group.name.clone(), group.local_vnodes.to_string()];
            for (side, waits) in totals.iter().zip(waits) {
                row.extend([side.packets, side.bytes, side.drops()].map(|n| n.to_string()));
                row.push(quantiles(waits));
            }
            table.add_row(row);
        }
        print(&format!(
            "{} ({}), {} vnodes on {}",
            plan.name,
            loaded.state.topology.display(),
            plan.vnodes.len(),
            plan.interfaces.join(", ")
        ))?;
        print(&table.to_string())?;
        for (reason, count) in reasons.iter().filter(|(_, count)| *count > 0) {
            print(&format!("{:>14} {}", count, reason.name()))?;
        }
        if let Some(processes) = &processes {
            let (count, vnodes) = (processes.processes, processes.vnodes);
            print(&format!(
                "emu exec: {count} running, on {vnodes} of the vnodes"
            ))?;
            for (event, count) in processes.events.iter().filter(|(_, count)| *count > 0) {
                print(&format!("{:>14} {}", count, event.name()))?;
            }
        }
        for [a, b] in &cut {
            print(&format!("CUT: {a} to {b} (emu heal)"))?;
        }
        if let Some(first) = down.first() {
            let more = match down.len() {
                1 => String::new(),
                count => format!(" and {} more vnodes", count - 1),
            };
            print(&format!("DOWN: {first}{more} (emu up)"))?;
        }
        for what in &missing {
            print(&format!("MISSING: {what}; load the topology again"))?;
        }
    }
    Ok(if missing.is_empty() { OK } else { FAILED })
}

/// Median and 99th percentile of the time of a group's packets in its pipes.
fn quantiles(waits: &QueueDelayHistogram) -> String {
    let ms = |share| {
        let ns = waits.quantile_ns(share)?;
        Some(format!("{:.1}", ns / 1e6))
    };
    match (ms(0.5), ms(0.99)) {
        (Some(half), Some(most)) => format!("{half}, {most}"),
        _ => "–".to_owned(),
    }
}

fn waits_json(waits: &QueueDelayHistogram) -> Value {
    let packets = waits.packets();
    json!({
        "packets": packets,
        "mean_ns": (packets > 0).then(|| waits.sum_ns / packets.max(1)),
        "p50_ns": waits.quantile_ns(0.5), "p99_ns": waits.quantile_ns(0.99),
    })
}

/// Processes of vnodes, and counters of the hooks.
fn processes_json(summary: &Summary) -> Value {
    let events: serde_json::Map<String, Value> = summary
        .events
        .iter()
        .map(|(event, count)| (event.name().to_owned(), json!(count)))
        .collect();
    json!({"processes": summary.processes, "vnodes": summary.vnodes, "events": events})
}

/// Pairs of partitioned groups, from the first to the second.
fn cut<'a>(loaded: &'a Loaded, maps: &Maps) -> Vec<[&'a str; 2]> {
    let groups = &loaded.plan.groups;
    let name = |index: usize| groups[index].name.as_str();
    (0..groups.len() * groups.len())
        .filter(|pair| {
            maps.pairs
                .get(*pair)
                .is_some_and(|link| link.stage & PairLink::CUT != 0)
        })
        .map(|pair| [name(pair / groups.len()), name(pair % groups.len())])
        .collect()
}

/// Vnodes that are down.
fn down(loaded: &Loaded, maps: &Maps) -> Vec<IpAddr> {
    let is_down = |index: &usize| {
        let (pipe, _) = pipe(loaded, maps, *index, Direction::Up);
        pipe.flags & pipe_flag::DOWN != 0
    };
    let vnodes = &loaded.plan.vnodes;
    (0..vnodes.len())
        .filter(is_down)
        .map(|index| vnodes[index].address)
        .collect()
}

/// A pipe's settings and counters.
fn pipe_json(both: &(Pipe, ImpairmentState)) -> Value {
    let (pipe, stage) = both;
    let rate = rate::rate_bits_per_sec(pipe.ns_per_byte_q20);
    let mut counters = Counters::default();
    counters.add(both);
    json!({
        "rate_bits_per_sec": rate,
        "latency_ns": pipe.latency_ns,
        "queue_limit_packets": (pipe.limit_packets > 0).then_some(pipe.limit_packets),
        "queue_limit_ns": (pipe.limit_ns != NO_LIMIT_NS).then_some(pipe.limit_ns),
        "burst_ns": pipe.burst_ns,
        "overhead_bytes": pipe.overhead_bytes,
        "backlog_ns": backlog_ns(pipe),
        "down": pipe.flags & pipe_flag::DOWN != 0,
        "jitter_ns": (stage.jitter_ns > 0).then_some(stage.jitter_ns),
        "impaired": pipe.stage != 0,
        "counters": counters,
    })
}

/// Time until the pipe is idle.
fn backlog_ns(pipe: &Pipe) -> u64 {
    let now: std::time::Duration = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(std::time::Duration::ZERO, Into::into);
    pipe.next_free_ns.saturating_sub(now.as_nanos() as u64)
}

fn vnode(loaded: &Loaded, maps: &Maps, address: IpAddr, as_json: bool) -> Outcome {
    let index = loaded
        .plan
        .vnodes
        .iter()
        .position(|v| v.address == address)
        .ok_or_else(|| failure!("{address} is not a vnode of this host"))?;
    let group = &loaded.plan.groups[loaded.plan.vnodes[index].group].name;
    let pipes = [Direction::Up, Direction::Down].map(|d| pipe(loaded, maps, index, d));
    if as_json {
        return print_json(&json!({
            "address": address, "group": group, "index": index,
            "up": pipe_json(&pipes[0]), "down": pipe_json(&pipes[1]),
        }));
    }
    print(&format!("{address} in {group}"))?;
    for (name, pipe) in ["up", "down"].iter().zip(&pipes) {
        let json = pipe_json(pipe);
        print(&format!("  {name}"))?;
        if let Value::Object(fields) = json {
            for (key, value) in fields.iter().filter(|(k, _)| *k != "counters") {
                print(&format!("    {key:<20} {}", plain(value)))?;
            }
            if let Some(Value::Object(counters)) = fields.get("counters") {
                for (key, value) in counters {
                    print(&format!("    {key:<20} {value}"))?;
                }
            }
        }
    }
    Ok(OK)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

fn members(loaded: &Loaded, maps: &Maps, group: usize, as_json: bool) -> Outcome {
    let members: Vec<(IpAddr, Counters, Counters)> = loaded
        .plan
        .vnodes
        .iter()
        .enumerate()
        .filter(|(_, v)| v.group == group)
        .map(|(index, vnode)| {
            let [mut up, mut down] = [Counters::default(); 2];
            up.add(&pipe(loaded, maps, index, Direction::Up));
            down.add(&pipe(loaded, maps, index, Direction::Down));
            (vnode.address, up, down)
        })
        .collect();
    if as_json {
        let list: Vec<Value> = members
            .iter()
            .map(|(address, up, down)| json!({"address": address, "up": up, "down": down}))
            .collect();
        return print_json(&list);
    }
    let mut table = table(
        &[
            "vnode",
            "up packets",
            "bytes",
            "drops",
            "down packets",
            "bytes",
            "drops",
        ],
        &[1, 2, 3, 4, 5, 6],
    );
    for (address, up, down) in &members {
        let mut row = vec![address.to_string()];
        for side in [up, down] {
            row.extend([side.packets, side.bytes, side.drops()].map(|n| n.to_string()));
        }
        table.add_row(row);
    }
    print(&table.to_string())
}
