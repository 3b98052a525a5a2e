//! The command `emu`: arguments, tables, JSON, exit codes; and the agent, the service that
//! converges a host to the state in a file.
//!
//! The work is done in other crates: reading files in [`emu_model`], loading and measuring in
//! [`emu_kernel`], experiments in [`emu_runner`], and the measurements of emu itself, with
//! the feature `bench`, in `emu-bench`. This is the only crate that depends on clap, axum and
//! prometheus-client.
#![forbid(unsafe_code)]

mod agent;
pub mod cni;
mod commands;

pub use commands::main;
