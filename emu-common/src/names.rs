//! Names of the programs, maps and pins. The kernel keeps 15 bytes of a name.

/// TC egress program of every interface that carries vnode traffic.
pub const PROG_EGRESS: &str = "emu_egress";
/// TC ingress classifier; its match is redirected to the ifb device.
pub const PROG_INGRESS: &str = "emu_ingress";
/// TC egress program of the ifb device.
pub const PROG_IFB: &str = "emu_ifb";

/// Hash: address key to [`crate::layout::VnodeRef`].
pub const MAP_VNODES: &str = "EMU_VNODES";
/// Longest-prefix trie: address to group index.
pub const MAP_GROUPS: &str = "EMU_GROUPS";
/// Array: [`crate::layout::PairLink`] of source and destination leaf group.
pub const MAP_PAIRS: &str = "EMU_PAIRS";
/// Array: [`crate::layout::Pipe`], two for each vnode.
pub const MAP_PIPES: &str = "EMU_PIPES";
/// Array: departure times of the last packets of each pipe.
pub const MAP_RING: &str = "EMU_RING";
/// Array: [`crate::layout::Stage`], one for each pipe or link with impairments.
pub const MAP_STAGES: &str = "EMU_STAGES";
/// Array: quantiles of the jitter distributions; see
/// [`crate::model::jitter::table_slot`].
pub const MAP_TABLES: &str = "EMU_TABLES";
/// Least-recently-used hash: [`crate::layout::Opening`] to when it was made.
pub const MAP_OPENINGS: &str = "EMU_OPENINGS";
/// Least-recently-used hash: fq flow of packets with jitter to the latest due time.
pub const MAP_LATEST: &str = "EMU_LATEST";
/// Per-CPU array: one counter for each [`crate::Reason`].
pub const MAP_REASONS: &str = "EMU_REASONS";

/// All maps, in the order in which they are pinned.
pub const MAPS: [&str; 10] = [
    MAP_VNODES,
    MAP_GROUPS,
    MAP_PAIRS,
    MAP_PIPES,
    MAP_RING,
    MAP_STAGES,
    MAP_TABLES,
    MAP_OPENINGS,
    MAP_LATEST,
    MAP_REASONS,
];
/// All programs.
pub const PROGS: [&str; 3] = [PROG_EGRESS, PROG_INGRESS, PROG_IFB];

/// Read-only global of the object: 0 makes the egress program treat every
/// packet as already free of its socket. Only unit tests of the bytecode set it.
pub const GLOBAL_ORPHAN: &str = "EMU_ORPHAN";

/// Read-only global of the object: which of [`crate::layout::feature`] the
/// topology uses. The verifier removes the code of all others.
pub const GLOBAL_FEATURES: &str = "EMU_FEATURES";

/// Name of the device that carries arriving packets to their down pipe.
pub const IFB: &str = "emu-ifb0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        for name in MAPS.iter().chain(&PROGS).chain(&[IFB]) {
            assert!(name.len() <= 15, "{name} is longer than 15 bytes");
        }
        for name in MAPS.iter().chain(&PROGS) {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.'),
                "{name} has a character that BPF object names do not allow"
            );
        }
    }
}
