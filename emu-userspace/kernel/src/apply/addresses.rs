//! The vnodes' addresses: checks for conflicts with the machine's own, aliases, routes.
use std::{fs, path::Path};

use emu_model::plan::{self, Addressing};

use super::Loader;
use crate::{addr, error::ApplyError, link, state::Undo};

impl Loader<'_> {
    /// Checks that no group contains an address of the machine.
    pub(super) fn check_addresses(&mut self) -> Result<(), ApplyError> {
        let lo = self.link("lo")?.index;
        let links = link::links(&mut self.netlink)?;
        for existing in addr::addresses(&mut self.netlink)? {
            // Aliases on lo belong to an earlier load, or are vnodes that the user made.
            if existing.index == lo {
                continue;
            }
            let address = existing.net.addr();
            let hit = self
                .plan
                .group_prefixes
                .iter()
                .find(|(prefix, _)| prefix.contains(&address));
            if let Some((prefix, group)) = hit {
                return Err(ApplyError::AddressInUse {
                    address: existing.net.to_string(),
                    interface: links
                        .iter()
                        .find(|l| l.index == existing.index)
                        .map_or_else(String::new, |l| l.name.clone()),
                    group: self.plan.groups[*group].name.clone(),
                    prefix: prefix.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Adds aliases or local routes of local vnodes, and routes to the others.
    pub(super) fn add_addresses(&mut self) -> Result<(), ApplyError> {
        let lo = self.link("lo")?;
        match self.plan.addressing {
            Addressing::Alias => {
                let keep: Vec<_> = addr::addresses(&mut self.netlink)?
                    .into_iter()
                    .filter(|a| a.index == lo.index)
                    .map(|a| a.net.addr())
                    .collect();
                self.record(Undo::Aliases {
                    interface: lo.name.clone(),
                    runs: self.plan.address_ranges.clone(),
                    keep,
                })?;
                let requests = self
                    .plan
                    .address_ranges
                    .iter()
                    .flat_map(|run| plan::addresses(*run))
                    .map(|address| addr::add_alias(lo.index, &lo.name, address))
                    .collect();
                self.netlink.batch(requests)?;
            }
            Addressing::AnyIp => {
                if self.plan.vnodes.iter().any(|v| v.address.is_ipv6()) {
                    self.allow_v6_bind()?;
                }
                let prefixes = plan::covering_prefixes(&self.plan.address_ranges);
                self.record(Undo::LocalRoutes {
                    prefixes: prefixes.clone(),
                })?;
                let requests = prefixes
                    .into_iter()
                    .map(|prefix| addr::add_local_route(lo.index, prefix))
                    .collect();
                self.netlink.batch(requests)?;
            }
        }
        for routes in &self.plan.routes {
            let link = self.link(&routes.interface)?;
            self.record(Undo::Routes {
                interface: link.name.clone(),
                routes: routes
                    .prefixes
                    .iter()
                    .map(|p| (*p, routes.gateway))
                    .collect(),
            })?;
            let requests = routes
                .prefixes
                .iter()
                .map(|prefix| addr::add_route(link.index, *prefix, routes.gateway))
                .collect();
            self.netlink.batch(requests)?;
        }
        Ok(())
    }

    /// Lets programs bind to IPv6 addresses that only a route makes local: IPv4 consults the
    /// routing table, IPv6 the list of addresses.
    fn allow_v6_bind(&mut self) -> Result<(), ApplyError> {
        self.set_sysctl("/proc/sys/net/ipv6/ip_nonlocal_bind")
    }

    /// Sets a setting of the kernel to 1.
    pub(super) fn set_sysctl(&mut self, path: &str) -> Result<(), ApplyError> {
        let path = Path::new(path);
        let error = |source| ApplyError::Sysctl {
            path: path.to_owned(),
            source,
        };
        let before = fs::read_to_string(path).map_err(error)?;
        self.record(Undo::Sysctl {
            path: path.to_owned(),
            before: before.trim().to_owned(),
        })?;
        fs::write(path, "1").map_err(error)
    }
}
