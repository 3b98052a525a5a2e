//! The content of emu's files, and the work of a host that follows from them.
//!
//! YAML → [`topology::Topology`] (checked) → [`plan::Plan`], the work of one host as pure
//! data; and [`experiment::Experiment`] → [`experiment::Schedule`], the starts and stops of
//! programs. [`host_selector`] determines which of a topology's hosts a machine is,
//! [`placement_report`] computes which vnodes each host carries and the capacity that its
//! link needs, [`fairness`] how equally a resource was shared.
//!
//! Nothing here queries the machine, touches the kernel, starts a program or prints. The only
//! side effect is reading files: the topology or the experiment, and the files that they
//! name. Facts about the machine, its environment or the speed of its interfaces are
//! arguments.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod experiment;
pub mod fairness;
pub mod host_selector;
pub mod input;
mod kind;
pub mod name;
pub mod placement_report;
pub mod plan;
pub mod recording;
pub mod topology;

pub use kind::ErrorKind;
