//! Everything that reads or changes the kernel: netlink, tc, addresses, cgroups, the BPF
//! object, and the journal that takes all of it back.
//!
//! The front door is [`session::Session`], which carries a [`Plan`](emu_model::plan::Plan)
//! out or changes what is loaded. [`live`] changes single settings by hand and by the
//! clock; [`verify`] measures the result with real packets; [`health`] says whether the
//! host, and not the emulated network, was the limit.
//!
//! Nothing here decides what a topology means: that is the plan's business. It prints
//! nothing and knows nothing of experiments. All unsafe code of user space is in this
//! crate, in the modules that say so.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let file = Path::new("topologies/p2plab.yaml");
//! let topology = emu_model::topology::load(file)?;
//! let plan = emu_model::plan::Plan::new(&topology, None)?;
//! let text = std::fs::read_to_string(file)?;
//! let session = emu_kernel::session::Session::open()?;
//! session.load(&plan, file, &text)?;
//! // … run programs that bind to the vnodes' addresses …
//! session.unload(emu_kernel::undo::Processes::Refuse)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod addr;
mod apply;
pub mod beneath;
pub mod bpf;
#[expect(
    unsafe_code,
    reason = "the calls that mount a file system without a path have no safe interface"
)]
pub mod cgroup;
pub mod changes;
pub mod clock;
mod controllers;
pub mod counters;
pub mod error;
pub mod fq_stats;
pub mod health;
#[expect(
    unsafe_code,
    reason = "the bpf call that attaches without a link has no safe interface"
)]
pub mod identity;
pub mod link;
pub mod live;
pub mod machine;
pub mod missing;
pub mod netlink;
#[expect(unsafe_code, reason = "ioctl has no safe interface")]
mod offload;
pub mod probe;
mod reload;
mod repair;
#[expect(
    unsafe_code,
    reason = "a signal goes to a number that the kernel gave, which `kill` takes as it is"
)]
pub mod run_cgroup;
pub mod session;
#[expect(
    unsafe_code,
    reason = "clone3 and what the child does before it becomes the program have no safe interface"
)]
pub mod spawn;
pub mod stale;
#[expect(
    unsafe_code,
    reason = "the socket option for the cookie of a namespace has no safe interface"
)]
pub mod state;
mod tc;
pub mod undo;
#[expect(
    unsafe_code,
    reason = "the call that sets the groups of one thread has no safe interface"
)]
pub mod user;
pub mod verify;
