//! Everything that reads or changes the kernel. Nothing here decides what a
//! topology means; that is the plan's business.
#![expect(
    unsafe_code,
    reason = "socket options, ioctls and memory-mapped maps have no safe interface"
)]

pub mod addr;
pub mod apply;
pub mod bpf;
pub mod cgroup;
pub mod cohort;
pub mod controllers;
pub mod error;
pub mod fq_stats;
pub mod identity;
pub mod link;
pub mod machine;
pub mod mapped;
pub mod missing;
pub mod netlink;
pub mod offload;
pub mod probe;
pub mod reload;
pub mod spawn;
pub mod state;
pub mod tc;
pub mod undo;
pub mod user;
