//! `emu load`, `emu unload` and `emu check`.
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use emu_kernel::{
    live,
    session::{self, How, Session, SessionError},
    sockets::{self, BoundSocket},
    undo::Processes,
    user,
};
use emu_model::{
    name::printable,
    plan::{self, LatePair, Plan},
    topology::{self, Addressing, Source, Topology},
};
use serde_json::json;

use super::{
    OK, Outcome, USAGE, host_args::HostArgs, netns::Namespace, print, print_json, table, verify,
};
use crate::commands::error::{CommandError, failure};

/// Arguments of `emu load`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu load topologies/p2plab.yaml
  emu load topo.yaml                  again, after an edit: changes the differences
  emu load topo.yaml --host h1        this machine is h1 of the topology's hosts
  emu load topo.yaml --host auto      … selected by host name, Slurm or Kubernetes
  emu load topo.yaml --rank 2 --size 8    … the third of eight
  emu load topo.yaml --no-verify      load without measuring
  emu load topo.yaml --netns lab      in the namespace lab, made if it does not exist;
                                      this namespace's lo stays as it is")]
pub(super) struct Load {
    /// The topology; `-` is the standard input.
    file: PathBuf,
    #[command(flatten)]
    host: HostArgs,
    /// Show what would be done, without doing it.
    #[arg(long)]
    dry_run: bool,
    /// Unload first, even if a change in place is possible.
    #[arg(long, alias = "anew")]
    full_reload: bool,
    /// Load even if sockets are bound to addresses that go away.
    #[arg(long)]
    force: bool,
    /// Do not measure after loading.
    #[arg(long)]
    no_verify: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Load {
    /// Whether nothing is to be changed.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(super) fn run(self, namespace: &mut Namespace) -> Outcome {
        let mut source = user::as_caller(|| Source::read(&self.file))??;
        let topology = &mut source.topology;
        live::check_traces(topology)?;
        let plan = self.host.plan(topology)?;
        if self.dry_run {
            return dry_run(&plan, self.full_reload, self.json);
        }
        let start = Instant::now();
        let file = source.absolute();
        let (text, topology) = (&source.text, &source.topology);
        namespace.for_plan(&plan)?;
        let session = Session::open()?;
        namespace.check(&session)?;
        if topology.addressing.is_none() && plan.addressing == Addressing::AnyIp {
            eprintln!(
                "emu: {} vnodes have their addresses by routes (`addressing: anyip`), which `ip \
                 addr` does not list",
                plan.vnodes.len()
            );
        }
        if let Some(late) = &plan.late_pair {
            eprintln!("emu: warning: {}", late_text(late, plan.host_latency_ns));
        }
        let sockets = session.sockets_in_the_way(Some(&plan))?;
        check_sockets(&sockets, self.force)?;
        let how = if self.full_reload {
            session.load_full(&plan, &file, text)?;
            How::FullReload { because: None }
        } else {
            session.load(&plan, &file, text)?
        };
        if let Some(netns) = namespace.made().filter(|_| !self.json) {
            print(&format!("made the network namespace {netns}"))?;
        }
        if !self.json || self.no_verify {
            summary(&plan, &how, start, self.json)?;
        }
        if self.no_verify {
            return Ok(OK);
        }
        verify::measure(
            topology,
            &plan,
            &verify::options(None, false, None),
            self.json,
        )
    }
}

/// Refuses to take addresses away from sockets, or warns of it.
fn check_sockets(sockets: &[BoundSocket], force: bool) -> Result<(), CommandError> {
    if sockets.is_empty() {
        return Ok(());
    }
    let list = sockets::some(sockets);
    if force {
        eprintln!(
            "emu: warning: {}",
            printable(&format!("the addresses of these sockets go away: {list}"))
        );
        return Ok(());
    }
    Err(failure!(
        "sockets are bound to addresses that would go away: {list}. Nothing was changed; end the \
         programs, or use --force"
    ))
}

fn late_text(late: &LatePair, host_latency_ns: u64) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    format!(
        "packets from {} to {} have {} ms of latency before the receiver's line, and the network \
         between the hosts takes {} ms (`host_latency`): they arrive late when the receiver is on \
         another host; so for {} pairs of groups",
        late.from,
        late.to,
        ms(late.latency_ns),
        ms(host_latency_ns),
        late.count
    )
}

fn summary(plan: &Plan, how: &How, start: Instant, as_json: bool) -> Outcome {
    let (vnodes, groups) = (plan.vnodes.len(), plan.groups.len());
    if as_json {
        return print_json(&json!({
            "ok": true, "name": plan.name, "host": plan.host, "how": how,
            "vnodes": vnodes, "groups": groups, "interfaces": plan.interfaces,
        }));
    }
    if let How::FullReload {
        because: Some(because),
    } = how
    {
        print(&format!("full reload, because {because}"))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let what = match in_place(how) {
        Some(what) => format!("changed in place: {what}, in {seconds:.2} s"),
        None => format!("loaded in {seconds:.2} s"),
    };
    print(&format!(
        "{}: {vnodes} vnodes in {groups} groups on {}, {what}",
        plan.name,
        plan.interfaces.join(", "),
    ))
}

/// The numbers of changes in place.
fn in_place(how: &How) -> Option<String> {
    let How::InPlace {
        pipes,
        links,
        added,
        removed,
        repaired,
    } = how
    else {
        return None;
    };
    let mut text = format!("{pipes} pipes, {links} links");
    for (count, what) in [(added, "added"), (removed, "removed")] {
        if *count > 0 {
            text += &format!(", {count} vnodes {what}");
        }
    }
    if !repaired.is_empty() {
        text += &format!(", put back: {}", repaired.join(", "));
    }
    Some(text)
}

fn dry_run(plan: &Plan, full_reload: bool, as_json: bool) -> Outcome {
    // Without the right to read the maps, only the plan is printed.
    let how = session::preview(plan).ok().filter(|_| !full_reload);
    if as_json {
        let mut value = serde_json::to_value(plan)?;
        value["how"] = serde_json::to_value(&how)?;
        return print_json(&value);
    }
    match &how {
        Some(How::FullReload {
            because: Some(because),
        }) => {
            print(&format!("would do a full reload, because {because}"))?;
        }
        Some(how) => {
            if let Some(what) = in_place(how) {
                return print(&format!("would change in place: {what}"));
            }
        }
        None => {}
    }
    print(&plan.to_string())
}

/// `emu unload`.
pub(super) fn unload(as_json: bool, kill: bool, force: bool, namespace: &Namespace) -> Outcome {
    let (had, removed) = if namespace.is_gone() {
        (false, None)
    } else {
        let (session, processes) = if kill {
            let (session, killed) = Session::seize()?;
            for holder in killed {
                eprintln!("emu: killed {holder}, which kept this network namespace locked");
            }
            (session, Processes::Kill)
        } else {
            (Session::open()?, Processes::Refuse)
        };
        check_sockets(&session.sockets_in_the_way(None)?, force)?;
        let had = session.unload(processes)?;
        (had, namespace.remove(session)?)
    };
    if as_json {
        let removed = removed.map(ToString::to_string);
        return print_json(&json!({"ok": true, "was_loaded": had, "removed_netns": removed}));
    }
    print(if had {
        "unloaded: everything is as it was before"
    } else {
        "nothing was loaded"
    })?;
    match removed {
        Some(netns) => print(&format!("removed the network namespace {netns}")),
        None => Ok(OK),
    }
}

/// `emu check`.
pub(super) fn check(file: &Path, text: String, as_json: bool) -> Outcome {
    let topology = match user::as_caller(|| Source::new(file, text).map(|s| s.topology))? {
        Ok(topology) => topology,
        Err(errors) if as_json => {
            print_json(&errors)?;
            return Ok(USAGE);
        }
        Err(errors) => return Err(SessionError::Topology(Box::new(errors)).into()),
    };
    for file in &topology.distributions {
        user::as_caller(|| plan::read_distribution(file))??;
    }
    live::check_traces(&topology)?;
    if as_json {
        return print_json(&json!({
            "ok": true, "name": topology.name,
            "vnodes": topology.vnode_total(), "groups": topology.groups.len(),
        }));
    }
    groups(&topology)
}

/// The access link of every group, each quantity with its unit.
fn groups(topology: &Topology) -> Outcome {
    let mut table = table(
        &[
            "group", "prefix", "vnodes", "up", "down", "latency", "queue",
        ],
        &[2, 3, 4, 5, 6],
    );
    for (id, group) in topology.groups.iter().enumerate() {
        let rate = |pipe: &topology::Pipe| pipe.rate.map_or("unlimited".into(), |r| r.to_string());
        table.add_row([
            group.name.clone().into(),
            group.prefix.to_string(),
            topology.vnode_count(id).to_string(),
            rate(&group.up),
            rate(&group.down),
            humantime::format_duration(group.up.latency).to_string(),
            group.up.queue.to_string(),
        ]);
    }
    print(&table.to_string())?;
    print(&format!(
        "{}: {} vnodes in {} groups",
        topology.name,
        topology.vnode_total(),
        topology.groups.len()
    ))
}
