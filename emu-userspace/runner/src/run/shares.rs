//! Shares of the processors.
use emu_model::fairness::jain;
use serde::Serialize;

/// CPU time of the processes of one program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    pub program: String,
    /// Number of vnodes on which the program was started.
    pub vnodes: usize,
    /// CPU time of all vnodes together, in seconds.
    pub cpu_s: f64,
    /// Smallest CPU time of a vnode.
    pub least_s: f64,
    /// Median CPU time of the vnodes.
    pub median_s: f64,
    /// Largest CPU time of a vnode.
    pub most_s: f64,
    /// Jain's fairness index ([`jain`]) of the vnodes' CPU times. It is near 1 if all vnodes
    /// have the same work and enough time; a lower value means that they did different work,
    /// or that the host made some of them wait.
    pub jain_index: f64,
}

impl Share {
    /// From the CPU time of each vnode, in seconds.
    pub fn new(program: &str, mut cpu_s: Vec<f64>) -> Self {
        cpu_s.sort_unstable_by(f64::total_cmp);
        Self {
            program: program.to_owned(),
            vnodes: cpu_s.len(),
            cpu_s: cpu_s.iter().sum(),
            least_s: cpu_s.first().copied().unwrap_or(0.0),
            median_s: cpu_s.get(cpu_s.len() / 2).copied().unwrap_or(0.0),
            most_s: cpu_s.last().copied().unwrap_or(0.0),
            jain_index: jain(cpu_s.into_iter()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_order() {
        let share = Share::new("a", vec![3.0, 1.0, 2.0]);
        assert_eq!(
            (share.least_s, share.median_s, share.most_s),
            (1.0, 2.0, 3.0)
        );
        assert_eq!((share.vnodes, share.cpu_s), (3, 6.0));
        assert!((share.jain_index - 36.0 / 42.0).abs() < 1e-12);
        assert_eq!(Share::new("b", Vec::new()).jain_index, 1.0);
    }
}
