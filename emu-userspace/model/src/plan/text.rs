//! The text of a plan, for `--dry-run`.
use std::fmt;

use emu_common::names::IFB;

use super::{Addressing, Plan};

impl fmt::Display for Plan {
    /// What a load would do, as steps that a user of `ip` and `tc` knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("this host");
        writeln!(f, "{} on {host}: {} vnodes", self.name, self.vnodes.len())?;
        for group in self.groups.iter().filter(|g| g.local_vnodes > 0) {
            writeln!(f, "  group {}: {} vnodes", group.name, group.local_vnodes)?;
        }
        let fq = &self.fq;
        writeln!(
            f,
            "  device {IFB}, mtu {}; on it and on {}: fq limit {} flow_limit {} buckets {} \
             orphan_mask {} horizon {}us",
            self.mtu_bytes,
            self.interfaces.join(", "),
            fq.limit_packets,
            fq.flow_limit_packets,
            fq.buckets,
            fq.orphan_mask,
            fq.horizon_us
        )?;
        for interface in &self.interfaces {
            writeln!(
                f,
                "  {interface}: mtu {}, gso_max_segs 1, segmentation offloads off, clsact, filters emu_egress and \
                 emu_ingress",
                self.mtu_bytes
            )?;
        }
        let how = match self.addressing {
            Addressing::Alias => "aliases on lo",
            Addressing::AnyIp => "local routes for",
        };
        for (first, last) in &self.address_ranges {
            writeln!(f, "  {how} {first} to {last}")?;
        }
        let machines = self.machines().count();
        if machines > 0 {
            writeln!(
                f,
                "  {machines} network namespaces, each with eth0 at a port of this one"
            )?;
        }
        for routes in &self.routes {
            for prefix in &routes.prefixes {
                let (gateway, interface) = (routes.gateway, &routes.interface);
                writeln!(f, "  route {prefix} via {gateway} dev {interface}")?;
            }
        }
        Ok(())
    }
}
