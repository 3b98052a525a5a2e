//! What needs the machine's clock: measurements of processors, and the latencies once more
//! as users of a real kernel have them. All other end-to-end tests run in virtual time where
//! the VM has it; `cargo xtask test` tells these by the name of this module.
mod bench;
mod experiments;
mod latency;
mod limits;
