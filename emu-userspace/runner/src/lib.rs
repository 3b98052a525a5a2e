//! Running experiments: what a schedule says, carried out on one host or on several at a
//! time, and the results.
//!
//! [`run`] starts, watches and stops the programs of one host. Where an experiment needs
//! several hosts, they meet in a shared folder: [`rendezvous`]. [`results`] merges what
//! the hosts left into one folder with one report.
//!
//! When something happens is decided in [`emu_model::experiment`], how a program starts
//! inside a cgroup in [`emu_kernel::spawn`]: nothing here decides the one or has unsafe
//! code for the other. It prints nothing; an observer is told how far a run is.
#![forbid(unsafe_code)]

pub mod rendezvous;
pub mod results;
pub mod run;
