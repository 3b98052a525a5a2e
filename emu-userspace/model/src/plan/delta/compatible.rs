//! Whether a plan can take the place of another at all.
use super::{Anew, Loaded, Plan, anew};

/// Whether programs, interfaces and groups can stay.
pub(super) fn compatible(loaded: &Loaded<'_>, new: &Plan) -> Result<(), Anew> {
    let old = loaded.plan;
    if old.host != new.host {
        return anew("this machine is another of the topology's hosts");
    }
    if old.interfaces != new.interfaces {
        return anew("the interfaces changed");
    }
    if old.mtu_bytes != new.mtu_bytes {
        return anew("the MTU changed");
    }
    let has_ipv6 = |plan: &Plan| plan.vnodes.iter().any(|v| v.address.is_ipv6());
    if old.addressing != new.addressing || has_ipv6(old) != has_ipv6(new) {
        return anew("the addressing changed");
    }
    if old.routes != new.routes {
        return anew("the routes to other hosts changed");
    }
    if old.host_latency_ns != new.host_latency_ns {
        return anew("the latency between the hosts changed");
    }
    if old.fq.orphan_mask != new.fq.orphan_mask {
        return anew("fq's orphan_mask changed");
    }
    let groups =
        |plan: &Plan| -> Vec<String> { plan.groups.iter().map(|g| g.name.clone()).collect() };
    if groups(old) != groups(new) || old.group_prefixes != new.group_prefixes {
        return anew("the groups changed");
    }
    if old.distributions != new.distributions {
        return anew("the jitter distributions changed");
    }
    if new.features() & !loaded.features != 0 {
        return anew("the programs were loaded without a feature that it needs");
    }
    if new.corrupts() && !loaded.corrupts {
        return anew("corrupted packets need checksum offloads off");
    }
    Ok(())
}
