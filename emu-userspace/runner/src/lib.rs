//! Runs experiments on one host or on several at a time, and collects their results.
//!
//! [`run`] starts, watches and stops the programs of one host. The hosts of an experiment
//! that needs several meet in a shared folder: [`rendezvous`]. [`results`] merges the results
//! of the hosts into one folder with one report.
//!
//! [`emu_model::experiment`] decides when something happens, and [`emu_kernel::spawn`] starts
//! a program inside a cgroup: this crate decides no times and has no unsafe code. It prints
//! nothing; it reports progress to an observer.
#![forbid(unsafe_code)]

pub mod rendezvous;
pub mod results;
pub mod run;
