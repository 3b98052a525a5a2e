//! Tests that need the machine's clock: measurements of CPUs, and the latency tests again
//! as users of a real kernel see them. All other end-to-end tests run in virtual time where
//! the VM has it; `cargo xtask test` selects these by the name of this module.
mod bench;
mod experiments;
mod latency;
mod limits;
