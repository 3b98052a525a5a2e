//! Measurements that compare us with doing without, in one run on one kernel.
//! They work in scratch network namespaces, never on the machine's interfaces.
pub mod identity;
mod spread;

pub use spread::Spread;
