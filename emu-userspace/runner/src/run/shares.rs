//! Who got what share of the processors.
use emu_model::fairness::jain;
use serde::Serialize;

/// What the processes of one program got of the processors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Share {
    /// Name of the program.
    pub program: String,
    /// Vnodes on which it was started.
    pub vnodes: usize,
    /// Processor time of all of them together, in seconds.
    pub cpu_s: f64,
    /// Least of a vnode.
    pub least_s: f64,
    /// Median of the vnodes.
    pub median_s: f64,
    /// Most of a vnode.
    pub most_s: f64,
    /// [`jain`]'s index of their processor times. For programs that all have the same to
    /// do and time enough it is near 1; less tells that they did different things, or
    /// that the host let some of them wait.
    pub jain_index: f64,
}

impl Share {
    /// Of a program's vnodes, from the processor time of each in seconds.
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
