//! `emu plan`.
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use emu_kernel::{machine, user};
use emu_model::{
    placement_report::{self, HostLoad},
    plan::PlanError,
    topology::{self, Rate},
};
use serde_json::json;

use super::{OK, Outcome, USAGE, host_args::HostArgs, print, print_json, table};

/// Largest number of hosts with a warning each.
const MOST_WARNINGS: usize = 3;

/// Arguments of `emu plan`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu plan topo.yaml                          what `emu load` would do here
  emu plan topo.yaml --host h2                … on the host h2
  emu plan topo.yaml --all-hosts              placement of vnodes, and the load of links
  emu plan topo.yaml --all-hosts --size 8     … if there were eight hosts
  emu plan topo.yaml --all-hosts --link 1gbit … with links of this speed

The rates are upper bounds: all pipes of a host saturated, towards vnodes of
other hosts. If they exceed the speed of the link, the link may be the bottleneck.")]
pub(super) struct PlanArgs {
    /// The topology; `-` is the standard input.
    file: PathBuf,
    #[command(flatten)]
    host: HostArgs,
    /// Show the placement on all hosts.
    #[arg(long, conflicts_with_all = ["host", "rank"])]
    all_hosts: bool,
    /// Speed of the links that the file does not state.
    #[arg(long, value_name = "RATE", requires = "all_hosts")]
    link: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl PlanArgs {
    pub(super) fn run(self) -> Outcome {
        let mut topology = user::as_caller(|| topology::load(&self.file))??;
        if !self.all_hosts {
            let plan = self.host.plan(&mut topology)?;
            return if self.json {
                print_json(&plan)
            } else {
                print(&plan.to_string())
            };
        }
        if let Some(size) = self.host.size {
            topology.resize(size).map_err(PlanError::from)?;
        }
        let link = match self.link.as_deref().map(topology::rate).transpose() {
            Ok(link) => link,
            Err(e) => {
                eprintln!("emu: --link: {}; expected {}", e.message, e.expected);
                return Ok(USAGE);
            }
        };
        if topology.hosts.is_empty() {
            return Err(anyhow!(
                "{} has no `hosts`: one machine carries all {} vnodes",
                self.file.display(),
                topology.vnode_total()
            ));
        }
        let parts = placement_report::host_loads(&topology, link, machine::link_speed);
        if self.json {
            let vnodes = topology.vnode_total();
            return print_json(&json!({
                "name": topology.name, "vnodes": vnodes, "hosts": parts,
            }));
        }
        show(&parts)
    }
}

fn rate(bits_per_sec: Option<u64>) -> String {
    bits_per_sec.map_or("unlimited".to_owned(), |bits| Rate(bits).to_string())
}

fn show(parts: &[HostLoad]) -> Outcome {
    let mut rows = table(
        &[
            "host",
            "vnodes",
            "of",
            "interface",
            "out at most",
            "in at most",
            "link",
        ],
        &[1, 4, 5, 6],
    );
    for part in parts {
        let groups: Vec<String> = part
            .groups
            .iter()
            .map(|g| format!("{} {}", g.vnodes, g.group))
            .collect();
        let shown = groups.len().min(6);
        let more = if groups.len() > shown { ", …" } else { "" };
        rows.add_row([
            part.host.clone(),
            part.vnodes.to_string(),
            groups[..shown].join(", ") + more,
            part.interface.clone(),
            rate(part.out_bits_per_sec),
            rate(part.in_bits_per_sec),
            part.link_bits_per_sec
                .map_or("?".to_owned(), |bits| Rate(bits).to_string()),
        ]);
    }
    print(&rows.to_string())?;
    let limited: Vec<&HostLoad> = parts.iter().filter(|part| part.link_is_limit).collect();
    for part in limited.iter().take(MOST_WARNINGS) {
        print(&format!(
            "WARNING: the link of {} ({}) can be the bottleneck: its vnodes may send {} and receive \
             {} over it; use more hosts, or expect less than the rates of their access links",
            part.host,
            rate(part.link_bits_per_sec),
            rate(part.out_bits_per_sec),
            rate(part.in_bits_per_sec)
        ))?;
    }
    match limited.len().saturating_sub(MOST_WARNINGS) {
        0 => Ok(OK),
        more => print(&format!("WARNING: the same holds for {more} more hosts")),
    }
}
