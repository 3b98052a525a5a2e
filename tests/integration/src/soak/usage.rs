//! What emu holds of the machine at one moment.
use std::{fs, path::Path, thread, time::Duration};

use aya::{maps::loaded_maps, programs::loaded_programs};

use crate::command::run;

/// Use of the machine. Nothing else may run while it is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    rows: Vec<(&'static str, u64)>,
}

/// Rows that may vary: their name, a share of the earlier value in per cent, and an absolute
/// amount. The kernel frees pages and caches of slabs late, and a heap keeps what it had at its
/// largest.
const VARYING: [(&str, u64, u64); 5] = [
    ("memory of the kernel, KB", 5, 2_048),
    ("memory of the agent, KB", 5, 1_024),
    // Times, slots and names have more or fewer digits.
    ("state, bytes", 0, 128),
    // Files that programs of the machine itself have open.
    ("open files of the machine", 5, 32),
    // fq forgets flows when it has two for each bucket of its table (net/sched/sch_fq.c).
    ("flows of fq on lo", 0, 2 * 1_024),
];

/// Time in which the kernel frees what nobody has open (RCU, workqueues).
const SETTLES: Duration = Duration::from_secs(2);

impl Usage {
    /// Reads it; `agent` is the identifier of the agent's process.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn read(agent: u32) -> Self {
        thread::sleep(SETTLES);
        let agent = Path::new("/proc").join(agent.to_string());
        let status = fs::read_to_string(agent.join("status")).unwrap();
        let memory = fs::read_to_string("/proc/meminfo").unwrap();
        let kernel = ["SUnreclaim", "KernelStack", "VmallocUsed", "Percpu"];
        let open = fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
        let qdisc = run("tc -s qdisc show dev lo");
        let rows = vec![
            (
                "memory of the kernel, KB",
                kernel.iter().map(|name| number_after(&memory, name)).sum(),
            ),
            ("memory of the agent, KB", number_after(&status, "VmRSS")),
            ("descriptors of the agent", entries(&agent.join("fd"))),
            ("threads of the agent", number_after(&status, "Threads")),
            ("open files of the machine", number_after(&open, "")),
            ("BPF maps", loaded_maps().count() as u64),
            ("BPF programs", loaded_programs().count() as u64),
            ("pins", tree(Path::new("/sys/fs/bpf"))),
            ("files of state", tree(Path::new("/run/emu"))),
            ("state, bytes", bytes(Path::new("/run/emu"))),
            ("cgroups", cgroups()),
            ("network namespaces", entries(Path::new("/run/netns"))),
            (
                "addresses of lo",
                run("ip -o addr show lo").lines().count() as u64,
            ),
            ("flows of fq on lo", number_after(&qdisc, "flows")),
        ];
        Self { rows }
    }

    /// Names and values.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.rows.iter().copied()
    }

    /// What is more in a later one than may be.
    pub fn grown_to(&self, later: &Self) -> Vec<String> {
        let grown = self.rows.iter().zip(&later.rows);
        grown
            .filter(|((name, before), (_, after))| {
                let varies = VARYING.iter().find(|(row, ..)| row == name);
                let more = varies.map_or(0, |(_, percent, most)| before * percent / 100 + most);
                *after > before + more
            })
            .map(|((name, before), (_, after))| format!("{name} grew from {before} to {after}"))
            .collect()
    }
}

/// The first number behind a name.
fn number_after(text: &str, word: &str) -> u64 {
    let found = text.split_once(word).map_or("", |(_, rest)| rest);
    let digits = found.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0)
}

/// Number of entries of a folder; 0 if there is none.
fn entries(folder: &Path) -> u64 {
    fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
}

/// Number of files and folders below a folder.
fn tree(folder: &Path) -> u64 {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + tree(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Bytes of the files below a folder.
fn bytes(folder: &Path) -> u64 {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Number of cgroups.
fn cgroups() -> u64 {
    fn below(folder: &Path) -> u64 {
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = found.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| 1 + below(&entry.path())).sum()
    }
    below(Path::new("/sys/fs/cgroup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kernel: u64, maps: u64) -> Usage {
        Usage {
            rows: vec![("memory of the kernel, KB", kernel), ("BPF maps", maps)],
        }
    }

    #[test]
    fn growth_is_found_and_what_varies_may_vary() {
        assert_eq!(
            of(100_000, 11).grown_to(&of(107_048, 11)),
            Vec::<String>::new()
        );
        assert_eq!(
            of(100_000, 11).grown_to(&of(90_000, 9)),
            Vec::<String>::new()
        );
        assert_eq!(
            of(100_000, 11).grown_to(&of(107_049, 12)),
            [
                "memory of the kernel, KB grew from 100000 to 107049",
                "BPF maps grew from 11 to 12"
            ]
        );
    }

    #[test]
    fn numbers_are_found_behind_their_word() {
        assert_eq!(number_after("VmRSS:\t   123 kB\n", "VmRSS"), 123);
        assert_eq!(number_after("  flows 12 (inactive 3)", "flows"), 12);
        assert_eq!(number_after("640\t0\t9", ""), 640);
        assert_eq!(number_after("none", "flows"), 0);
    }
}
