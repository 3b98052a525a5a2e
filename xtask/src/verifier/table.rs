//! The table of processed instructions, and its comparison with a measurement.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Accepted growth of a count: compilers and stable updates of a kernel change it by a few
/// per cent.
const GROWTH_PERCENT: u64 = 10;

/// Instructions by program.
pub type Counts = BTreeMap<String, u32>;

/// The counts of one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Measured {
    /// `uname -r`.
    pub release: String,
    /// Instructions that the verifier processed; empty before Linux 5.16.
    pub programs: Counts,
}

impl Measured {
    /// The first two numbers of the release: `6.1`.
    pub fn family(&self) -> String {
        let numbers: Vec<&str> = self.release.splitn(3, '.').take(2).collect();
        numbers.join(".")
    }
}

/// Counts by kernel family, as in the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Table(BTreeMap<String, Counts>);

/// The comparison of one count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramRow {
    /// The program.
    pub program: String,
    /// The count in the table.
    pub table: Option<u32>,
    /// The measured count; `None` if the program is gone.
    pub now: Option<u32>,
    /// The problem, if any.
    pub wrong: Option<String>,
}

impl Table {
    /// Compares a measurement with the table; `None` if the table does not have the kernel.
    pub fn judge(&self, measured: &Measured) -> Option<Vec<ProgramRow>> {
        let known = self.0.get(&measured.family())?;
        let programs = known.keys().chain(measured.programs.keys());
        let programs: std::collections::BTreeSet<&String> = programs.collect();
        let rows = programs.into_iter().map(|program| {
            let (table, now) = (known.get(program), measured.programs.get(program));
            ProgramRow {
                program: program.clone(),
                table: table.copied(),
                now: now.copied(),
                wrong: wrong(table.copied(), now.copied()),
            }
        });
        Some(rows.collect())
    }

    /// Adds counts of kernels; of two kernels of a family, the larger count.
    pub fn update(&mut self, all: &[Measured]) {
        for measured in all {
            self.0.remove(&measured.family());
        }
        for measured in all.iter().filter(|m| !m.programs.is_empty()) {
            let family = self.0.entry(measured.family()).or_default();
            for (program, count) in &measured.programs {
                let entry = family.entry(program.clone()).or_default();
                *entry = (*entry).max(*count);
            }
        }
    }
}

fn wrong(table: Option<u32>, now: Option<u32>) -> Option<String> {
    match (table, now) {
        (Some(table), Some(now)) => {
            let (table, now) = (u64::from(table), u64::from(now));
            let limit = table * (100 + GROWTH_PERCENT) / 100;
            let grown = || now * 100 / table.max(1) - 100;
            (now > limit).then(|| format!("grew by {} %", grown()))
        }
        (None, _) => Some("not in the table".to_owned()),
        (Some(_), None) => Some("no longer in the object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Measured, Table};

    fn measured(release: &str, programs: &[(&str, u32)]) -> Measured {
        Measured {
            release: release.to_owned(),
            programs: programs
                .iter()
                .map(|(n, c)| ((*n).to_owned(), *c))
                .collect(),
        }
    }

    fn wrong(table: &Table, now: &Measured) -> Vec<Option<String>> {
        let rows = table.judge(now).unwrap();
        rows.into_iter().map(|row| row.wrong).collect()
    }

    #[test]
    fn a_tenth_more_is_allowed() {
        let mut table = Table::default();
        table.update(&[measured("6.1.176", &[("a", 1000), ("b", 0)])]);
        let now = measured("6.1.0-56-amd64", &[("a", 1100), ("b", 0)]);
        assert_eq!(wrong(&table, &now), [None, None]);
        let now = measured("6.1.176", &[("a", 1101), ("b", 0)]);
        assert_eq!(wrong(&table, &now)[0].as_deref(), Some("grew by 10 %"));
    }

    #[test]
    fn programs_that_come_and_go_are_seen() {
        let mut table = Table::default();
        table.update(&[measured("6.12.9", &[("old", 5)])]);
        let now = measured("6.12.9", &[("new", 5)]);
        let words = wrong(&table, &now);
        assert_eq!(words[0].as_deref(), Some("not in the table"));
        assert_eq!(words[1].as_deref(), Some("no longer in the object"));
        assert_eq!(table.judge(&measured("6.1.9", &[("new", 5)])), None);
    }

    #[test]
    fn an_update_keeps_other_kernels_and_the_larger_of_two() {
        let mut table = Table::default();
        table.update(&[
            measured("6.1.1", &[("a", 9)]),
            measured("6.12.1", &[("a", 7)]),
        ]);
        table.update(&[
            measured("6.1.1", &[("a", 3)]),
            measured("6.1.2", &[("a", 4)]),
        ]);
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(text, r#"{"6.1":{"a":4},"6.12":{"a":7}}"#);
    }
}
