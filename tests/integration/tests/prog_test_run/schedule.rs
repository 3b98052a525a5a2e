//! Pipes that follow schedules, compared with the formulas on the host.
use emu_common::{
    Reason,
    layout::{
        Direction, NO_LIMIT_NS, NO_LIMIT_WORK, Pipe, Row, Schedule, pipe_flag, schedule_flag,
    },
    model::{
        rate::ns_per_byte_q20,
        schedule::{self, bytes_as_work, cumulate},
    },
    names::{PROG_EGRESS, PROG_IFB},
};
use emu_kernel::bpf::{Maps, Programs};
use integration::{
    netns::isolated,
    packet::{ipv4, monotonic_ns, run},
};

use super::{count, load, pipe};

const MS: u64 = 1_000_000;

/// A topology with a trace of this number of rows, for the size of the map.
fn load_rows(rows: usize, queue: &str) -> (Programs, Maps) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines: Vec<String> = (0..=rows).map(|i| format!("{i}ms,1mbit")).collect();
    std::fs::write(file.path(), format!("time,rate\n{}\n", lines.join("\n"))).unwrap();
    load(
        &format!(
            "
version: 1
groups:
  a: {{prefix: 10.1.0.0/16, nodes: 2, up: 1mbit, down: 1mbit, latency: 20ms, queue: {queue}}}
traces: [{{group: a, file: {}}}]
",
            file.path().display()
        ),
        false,
    )
}

/// Rows of 10 ms, with rates from 0.1 to 10 Mbit/s and an outage each fifth one.
fn rows(number: u64) -> (Vec<Row>, u64) {
    let mut rows: Vec<Row> = (0..number)
        .map(|i| Row {
            start_ns: i * 10 * MS,
            ns_per_byte_q20: match i % 5 {
                4 => 0,
                _ => ns_per_byte_q20(100_000 + i * 7_777_777 % 9_900_000),
            },
            latency_ns: (20 - i % 3) * MS,
            // 20, 19, 18, 20, …
            generation: (i - i / 3) as u32,
            ..Row::default()
        })
        .collect();
    let work = cumulate(&mut rows, number * 10 * MS).unwrap();
    (rows, work)
}

/// Lets a pipe follow rows from a time on.
fn start(maps: &mut Maps, index: usize, rows: &[Row], schedule: &Schedule) {
    for (place, row) in rows.iter().enumerate() {
        maps.rows.set(place, *row);
    }
    maps.schedules.start(index, schedule);
    let mut pipe = maps.pipes.get(index).unwrap();
    pipe.flags |= pipe_flag::SCHEDULED;
    maps.pipes.store_settings(index, &pipe);
}

#[test]
fn departures_of_a_schedule_are_those_of_the_host() {
    isolated(|| {
        for loops in [false, true] {
            for burst in [0, 3_000] {
                let (programs, mut maps) = load_rows(100, "5000 packets");
                let (rows, work) = rows(100);
                let schedule = Schedule {
                    start_ns: monotonic_ns() - 7 * MS,
                    period_ns: if loops { 1_000 * MS } else { 0 },
                    period_work: work,
                    limit_work: NO_LIMIT_WORK,
                    burst_work: bytes_as_work(burst),
                    rows: if loops { 100 } else { 99 },
                    flags: schedule_flag::RATES,
                    ..Schedule::default()
                };
                start(&mut maps, 0, &rows, &schedule);
                let frame = ipv4("10.1.0.1", "10.1.0.2", 1_000);
                let curve = (&rows[..], &schedule);
                let mut before: Pipe = pipe(&maps, 0, Direction::Up);
                for packet in 0..600 {
                    let earliest = monotonic_ns();
                    let outcome = run(&programs, PROG_EGRESS, &frame);
                    let latest = monotonic_ns();
                    let after = pipe(&maps, 0, Direction::Up);
                    let reserve = |now| {
                        let free = before.next_free_ns;
                        schedule::reserve(&curve, &schedule, now, free, 1_000, NO_LIMIT_NS)
                            .unwrap()
                            .reservation
                    };
                    let (least, most) = (reserve(earliest), reserve(latest));
                    assert!(
                        (least.next_free_ns..=most.next_free_ns).contains(&after.next_free_ns),
                        "packet {packet}: {least:?} {} {most:?}",
                        after.next_free_ns
                    );
                    let departure = outcome.due_ns - 20 * MS;
                    let to = least.departure_ns..=most.departure_ns;
                    assert!(
                        to.contains(&departure),
                        "packet {packet}: {to:?} {departure}"
                    );
                    before = after;
                }
                assert_eq!(before.packets, 600);
                // 600,000 bytes, more than a period's: the rows were crossed again and again.
                assert!(before.next_free_ns - schedule.start_ns > 1_000 * MS);
            }
        }
    });
}

#[test]
fn a_schedule_limits_its_queue_in_bytes_packets_and_time() {
    isolated(|| {
        // 8 ms at 1 Mbit/s, and at 100 kbit/s from the second row on.
        let mut rows = [1_000_000, 100_000].map(|rate| Row {
            ns_per_byte_q20: ns_per_byte_q20(rate),
            ..Row::default()
        });
        rows[1].start_ns = 40 * MS;
        cumulate(&mut rows, 80 * MS).unwrap();
        for (queue, limit_work, reason, accepted) in [
            ("7 packets", NO_LIMIT_WORK, Reason::QueuePackets, 7),
            ("9000B", bytes_as_work(9_000), Reason::QueueBytes, 9),
            // Five packets in 40 ms, then 80 ms each.
            ("150ms", NO_LIMIT_WORK, Reason::QueueBytes, 6),
        ] {
            let (programs, mut maps) = load_rows(2, queue);
            let schedule = Schedule {
                start_ns: monotonic_ns(),
                limit_work,
                rows: 2,
                flags: schedule_flag::RATES,
                ..Schedule::default()
            };
            start(&mut maps, 0, &rows, &schedule);
            let frame = ipv4("10.1.0.1", "10.1.0.2", 1_000);
            for _ in 0..20 {
                run(&programs, PROG_EGRESS, &frame);
            }
            let up = pipe(&maps, 0, Direction::Up);
            // One more if this process was held up for longer than a packet.
            let more = u64::from(monotonic_ns() - schedule.start_ns > 8 * MS);
            assert!(
                (accepted..=accepted + more).contains(&up.packets),
                "{queue}: {up:?}"
            );
            assert_eq!(count(&maps, reason), 20 - up.packets, "{queue}");
            assert_eq!(up.drops_packets + up.drops_bytes, 20 - up.packets);
            assert_eq!(up.bytes, up.packets * 1_000);
        }
    });
}

#[test]
fn latencies_follow_the_row_of_the_departure() {
    isolated(|| {
        let (programs, mut maps) = load_rows(100, "5000 packets");
        let (rows, _) = rows(90);
        let start_ns = monotonic_ns();
        let schedule = Schedule {
            start_ns,
            rows: 90,
            flags: schedule_flag::LATENCIES,
            ..Schedule::default()
        };
        start(&mut maps, 1, &rows, &schedule);
        let frame = ipv4("10.1.0.2", "10.1.0.1", 1_000);
        for _ in 0..100 {
            let outcome = run(&programs, PROG_IFB, &frame);
            // At the pipe's own rate.
            let departure_ns = pipe(&maps, 0, Direction::Down).next_free_ns;
            let row = ((departure_ns - start_ns) / (10 * MS)).min(89);
            assert_eq!(
                outcome.due_ns - departure_ns,
                (20 - row % 3) * MS,
                "row {row}"
            );
        }
        // Before the start the pipe's own latency and rate apply.
        let later = Schedule {
            start_ns: start_ns + 3_600_000 * MS,
            flags: schedule_flag::LATENCIES | schedule_flag::RATES,
            ..schedule
        };
        start(&mut maps, 1, &rows, &later);
        let before = pipe(&maps, 0, Direction::Down).next_free_ns;
        let outcome = run(&programs, PROG_IFB, &frame);
        assert_eq!(outcome.due_ns, before + 28 * MS);
    });
}
