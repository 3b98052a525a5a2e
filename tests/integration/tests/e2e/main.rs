//! End to end on a kernel with `fq`: real sockets and real programs, each test in network
//! namespaces of its own. `cargo xtask test --e2e` runs the tests in the VM.
//!
//! Bounds are ratios, or shares of a netem measured in the same run; each bound states what
//! it allows for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "what a test measured")]

mod agent;
mod agent_limits;
mod bench;
mod byhand;
mod clock;
mod containers;
mod damaged;
mod drift;
mod events;
mod exec;
mod exec_languages;
mod exec_loopback;
mod exec_options;
mod exec_process;
mod exec_servers;
mod experiments;
mod fairness;
mod faults;
mod held_addresses;
mod hosts;
mod identity_matrix;
mod impair;
mod in_parallel;
mod ipv6;
mod kill;
mod latency;
mod lifecycle;
mod machines;
mod netem;
mod netns;
mod real_time;
mod reload;
mod run;
mod run_churn;
mod run_end;
mod run_results;
mod safety;
mod soak;
mod systemd;
mod tcp;
mod traces;
mod udp;
mod workloads;
