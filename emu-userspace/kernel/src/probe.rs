//! Features of this kernel and rights of this user, determined by trying them in a scratch
//! network namespace that disappears with its thread.
use std::path::Path;

use emu_common::names;
use emu_model::{plan::Plan, topology};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use super::{
    bpf, cgroup, identity, link,
    netlink::{Netlink, NetlinkError},
    tc::{self, Hook, HookPlace, Preference},
    threads,
};

/// One ability of the kernel or the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// Whether it worked.
    pub ok: bool,
    /// Whether emu needs it; others are for comparisons.
    pub needed: bool,
    /// The kernel's answer.
    pub detail: String,
    /// How to get it.
    pub remedy: Option<&'static str>,
}

/// A topology small enough for any kernel.
const SMALL: &str = "
version: 1
groups: {probe: {prefix: 192.0.2.0/24, nodes: 2, up: 1mbit, down: 1mbit, latency: 1ms}}
";

struct Prober {
    checks: Vec<Check>,
}

impl Prober {
    fn add(
        &mut self,
        name: &'static str,
        needed: bool,
        remedy: &'static str,
        result: Result<String, String>,
    ) -> bool {
        let ok = result.is_ok();
        self.checks.push(Check {
            name,
            ok,
            needed,
            detail: result.unwrap_or_else(|e| e),
            remedy: (!ok).then_some(remedy),
        });
        ok
    }

    fn netlink(
        &mut self,
        name: &'static str,
        needed: bool,
        remedy: &'static str,
        result: Result<(), NetlinkError>,
    ) -> bool {
        let result = result
            .map(|()| "works".to_owned())
            .map_err(|e| e.to_string());
        self.add(name, needed, remedy, result)
    }
}

/// Tries everything that a load does, and what comparisons need.
pub fn run() -> Vec<Check> {
    threads::apart(in_scratch_namespace).unwrap_or_else(|error| {
        let mut prober = Prober { checks: Vec::new() };
        let remedy = "raise the limit of processes (ulimit -u)";
        prober.add("threads", true, remedy, Err(error.to_string()));
        prober.checks
    })
}

/// Whether a load would work here.
pub fn usable(checks: &[Check]) -> bool {
    checks.iter().all(|c| c.ok || !c.needed)
}

fn in_scratch_namespace() -> Vec<Check> {
    let mut prober = Prober { checks: Vec::new() };
    let entered = unshare(CloneFlags::CLONE_NEWNET)
        .map(|()| "made a scratch network namespace".to_owned())
        .map_err(|e| format!("make a network namespace: {e}"));
    let root =
        "run as root (CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN), or in the VM: cargo xtask vm";
    if prober.add("privileges", true, root, entered)
        && let Err(error) = network(&mut prober)
    {
        prober.add("netlink", true, root, Err(error.to_string()));
    }
    let bpffs = Path::new("/sys/fs/bpf");
    let found = if bpffs.is_dir() {
        Ok("there".to_owned())
    } else {
        Err("/sys/fs/bpf does not exist".to_owned())
    };
    prober.add(
        "bpf file system",
        true,
        "a kernel with CONFIG_BPF_SYSCALL",
        found,
    );
    prober.add(
        "emu exec",
        false,
        "kernel 6.1 or newer with CONFIG_CGROUP_BPF, and a cgroup2 file system",
        exec(),
    );
    prober.checks
}

/// Additional needs of `emu exec`.
fn exec() -> Result<String, String> {
    cgroup::Tree::find().map_err(|e| e.to_string())?;
    identity::Hooks::load(1).map_err(|e| e.to_string())?;
    Ok("the verifier accepted the hooks".to_owned())
}

fn network(prober: &mut Prober) -> Result<(), NetlinkError> {
    let plan = match topology::parse(SMALL, "probe").map(|t| Plan::new(&t, None)) {
        Ok(Ok(plan)) => plan,
        _ => return Ok(()),
    };
    let mut netlink = Netlink::open()?;
    let lo = link::link(&mut netlink, "lo")?.map_or(1, |l| l.index);
    netlink.request(link::set_up(lo, "lo", true))?;

    let made = netlink.request(tc::add_fq(lo, "lo", &plan.fq));
    prober.netlink(
        "fq qdisc",
        true,
        "module sch_fq (CONFIG_NET_SCH_FQ): modprobe sch_fq, another kernel, or the VM: cargo xtask vm",
        made,
    );
    let made = netlink.request(tc::add_clsact(lo, "lo"));
    prober.netlink(
        "clsact qdisc",
        true,
        "module sch_ingress (CONFIG_NET_SCH_INGRESS): modprobe sch_ingress",
        made,
    );
    let made = netlink.request(link::add_ifb(names::IFB, 1500));
    let has_ifb = prober.netlink(
        "ifb device",
        true,
        "module ifb (CONFIG_IFB): modprobe ifb numifbs=0",
        made,
    );
    let programs = bpf::load(&plan);
    let loaded = match &programs {
        Ok(_) => Ok("the verifier accepted all three".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    prober.add(
        "eBPF programs",
        true,
        "kernel 5.18 or newer with CONFIG_BPF_SYSCALL",
        loaded,
    );
    if let Ok(programs) = &programs {
        let ifb = if has_ifb {
            link::link(&mut netlink, names::IFB)?.map_or(lo, |l| l.index)
        } else {
            lo
        };
        attach(prober, &mut netlink, lo, ifb, programs);
    }
    let made = netlink.request(tc::add_netem(lo, "lo"));
    prober.netlink(
        "netem qdisc",
        false,
        "module sch_netem, only for comparisons: modprobe sch_netem",
        made,
    );
    Ok(())
}

fn attach(prober: &mut Prober, netlink: &mut Netlink, lo: u32, ifb: u32, programs: &bpf::Programs) {
    let on_lo = |hook| HookPlace::Interface {
        index: lo,
        name: "lo",
        hook,
    };
    if let Ok(fd) = programs.fd(names::PROG_EGRESS) {
        let made = netlink.request(tc::add_direct_filter(
            on_lo(Hook::Egress),
            Preference::First,
            fd,
            names::PROG_EGRESS,
        ));
        prober.netlink(
            "bpf filter",
            true,
            "module cls_bpf (CONFIG_NET_CLS_BPF): modprobe cls_bpf",
            made,
        );
    }
    if let Ok(fd) = programs.fd(names::PROG_INGRESS) {
        let made = netlink.request(tc::add_redirect_filter(
            on_lo(Hook::Ingress),
            Preference::First,
            fd,
            names::PROG_INGRESS,
            ifb,
        ));
        prober.netlink(
            "redirect to ifb",
            true,
            "module act_mirred (CONFIG_NET_ACT_MIRRED): modprobe act_mirred",
            made,
        );
    }
}
