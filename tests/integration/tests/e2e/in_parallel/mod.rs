//! Tests that run in a second VM, on the second processor, while the others run in the first:
//! `cargo xtask test` selects these by the name of this module. Any test in virtual time can be
//! here; they are as many as both VMs need to end at about the same time.
mod hostile;
