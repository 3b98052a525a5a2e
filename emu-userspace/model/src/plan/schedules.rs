//! The rows of all traces, as the kernel programs read them.
use std::{collections::HashMap, path::Path, path::PathBuf, rc::Rc, time::Duration};

use emu_common::{
    layout::{MAX_SCHEDULE_ROWS, Row, Schedule, schedule_flag},
    model::{rate, schedule},
};

use super::{courses::Course, nanoseconds};
use crate::{
    recording::{Recording, RecordingError},
    topology::Trace,
};

/// Most rows of all traces of a topology: 335 MB.
const MOST_ROWS: usize = 8 << 20;

/// What of a trace its rows depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    file: PathBuf,
    window: Duration,
    loops: bool,
}

/// The recordings of all traces; files that several traces name are read once.
#[derive(Debug, Default)]
pub struct Recordings {
    /// In the order of the traces.
    each: Vec<Rc<Recording>>,
    rows: Vec<Row>,
    /// In the order of the traces; without a start.
    schedules: Vec<Schedule>,
    /// In the order of the courses; without a start.
    courses: Vec<Schedule>,
}

impl Recordings {
    /// Reads the recordings of traces, and adds the courses of events.
    ///
    /// # Errors
    /// [`RecordingError`] of the first trace that cannot be used.
    pub fn read(traces: &[Trace], courses: &[Course]) -> Result<Self, RecordingError> {
        let mut all = Self::default();
        let mut files: HashMap<(&Path, Duration), Rc<Recording>> = HashMap::new();
        let mut known: HashMap<Key, Schedule> = HashMap::new();
        for trace in traces {
            let recording = match files.get(&(trace.file.as_path(), trace.window)) {
                Some(recording) => Rc::clone(recording),
                None => {
                    let read = Rc::new(Recording::read(&trace.file, trace.window)?);
                    files.insert((&trace.file, trace.window), Rc::clone(&read));
                    read
                }
            };
            let key = Key {
                file: trace.file.clone(),
                window: trace.window,
                loops: trace.loops,
            };
            let schedule = match known.get(&key) {
                Some(schedule) => *schedule,
                None => {
                    let schedule = all.add(&recording, trace.loops).map_err(|detail| {
                        RecordingError::Whole {
                            path: trace.file.clone(),
                            detail,
                        }
                    })?;
                    known.insert(key, schedule);
                    schedule
                }
            };
            all.schedules.push(schedule);
            all.each.push(recording);
        }
        for course in courses {
            // One that is too long for rows is left to the process that plays the events.
            let schedule = all.add(&course.recording, false).unwrap_or_default();
            all.courses.push(schedule);
        }
        Ok(all)
    }

    /// The recording of a trace, by its number.
    pub fn recording(&self, trace: usize) -> &Rc<Recording> {
        &self.each[trace]
    }

    /// The schedule of a trace, by its number: not started, without limit and burst. Its flags
    /// say what it has: rates, latencies, or neither.
    pub fn schedule(&self, trace: usize) -> Schedule {
        self.schedules[trace]
    }

    /// The schedule of a course, by its number, like [`Recordings::schedule`].
    pub fn course(&self, course: usize) -> Schedule {
        self.courses[course]
    }

    /// The rows of all schedules.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of one schedule.
    pub fn rows_of(&self, schedule: &Schedule) -> &[Row] {
        let first = schedule.first_row as usize;
        self.rows
            .get(first..first + schedule.rows as usize)
            .unwrap_or_default()
    }

    /// Adds the rows of a recording with rates or latencies.
    fn add(&mut self, recording: &Recording, loops: bool) -> Result<Schedule, String> {
        let mut schedule = Schedule {
            limit_work: emu_common::layout::NO_LIMIT_WORK,
            ..Schedule::default()
        };
        if recording.has_rates() {
            schedule.flags |= schedule_flag::RATES;
        }
        if recording.has_latencies() {
            schedule.flags |= schedule_flag::LATENCIES;
        }
        if schedule.flags == 0 {
            return Ok(schedule);
        }
        let (mut rows, decreases) = rows(recording, loops)?;
        let end_ns = nanoseconds(recording.end);
        let Some(work) = schedule::cumulate(&mut rows, end_ns) else {
            return Err(format!(
                "more than {} TiB can be transmitted in it; make it shorter, or its rates lower",
                schedule::MAX_PERIOD_WORK >> schedule::WORK_BITS >> 40
            ));
        };
        if schedule.flags & schedule_flag::RATES != 0 {
            let ends_in_outage = !loops && rows.last().is_some_and(|r| r.ns_per_byte_q20 == 0);
            if work == 0 || ends_in_outage {
                return Err(
                    "the trace ends with a rate of 0 for ever; give its last row a rate, \
                     or say `loop: true`"
                        .to_owned(),
                );
            }
        }
        if loops {
            schedule.period_ns = end_ns;
            schedule.period_work = work;
            schedule.period_generations = decreases;
        }
        if self.rows.len() + rows.len() > MOST_ROWS {
            return Err(format!(
                "the topology's traces have more than {MOST_ROWS} rows"
            ));
        }
        schedule.first_row = self.rows.len() as u32;
        schedule.rows = rows.len() as u32;
        self.rows.append(&mut rows);
        Ok(schedule)
    }
}

/// The rows of a recording, without their work, and the number of shorter latencies in a
/// repetition.
fn rows(recording: &Recording, loops: bool) -> Result<(Vec<Row>, u32), String> {
    let mut rows: Vec<Row> = Vec::with_capacity(recording.rows.len());
    let end_ns = nanoseconds(recording.end);
    for recorded in &recording.rows {
        let start_ns = nanoseconds(recorded.at);
        // In a repeated recording the last row only marks the end.
        if loops && start_ns >= end_ns {
            break;
        }
        let rate = recorded.change.rate.flatten().map_or(0, |rate| rate.0);
        let latency_ns = recorded.change.latency.map_or(0, nanoseconds);
        let generation = rows.last().map_or(0, |before| {
            before.generation + u32::from(latency_ns < before.latency_ns)
        });
        let row = Row {
            start_ns,
            ns_per_byte_q20: rate::ns_per_byte_q20(rate),
            latency_ns,
            generation,
            ..Row::default()
        };
        rows.push(row);
    }
    let starts = rows.iter().map(|row| row.start_ns).chain([end_ns]);
    let ends = starts.clone().skip(1);
    if starts
        .zip(ends)
        .any(|(a, b)| b.saturating_sub(a) >= schedule::MAX_ROW_NS)
    {
        return Err("the trace has the same settings for more than four hours".to_owned());
    }
    if rows.len() > MAX_SCHEDULE_ROWS as usize {
        return Err(format!(
            "{} rows, and a trace has {MAX_SCHEDULE_ROWS} at most",
            rows.len()
        ));
    }
    let (first, last) = (rows.first(), rows.last());
    let wraps = first
        .zip(last)
        .is_some_and(|(f, l)| f.latency_ns < l.latency_ns);
    let decreases = last.map_or(0, |row| row.generation) + u32::from(wraps);
    Ok((rows, decreases))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::topology::{EventTarget, Side};

    fn trace(file: &Path, loops: bool) -> Trace {
        Trace {
            file: file.to_owned(),
            target: EventTarget::Link((0, 0), false),
            side: Side::Both,
            at: Duration::ZERO,
            waits: false,
            loops,
            window: Duration::from_millis(100),
        }
    }

    fn read(text: &str, loops: bool) -> Result<(Vec<Row>, Schedule), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let all = Recordings::read(&[trace(file.path(), loops)], &[]).map_err(|e| e.to_string())?;
        Ok((all.rows().to_vec(), all.schedule(0)))
    }

    #[test]
    fn rows_have_the_work_before_them_and_the_shorter_latencies() {
        let text = "time,rate,latency\n0s,8mbit,9ms\n1s,0,5ms\n2s,16mbit,7ms\n3s,8kbit,8ms\n";
        let (rows, schedule) = read(text, true).unwrap();
        let bytes = |work: u64| work >> schedule::WORK_BITS;
        let columns: Vec<(u64, u64, u32)> = rows
            .iter()
            .map(|r| (r.start_ns / 1_000_000, bytes(r.work), r.generation))
            .collect();
        assert_eq!(
            columns,
            [(0, 0, 0), (1_000, 1_000_000, 1), (2_000, 1_000_000, 1)]
        );
        assert_eq!(schedule.period_ns, 3_000_000_000);
        assert_eq!(bytes(schedule.period_work), 3_000_000);
        // 9 to 5, and from 7 back to 9: one decrease a period.
        assert_eq!(schedule.period_generations, 1);
        let both = schedule_flag::RATES | schedule_flag::LATENCIES;
        assert_eq!((schedule.flags, schedule.rows), (both, 3));
        let (rows, schedule) = read(text, false).unwrap();
        assert_eq!((rows.len(), schedule.period_ns), (4, 0));
    }

    #[test]
    fn traces_of_one_file_share_their_rows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "time,rate\n0s,1mbit\n1s,2mbit\n").unwrap();
        let (once, again) = (trace(file.path(), false), trace(file.path(), true));
        let all = Recordings::read(&[once.clone(), again, once], &[]).unwrap();
        // Two rows, and one of the repeated trace.
        assert_eq!(all.rows().len(), 3);
        assert_eq!(all.schedule(0), all.schedule(2));
        assert_eq!(all.rows_of(&all.schedule(1)).len(), 1);
        assert!(Rc::ptr_eq(all.recording(0), all.recording(1)));
    }

    #[test]
    fn losses_alone_need_no_schedule() {
        let (rows, schedule) = read("time,loss\n0s,1%\n1s,2%\n", true).unwrap();
        assert_eq!((rows.len(), schedule.flags), (0, 0));
    }

    #[test]
    fn traces_without_an_end_of_their_outage_are_refused() {
        for (text, loops, word) in [
            ("time,rate\n0s,1mbit\n1s,0\n", false, "rate of 0 for ever"),
            ("time,rate\n0s,0\n1s,1mbit\n", true, "rate of 0 for ever"),
            ("1\n80000000\n", true, "more than four hours"),
            (
                "time,rate\n0s,100gbit\n3600s,1mbit\n",
                false,
                "more than 32 TiB",
            ),
        ] {
            let message = read(text, loops).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
        read("time,rate\n0s,1mbit\n1s,0\n2s,0\n", true).unwrap();
    }
}
