//! Restores single objects of a load that somebody took away, so that queues, connections
//! and the rest of the load stay as they are.
//!
//! What cannot be restored alone (maps, cgroups, a deleted ifb, a root qdisc that somebody
//! replaced) is left to a full reload.
use std::{fs, os::fd::AsFd};

use aya::programs::{ProgramInfo, loaded_programs};
use emu_common::names;
use emu_model::plan::{self, Plan};
use netlink_packet_route::tc::TcHandle;

use crate::{
    addr,
    drift::{self, DriftError, Facts},
    link::{self, Link},
    machines,
    netlink::{Netlink, NetlinkError, Request},
    offload,
    state::{State, StateDir, Undo, WriterLock},
    tc::{self, Hook, HookPlace, Preference},
};

/// A repair in progress.
struct Repair<'a> {
    plan: &'a Plan,
    state: &'a State,
    netlink: Netlink,
    facts: Facts,
}

/// Restores what is missing of a load; returns what was missing, as text for messages. The
/// caller compares again: what is then still missing needs a full reload.
///
/// # Errors
/// [`DriftError`] if the state or the kernel cannot be read.
pub(crate) fn repair(
    plan: &Plan,
    state: &State,
    dir: &StateDir,
    lock: &WriterLock,
) -> Result<Vec<String>, DriftError> {
    let missing = drift::find(plan, state)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    let mut netlink = Netlink::open()?;
    // Interfaces that are down lose routes and qdiscs, so they come first.
    for name in &plan.interfaces {
        if let Some(link) = link::link(&mut netlink, name)?.filter(|link| !link.up) {
            let _ = netlink.request(link::set_up(link.index, name, true));
        }
    }
    machines::give_back(plan, state, dir, lock);
    let mut repair = Repair {
        plan,
        state,
        facts: Facts::read(&mut netlink)?,
        netlink,
    };
    // In the order of a load: filters last.
    for step in dir.journal()? {
        // What fails is found by the next comparison.
        let _ = repair.step(&step);
    }
    Ok(missing)
}

impl Repair<'_> {
    fn link(&self, name: &str) -> Option<Link> {
        self.facts.link(name).cloned()
    }

    fn step(&mut self, step: &Undo) -> Result<(), NetlinkError> {
        match step {
            Undo::DeleteLink { name } => self.ifb(name),
            Undo::Mtu { interface, .. } => {
                let mtu_bytes = self.plan.mtu_bytes;
                self.on(interface, |link| {
                    link::set_mtu(link.index, &link.name, mtu_bytes)
                })
            }
            Undo::GsoMaxSegments { interface, .. } => self.on(interface, |link| {
                link::set_gso_max_segments(link.index, &link.name, 1)
            }),
            Undo::LinkDown { interface } => {
                self.on(interface, |link| link::set_up(link.index, &link.name, true))
            }
            Undo::RootQdisc { interface, .. } => match self.link(interface) {
                Some(link) => self.fq(&link),
                None => Ok(()),
            },
            Undo::Clsact { interface } => match self.link(interface) {
                Some(link) => self.clsact(&link),
                None => Ok(()),
            },
            Undo::Filter { interface, hook } => match self.link(interface) {
                Some(link) => self.filter(&link, *hook),
                None => Ok(()),
            },
            Undo::PortFilter { interface } => match self.link(interface) {
                Some(link) => {
                    let name = names::PROG_TO_PORT;
                    self.program(&link, Hook::Ingress, Preference::Second, name)
                }
                None => Ok(()),
            },
            Undo::Features {
                interface,
                features,
            } => {
                let stays = |name: &str| {
                    let mut all = self.state.offloads_on.iter();
                    all.any(|(at, feature)| at == interface && feature == name)
                };
                let off: Vec<_> = features
                    .iter()
                    .filter(|f| !stays(&f.name))
                    .map(|f| offload::Feature {
                        name: f.name.clone(),
                        wanted: false,
                    })
                    .collect();
                // What cannot be turned off is found by the next comparison.
                let _ = offload::set(interface, &off);
                Ok(())
            }
            Undo::Aliases { .. } => {
                let lost: Vec<_> = self
                    .plan
                    .process_addresses()
                    .filter(|address| !self.facts.addresses.contains(address))
                    .collect();
                self.on_lo(|lo| {
                    let add = |address: &_| addr::add_alias(lo.index, &lo.name, *address);
                    lost.iter().map(add).collect()
                })
            }
            Undo::LocalRoutes { .. } => {
                let prefixes = plan::covering_prefixes(&self.plan.address_ranges);
                self.on_lo(|lo| {
                    let add = |prefix: &_| addr::add_local_route(lo.index, *prefix);
                    prefixes.iter().map(add).collect()
                })
            }
            Undo::LoopbackRoute { prefix } => {
                self.on_lo(|lo| vec![addr::add_local_route(lo.index, *prefix)])
            }
            Undo::Routes { interface, routes } => {
                let Some(link) = self.link(interface) else {
                    return Ok(());
                };
                let add = |(prefix, gateway): &_| addr::add_route(link.index, *prefix, *gateway);
                self.netlink.batch(routes.iter().map(add).collect())
            }
            Undo::Sysctl { path, .. } => {
                let _ = fs::write(path, "1");
                Ok(())
            }
            Undo::Machines { .. } => self.ports(),
            Undo::Cgroup { .. } | Undo::Pins { .. } => Ok(()),
        }
    }

    fn on(&mut self, name: &str, request: impl Fn(&Link) -> Request) -> Result<(), NetlinkError> {
        match self.link(name) {
            Some(link) => self.netlink.request(request(&link)),
            None => Ok(()),
        }
    }

    fn on_lo(&mut self, requests: impl Fn(&Link) -> Vec<Request>) -> Result<(), NetlinkError> {
        match self.link("lo") {
            Some(lo) => self.netlink.batch(requests(&lo)),
            None => Ok(()),
        }
    }

    fn ifb(&mut self, name: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.link(name) else {
            return Ok(());
        };
        let least = self.plan.mtu_bytes.max(1500);
        if link.mtu_bytes < least {
            self.netlink
                .request(link::set_mtu(link.index, name, least))?;
        }
        self.fq(&link)?;
        self.clsact(&link)?;
        self.filter(&link, Hook::Egress)?;
        self.netlink.request(link::set_up(link.index, name, true))
    }

    fn fq(&mut self, link: &Link) -> Result<(), NetlinkError> {
        let wanted = self.state.fq.as_ref().unwrap_or(&self.plan.fq);
        if self.facts.fq(link).is_some() {
            return self
                .netlink
                .request(tc::change_fq(link.index, &link.name, wanted));
        }
        // Another qdisc in its place is somebody's; a reload records it first.
        let mut all = self.facts.qdiscs.iter();
        let free =
            all.all(|q| (q.index, q.parent) != (link.index, TcHandle::ROOT) || q.is_default());
        if !free {
            return Ok(());
        }
        self.netlink
            .request(tc::add_fq(link.index, &link.name, wanted))
    }

    fn clsact(&mut self, link: &Link) -> Result<(), NetlinkError> {
        let mut all = self.facts.qdiscs.iter();
        if all.any(|q| q.index == link.index && q.kind == "clsact") {
            return Ok(());
        }
        self.netlink.request(tc::add_clsact(link.index, &link.name))
    }

    /// Attaches the program of this load again.
    fn filter(&mut self, link: &Link, hook: Hook) -> Result<(), NetlinkError> {
        let name = drift::program_at(link, hook);
        self.program(link, hook, Preference::First, name)
    }

    fn program(
        &mut self,
        link: &Link,
        hook: Hook,
        preference: Preference,
        name: &'static str,
    ) -> Result<(), NetlinkError> {
        let place = HookPlace::Interface {
            index: link.index,
            name: &link.name,
            hook,
        };
        self.attach(place, preference, name)
    }

    /// The ports of machines with their programs and routes. A machine that is gone needs a
    /// full reload.
    fn ports(&mut self) -> Result<(), NetlinkError> {
        let clsact: Vec<_> = (self.plan.machines())
            .filter_map(|(index, _)| self.facts.link(&machines::port_name(index)))
            .map(|port| tc::add_shared_clsact(port.index, &port.name))
            .collect();
        self.netlink.batch(clsact)?;
        for (hook, preference, name) in machines::PORT_PROGRAMS {
            self.attach(HookPlace::Ports(hook), preference, name)?;
        }
        // What is missing here is found by the next comparison.
        let _ = machines::start(self.plan, &mut self.netlink);
        Ok(())
    }

    fn program_id(&self, name: &str) -> Option<u32> {
        let mut ids = self.state.program_ids.iter();
        ids.find(|(n, _)| n == name).map(|(_, id)| *id)
    }

    /// Attaches the program of this load to a place, unless it is there.
    fn attach(
        &mut self,
        place: HookPlace<'_>,
        preference: Preference,
        name: &'static str,
    ) -> Result<(), NetlinkError> {
        let (Some(ifb), Some(id)) = (self.link(names::IFB), self.program_id(name)) else {
            return Ok(());
        };
        if self.facts.has_filter(place, Some(id)) {
            return Ok(());
        }
        // Without a filter only its pin keeps the program.
        let pinned = ProgramInfo::from_pin(self.state.pins.join(name)).ok();
        let pinned = pinned.filter(|program| program.id() == id);
        let program = pinned.or_else(|| loaded_programs().flatten().find(|p| p.id() == id));
        let Some(fd) = program.and_then(|program| program.fd().ok()) else {
            return Ok(());
        };
        if self.facts.has_filter_at(place, preference) {
            self.netlink.request(tc::delete_filter(place, preference))?;
        }
        let (request, _) = tc::add_program(place, preference, fd.as_fd(), name, ifb.index);
        self.netlink.request(request)
    }
}
