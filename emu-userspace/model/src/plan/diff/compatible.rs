//! Whether a plan can replace the loaded one in place at all.
use super::{Loaded, Plan, ReloadReason, full_reload};
use crate::recording::Recording;

/// Checks that programs, interfaces and groups can stay.
pub(super) fn compatible(loaded: &Loaded<'_>, new: &Plan) -> Result<(), ReloadReason> {
    let old = loaded.plan;
    if old.host != new.host {
        return full_reload("this machine is another of the topology's hosts");
    }
    if old.interfaces != new.interfaces {
        return full_reload("the interfaces changed");
    }
    if old.mtu_bytes != new.mtu_bytes {
        return full_reload("the MTU changed");
    }
    let has_ipv6 = |plan: &Plan| plan.vnodes.iter().any(|v| v.address.is_ipv6());
    if old.addressing != new.addressing || has_ipv6(old) != has_ipv6(new) {
        return full_reload("the addressing changed");
    }
    if !old.machines().eq(new.machines()) {
        return full_reload("the machines changed");
    }
    // Running programs would keep the loopback that they have.
    if old.loopback != new.loopback {
        return full_reload("the loopback of vnodes changed");
    }
    if old.routes != new.routes {
        return full_reload("the routes to other hosts changed");
    }
    if old.host_latency_ns != new.host_latency_ns {
        return full_reload("the latency between the hosts changed");
    }
    if old.fq.orphan_mask != new.fq.orphan_mask {
        return full_reload("fq's orphan_mask changed");
    }
    let groups =
        |plan: &Plan| -> Vec<String> { plan.groups.iter().map(|g| g.name.clone()).collect() };
    if groups(old) != groups(new) || old.group_prefixes != new.group_prefixes {
        return full_reload("the groups changed");
    }
    if old.distributions != new.distributions {
        return full_reload("the jitter distributions changed");
    }
    if old.traces != new.traces {
        return full_reload("the traces changed");
    }
    let rates = |plan: &Plan| -> Vec<Recording> {
        plan.courses.iter().map(|c| c.recording.clone()).collect()
    };
    if rates(old) != rates(new) {
        return full_reload("rates of events changed");
    }
    if new.features() & !loaded.features != 0 {
        return full_reload("the programs were loaded without a feature that it needs");
    }
    if new.corrupts() && !loaded.corrupts {
        return full_reload("corrupted packets need checksum offloads off");
    }
    Ok(())
}
