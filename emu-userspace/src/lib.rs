//! emu, a kernel-side network emulator: thousands of unmodified programs on one
//! machine, each behind its own access line.
//!
//! The flow of data reads top to bottom: YAML → [`emu_model::topology::Topology`] (checked)
//! → [`emu_model::plan::Plan`] (what this host must do, pure data) → [`session::Session`],
//! which carries it out through [`kernel`], or changes what is loaded. [`live`]
//! changes single settings by hand and by the clock; [`verify`] measures the result.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let file = Path::new("topologies/p2plab.yaml");
//! let topology = emu_model::topology::load(file)?;
//! let plan = emu_model::plan::Plan::new(&topology, None)?;
//! let text = std::fs::read_to_string(file)?;
//! let session = emu::session::Session::open()?;
//! session.load(&plan, file, &text)?;
//! // … run programs that bind to the vnodes' addresses …
//! session.unload(emu::kernel::undo::Processes::Refuse)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod agent;
pub mod bench;
pub mod counters;
pub mod fleet;
pub mod kernel;
pub mod live;
pub mod results;
pub mod run;
pub mod session;
pub mod verify;
