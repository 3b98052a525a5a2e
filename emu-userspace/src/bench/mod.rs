//! Measurements that compare us with doing without, with netem, and with the
//! formulas, in one run on one kernel. They work in scratch network namespaces,
//! never on the machine's interfaces.
pub mod identity;
pub mod model;
mod spread;
pub mod stats;

pub use spread::Spread;
