//! Faults at every step of every command that changes the kernel: a system call fails, the
//! kernel refuses a request, or the command is killed. Then the next command must repair it.
mod scenario;
mod trace;

use std::fmt;

pub use scenario::{SCENARIOS, Scenario};
pub use trace::{Fault, Traced, run};

/// A kind of fault, whose number is chosen later.
pub type FaultKind = fn(u64) -> Fault;
/// The kinds, with their names.
pub const KINDS: [(&str, FaultKind); 3] = [
    ("failed calls", Fault::Call),
    ("refused requests", Fault::Request),
    ("kills", Fault::Kill),
];

/// Results of the faults of one kind in one scenario.
#[derive(Debug)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Name of the kind.
    pub kind: &'static str,
    /// Number of places for a fault.
    pub places: u64,
    /// Number of faults.
    pub faults: u64,
    /// Number of faults after which the command succeeded all the same.
    pub tolerated: u64,
    /// What did not go as promised, with the fault.
    pub findings: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} |",
            self.scenario,
            self.kind,
            self.places,
            self.faults,
            self.tolerated,
            self.findings.len()
        )
    }
}

/// Header of a table of outcomes.
pub const HEADER: &str = "| command | fault | places | faults | tolerated | findings |\n\
                          |---|---|---|---|---|---|";

/// The numbers of `faults` of `places`, each in the middle of its share; `turn` moves them, so
/// that turns 0, 1, 2 and so on cover all places.
pub fn spread(places: u64, faults: u64, turn: u64) -> Vec<u64> {
    let faults = faults.min(places);
    let mut numbers: Vec<u64> = (0..faults)
        .map(|i| ((2 * i + 1) * places / (2 * faults) + turn) % places + 1)
        .collect();
    numbers.dedup();
    numbers
}

/// Injects `faults` faults of a kind into a scenario, in the calling thread's network
/// namespace, which must be a scratch one. Calls `seen` after each.
///
/// # Panics
/// If the scenario fails without a fault.
pub fn walk(
    scenario: &Scenario,
    (name, kind): (&'static str, FaultKind),
    (faults, turn): (u64, u64),
    mut seen: impl FnMut(&str),
) -> Outcome {
    let lab = scenario::Lab::new(scenario);
    let whole = lab.attempt(Fault::None);
    assert!(whole.findings.is_empty(), "{:?}", whole.findings);
    let places = match kind(1) {
        Fault::Request(_) => whole.traced.requests,
        _ => whole.traced.calls,
    };
    let mut outcome = Outcome {
        scenario: scenario.name,
        kind: name,
        places,
        faults: 0,
        tolerated: 0,
        findings: Vec::new(),
    };
    for number in spread(places, faults, turn) {
        let attempt = lab.attempt(kind(number));
        // Threads and times make the number of calls vary a little.
        let Some(hit) = &attempt.traced.hit else {
            continue;
        };
        outcome.faults += 1;
        outcome.tolerated += u64::from(attempt.traced.code == Some(0));
        let first = attempt.traced.text.lines().next().unwrap_or_default();
        seen(&format!("{}, {hit}: {first}", scenario.name));
        for finding in &attempt.findings {
            seen(&format!("FINDING: {}, {hit}: {finding}", scenario.name));
        }
        let named = |finding: &String| format!("{}, {hit}: {finding}", scenario.name);
        outcome.findings.extend(attempt.findings.iter().map(named));
        if attempt.left_something {
            // What is left would be seen again and again.
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn turns_cover_all_places() {
        assert_eq!(spread(10, 3, 0), [2, 6, 9]);
        assert_eq!(spread(10, 3, 4), [6, 10, 3]);
        assert_eq!(spread(640, 1, 0), [321]);
        assert_eq!(spread(2, 5, 0), [1, 2]);
        assert_eq!(spread(0, 5, 0), Vec::<u64>::new());
        let mut all: Vec<u64> = (0..4).flat_map(|turn| spread(10, 3, turn)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, (1..=10).collect::<Vec<_>>());
    }
}
