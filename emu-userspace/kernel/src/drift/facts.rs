//! The kernel's objects that a load consists of, read once for all steps.
use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::tc::TcHandle;

use crate::{
    addr::{self, Route},
    link::{self, Link},
    machines,
    netlink::{Netlink, NetlinkError},
    tc::{self, Filter, Hook, HookPlace, Preference, Qdisc},
};

/// The kernel's objects, read once for all steps.
#[derive(Default)]
pub(crate) struct Facts {
    pub(super) links: Vec<Link>,
    pub(crate) qdiscs: Vec<Qdisc>,
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(super) routes: Vec<Route>,
    /// Filters with the index of their interface; `None`: those that the ports of machines share.
    pub(super) filters: Vec<(Option<u32>, Hook, Filter)>,
}

impl Facts {
    pub(crate) fn read(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let links = link::links(netlink)?;
        let qdiscs = tc::qdiscs(netlink)?;
        let mut filters = Vec::new();
        for link in &links {
            // The ports of machines share their filters.
            if link.group == machines::PORT_GROUP {
                continue;
            }
            // Without a clsact qdisc the list of filters is an error.
            if !qdiscs
                .iter()
                .any(|q| q.index == link.index && q.kind == "clsact")
            {
                continue;
            }
            for hook in [Hook::Ingress, Hook::Egress] {
                let (index, name) = (link.index, link.name.as_str());
                let place = HookPlace::Interface { index, name, hook };
                let found = tc::filters(netlink, place)?;
                filters.extend(found.into_iter().map(|f| (Some(index), hook, f)));
            }
        }
        if links.iter().any(|link| link.group == machines::PORT_GROUP) {
            for hook in [Hook::Ingress, Hook::Egress] {
                // Without a port that has the filters, the list is an error.
                let found = tc::filters(netlink, HookPlace::Ports(hook)).unwrap_or_default();
                filters.extend(found.into_iter().map(|f| (None, hook, f)));
            }
        }
        Ok(Self {
            addresses: (addr::addresses(netlink)?.into_iter())
                .map(|a| a.net.addr())
                .collect(),
            routes: addr::routes(netlink)?,
            links,
            qdiscs,
            filters,
        })
    }

    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(crate) fn fq(&self, link: &Link) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|q| {
            q.index == link.index
                && q.parent == TcHandle::ROOT
                && q.handle.major == tc::FQ_HANDLE_MAJOR
        })
    }

    /// Whether a filter of emu's has this program; any program if it is not known, as in the
    /// state of an older version.
    pub(crate) fn has_filter(&self, place: HookPlace<'_>, program: Option<u32>) -> bool {
        let mut all = self.ours(place);
        all.any(|f| program.is_none() || f.program_id == program)
    }

    /// Whether a filter of emu's is there, whatever its program.
    pub(crate) fn has_filter_at(&self, place: HookPlace<'_>, preference: Preference) -> bool {
        self.ours(place).any(|f| f.preference == preference)
    }

    fn ours(&self, place: HookPlace<'_>) -> impl Iterator<Item = &Filter> {
        let (index, hook) = match place {
            HookPlace::Interface { index, hook, .. } => (Some(index), hook),
            HookPlace::Ports(hook) => (None, hook),
        };
        let there = self.filters.iter();
        let there = there.filter(move |(i, h, f)| (*i, *h) == (index, hook) && f.is_ours);
        there.map(|(_, _, f)| f)
    }
}
