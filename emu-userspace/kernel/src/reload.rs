//! Changes a loaded plan in place: settings in the maps, vnodes and their addresses, sizes of
//! fq. Packets pass meanwhile.
use std::{collections::BTreeSet, net::IpAddr};

use emu_common::names;
use emu_model::plan::{self, Addressing, FqPlan, Plan, PlanDiff};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

use super::{
    addr,
    bpf::Maps,
    error::{ApplyError, needs},
    link::{self, Link},
    netlink::Netlink,
    state::{StateDir, Undo, WriterLock},
    tc, undo,
};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the kernel programs.
pub(crate) fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// Resizes all fq qdiscs of a plan; they keep their packets.
pub fn resize_fq(plan: &Plan, fq: &FqPlan) -> Result<(), ApplyError> {
    let mut netlink = Netlink::open()?;
    let links = link::links(&mut netlink)?;
    let ours = plan
        .interfaces
        .iter()
        .map(String::as_str)
        .chain([names::IFB]);
    for name in ours {
        if let Some(link) = links.iter().find(|l| l.name == name) {
            netlink
                .request(tc::change_fq(link.index, name, fq))
                .map_err(needs("sch_fq"))?;
        }
    }
    Ok(())
}

/// A change in place: from a loaded plan to another.
pub struct Reload<'a> {
    pub dir: &'a StateDir,
    pub lock: &'a WriterLock,
    /// What is loaded.
    pub old: &'a Plan,
    pub new: &'a Plan,
    /// The difference.
    pub diff: &'a PlanDiff,
}

impl Reload<'_> {
    /// Changes the maps and the addresses.
    ///
    /// # Errors
    /// [`ApplyError`]; then only a part of the changes was made, and a full reload repairs
    /// it.
    pub fn apply(&self, maps: &mut Maps) -> Result<(), ApplyError> {
        let mut netlink = Netlink::open()?;
        let lo = link::link(&mut netlink, "lo")?.ok_or(ApplyError::NoInterface {
            name: "lo".to_owned(),
            have: Vec::new(),
        })?;
        self.remove_vnodes(&mut netlink, &lo, maps)?;
        maps.store(&self.diff.stages, &self.diff.pipes, &self.diff.links);
        self.add_vnodes(&mut netlink, &lo, maps)
    }

    /// Removes the addresses first, so that no packet is sent unshaped.
    fn remove_vnodes(
        &self,
        netlink: &mut Netlink,
        lo: &Link,
        maps: &mut Maps,
    ) -> Result<(), ApplyError> {
        if self.diff.removed.is_empty() {
            return Ok(());
        }
        if self.new.addressing == Addressing::Alias {
            let kept = self.users()?;
            let requests = self
                .diff
                .removed
                .iter()
                .filter(|address| !kept.contains(address))
                .map(|address| addr::delete_alias(lo.index, &lo.name, *address))
                .collect();
            netlink.batch(requests)?;
        }
        for address in &self.diff.removed {
            maps.remove_vnode(*address)?;
        }
        Ok(())
    }

    /// Addresses that existed before any load.
    fn users(&self) -> Result<BTreeSet<IpAddr>, ApplyError> {
        let journal = self.dir.journal()?;
        let kept = journal.into_iter().filter_map(|step| match step {
            Undo::Aliases { keep, .. } => Some(keep),
            _ => None,
        });
        Ok(kept.flatten().collect())
    }

    /// Adds the addresses last, so that no packet is sent unshaped.
    fn add_vnodes(
        &self,
        netlink: &mut Netlink,
        lo: &Link,
        maps: &mut Maps,
    ) -> Result<(), ApplyError> {
        for (address, place) in &self.diff.added {
            maps.add_vnode(*address, *place)?;
        }
        match self.new.addressing {
            Addressing::Alias if !self.diff.added.is_empty() => {
                let added: BTreeSet<IpAddr> = self.diff.added.iter().map(|(a, _)| *a).collect();
                let keep: Vec<IpAddr> = addr::addresses(netlink)?
                    .into_iter()
                    .filter(|a| a.index == lo.index)
                    .map(|a| a.net.addr())
                    .filter(|a| added.contains(a))
                    .collect();
                self.record_aliases(lo, &added, keep)?;
                let requests = added
                    .iter()
                    .map(|address| addr::add_alias(lo.index, &lo.name, *address))
                    .collect();
                netlink.batch(requests)?;
            }
            Addressing::Alias => {}
            Addressing::AnyIp => self.reroute(netlink, lo)?,
        }
        Ok(())
    }

    /// The routes that make vnodes local: new ones before old ones go.
    fn reroute(&self, netlink: &mut Netlink, lo: &Link) -> Result<(), ApplyError> {
        let prefixes = |plan: &Plan| -> BTreeSet<IpNet> {
            plan::covering_prefixes(&plan.address_ranges)
                .into_iter()
                .collect()
        };
        let (before, after) = (prefixes(self.old), prefixes(self.new));
        let recorded = self.recorded_prefixes()?;
        let come: Vec<IpNet> = after
            .difference(&before)
            .filter(|prefix| !recorded.contains(prefix))
            .copied()
            .collect();
        if !come.is_empty() {
            self.record(Undo::LocalRoutes { prefixes: come })?;
        }
        // All of them, since a user may have deleted one.
        let requests = after
            .iter()
            .map(|prefix| addr::add_local_route(lo.index, *prefix))
            .collect();
        netlink.batch(requests)?;
        let requests = before
            .difference(&after)
            .map(|prefix| addr::delete_local_route(lo.index, *prefix))
            .collect();
        Ok(netlink.batch(requests)?)
    }

    /// Records new aliases, except those that an earlier step removes anyway: vnodes that come
    /// and go must not make the journal longer each time.
    fn record_aliases(
        &self,
        lo: &Link,
        added: &BTreeSet<IpAddr>,
        keep: Vec<IpAddr>,
    ) -> Result<(), ApplyError> {
        let journal = self.dir.journal()?;
        let is_new =
            |address: &&IpAddr| keep.contains(address) || !undo::takes_away(&journal, **address);
        let new: Vec<IpAddr> = added.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        self.record(Undo::Aliases {
            interface: lo.name.clone(),
            runs: plan::address_ranges(new.into_iter()),
            keep,
        })
    }

    /// Prefixes whose routes a step of the journal removes.
    fn recorded_prefixes(&self) -> Result<BTreeSet<IpNet>, ApplyError> {
        let journal = self.dir.journal()?;
        let prefixes = journal.into_iter().filter_map(|step| match step {
            Undo::LocalRoutes { prefixes } => Some(prefixes),
            _ => None,
        });
        Ok(prefixes.flatten().collect())
    }

    fn record(&self, undo: Undo) -> Result<(), ApplyError> {
        Ok(self.dir.record(self.lock, &undo)?)
    }
}
