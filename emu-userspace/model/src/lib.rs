//! What the files of emu say, and what a host must do for them.
//!
//! YAML → [`topology::Topology`] (checked) → [`plan::Plan`], the work of one host as pure
//! data; and [`experiment::Experiment`] → [`experiment::Schedule`], the starts and stops of
//! programs. [`mod@slice`] says which of a topology's hosts a machine is, [`folding`] what each
//! host carries and what its link needs for that, [`fairness`] how equally a resource was
//! shared.
//!
//! Nothing here asks the machine, touches the kernel, starts a program or prints. The only
//! side effect is reading files: the topology or the experiment, and those that they name.
//! What is to be known of the machine, its environment or the speed of its interfaces, is
//! handed in.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod experiment;
pub mod fairness;
pub mod folding;
pub mod input;
pub mod name;
pub mod plan;
pub mod slice;
pub mod topology;
