//! `emu set`, `partition`, `heal`, `down` and `up`.
use anyhow::anyhow;
use clap::Args;
use emu_kernel::live::{Changed, Live};
use emu_model::topology::{AccessLinkChange, PipeChange, Target};
use serde_json::json;

use super::{Outcome, print, print_json};

/// Arguments of `emu set`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu set modem up=64kbit latency=80ms          the access links of a group, including nested ones
  emu set 10.1.1.7 down=2mbit queue=64KB        the access link of one vnode
  emu set 10.1.1.7 'up={rate: 1mbit, latency: 9ms}'
  emu set modem:adsl latency=300ms loss=2%      the link between two groups
  emu set modem:adsl --one-way jitter=5ms       from the first to the second only

Keys of an access link: up, down (a rate, `unlimited`, or the long form of a file), latency,
queue, burst, jitter, loss, duplicate, corrupt, reorder, aqm. Keys of a link: latency,
rate, queue and the impairments. Packets in a queue leave at the old rate. `emu load`
restores the settings of the file.")]
pub(super) struct Set {
    /// A group, a vnode's address, or two groups as `A:B`.
    target: String,
    /// New settings.
    #[arg(required = true, value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Change only the direction from the first to the second group.
    #[arg(long)]
    one_way: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `emu partition` and `emu heal`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu partition eu us      drop all packets between the two groups, including nested ones
  emu heal eu us           let packets pass again")]
pub(super) struct Pair {
    a: String,
    /// The other group.
    b: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `emu down` and `emu up`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu down 10.1.1.7        the vnode neither sends nor receives
  emu down modem           all vnodes of a group, including nested groups
  emu up modem             bring them up again")]
pub(super) struct Vnodes {
    /// A group or a vnode's address.
    target: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn target(live: &Live, text: &str) -> anyhow::Result<Target> {
    Target::parse(text, live.topology()).map_err(|e| anyhow!(e))
}

fn report(changed: Changed, what: &str, as_json: bool) -> Outcome {
    if as_json {
        return print_json(&json!({"ok": true, "changed": changed}));
    }
    print(&format!(
        "{what}: {} pipes, {} pairs of groups",
        changed.pipes, changed.pairs
    ))
}

impl Set {
    pub(super) fn run(self) -> Outcome {
        let mut live = Live::open()?;
        let target = target(&live, &self.target)?;
        let changed = match target {
            Target::Pair(a, b) => {
                let change = PipeChange::from_args(&self.changes).map_err(|e| anyhow!(e))?;
                live.set_pair((a, b), self.one_way, &change)?
            }
            _ if self.one_way => {
                return Err(anyhow!("--one-way is for two groups, as in A:B"));
            }
            target => {
                let change = AccessLinkChange::from_args(&self.changes).map_err(|e| anyhow!(e))?;
                live.set_line(target, &change)?
            }
        };
        report(changed, "changed", self.json)
    }
}

impl Pair {
    pub(super) fn run(self, cut: bool) -> Outcome {
        let mut live = Live::open()?;
        let group = |text: &str| match target(&live, text)? {
            Target::Group(group) => Ok(group),
            _ => Err(anyhow!("`{text}` is not a group")),
        };
        let (a, b) = (group(&self.a)?, group(&self.b)?);
        let changed = live.set_cut(a, b, cut)?;
        report(changed, if cut { "cut" } else { "healed" }, self.json)
    }
}

impl Vnodes {
    pub(super) fn run(self, down: bool) -> Outcome {
        let mut live = Live::open()?;
        let target = target(&live, &self.target)?;
        let changed = live.set_down(target, down)?;
        report(changed, if down { "down" } else { "up" }, self.json)
    }
}
