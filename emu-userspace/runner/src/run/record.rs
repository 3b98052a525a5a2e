//! `processes.csv`: a row for each process that was started.
use std::{fs::File, io, net::IpAddr, os::unix::process::ExitStatusExt, time::Duration};

use emu_kernel::spawn::Ended;
use serde::Serialize;

use super::RunError;

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// It ended by itself.
    Exited,
    /// The time of its program was over.
    Stopped,
    /// Its session was over, with or without a next one.
    Left,
    RunOver,
    NotStarted,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub(super) struct ProcessRow<'a> {
    pub vnode: IpAddr,
    pub name: &'a str,
    pub program: &'a str,
    pub number: usize,
    /// Counts from 1.
    pub session: usize,
    pub pid: Option<i32>,
    pub planned_s: f64,
    pub start_s: f64,
    pub stop_s: f64,
    pub end: Cause,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Whether it needed SIGKILL after the grace period.
    pub killed: bool,
    pub cpu_s: f64,
    pub max_memory_bytes: u64,
}

pub(super) struct ProcessTable {
    table: csv::Writer<File>,
}

pub(super) fn csv_error(error: csv::Error) -> RunError {
    RunError::system("write the results")(io::Error::other(error))
}

impl ProcessTable {
    pub fn new(table: csv::Writer<File>) -> Self {
        Self { table }
    }

    pub fn add(&mut self, row: &ProcessRow<'_>) -> Result<(), RunError> {
        self.table.serialize(row).map_err(csv_error)
    }

    pub fn flush(&mut self) -> Result<(), RunError> {
        self.table
            .flush()
            .map_err(RunError::system("write the results"))
    }
}

/// Exit code, or signal.
pub(super) fn status(ended: Option<&Ended>) -> (Option<i32>, Option<i32>) {
    let status = ended.map(|e| e.status);
    (
        status.and_then(|s| s.code()),
        status.and_then(|s| s.signal()),
    )
}

pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}
