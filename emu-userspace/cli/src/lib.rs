//! The command `emu`: arguments, tables, JSON, exit codes; and the agent, the service that
//! keeps a host at the state that a file asks for.
//!
//! The work itself is done in the crates below: what a file says in [`emu_model`], loading
//! and measuring in [`emu_kernel`], experiments in [`emu_runner`], and the measurements of
//! emu itself, with the feature `bench`, in `emu-bench`. This is the only crate that prints.
#![forbid(unsafe_code)]

mod agent;
mod commands;

pub use commands::main;
