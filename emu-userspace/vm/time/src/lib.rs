//! Emulated time for User-Mode Linux as Debian ships it: a library that is preloaded into
//! its kernel's process.
//!
//! That process asks the C library for the time, for its one timer, for idle waits and for
//! random bytes. Here the answers come from a clock that goes on by what the guest does,
//! not by what the host's clock says: each entry of a program into the kernel costs a
//! fixed time, computing is free (or costs its processor time), and an idle guest is at
//! once at its next timer. So an emulated network is exact however busy the machine is,
//! and a quiet experiment takes seconds.
//!
//! `clock` is the arithmetic, `state` lets it go on, `interpose` has the functions that
//! the kernel calls, `spin` looks after programs that compute without a call, `children`
//! holds back the host's signals of dead processes, `controller` keeps several VMs in one
//! time. It must not allocate after its start, nor print: it runs inside another kernel's
//! signal handlers and small stacks.
mod children;
mod clock;
mod controller;
mod cpu;
mod file_times;
mod host;
pub mod interpose;
mod paced;
mod random;
mod settings;
mod spin;
mod state;
mod stubs;
mod trace;
