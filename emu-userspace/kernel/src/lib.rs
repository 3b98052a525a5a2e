//! Reads and changes the kernel's state: netlink, tc, addresses, cgroups, the BPF object, and
//! the journal from which all changes are undone.
//!
//! Start with [`session::Session`], which applies a [`Plan`](emu_model::plan::Plan) or
//! changes what is loaded in place. [`live`] changes single settings on command and on a
//! schedule; [`verify`] measures the result with real packets; [`health`] tells whether the
//! host, rather than the emulated network, was the bottleneck.
//!
//! Nothing here interprets a topology; the plan is the result of that. It prints nothing and
//! knows nothing about experiments. All unsafe code of user space is in this crate, in
//! modules with an `#[expect]`.
//!
//! ```no_run
//! use std::path::Path;
//! let source = emu_model::topology::Source::read(Path::new("topologies/p2plab.yaml"))?;
//! let plan = emu_model::plan::Plan::new(&source.topology, None)?;
//! let session = emu_kernel::session::Session::open()?;
//! session.load(&plan, &source.absolute(), &source.text)?;
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
pub mod descriptors;
pub mod drift;
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
pub mod machines;
pub mod netlink;
pub mod netns;
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
mod settled;
pub mod sockets;
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
mod threads;
pub mod undo;
#[expect(
    unsafe_code,
    reason = "the call that sets the groups of one thread has no safe interface"
)]
pub mod user;
pub mod verify;
