//! The formulas compared with a simulation that walks from row to row.
use proptest::prelude::*;

use super::*;
use crate::model::rate::ns_per_byte_q20;

/// A row of a test: its duration in nanoseconds and its rate in bit/s.
type Part = (u64, u64);

/// The rows of parts, and a schedule that starts at `start_ns`. A schedule that does not
/// repeat stays at the last part.
fn schedule(parts: &[Part], repeats: bool, start_ns: u64) -> (Vec<Row>, Schedule) {
    let (mut rows, mut at_ns) = (Vec::new(), 0);
    for (time_ns, rate) in parts {
        rows.push(Row {
            start_ns: at_ns,
            ns_per_byte_q20: ns_per_byte_q20(*rate),
            ..Row::default()
        });
        at_ns += time_ns;
    }
    let schedule = Schedule {
        start_ns,
        period_ns: if repeats { at_ns } else { 0 },
        period_work: cumulate(&mut rows, at_ns).unwrap(),
        limit_work: NO_LIMIT_WORK,
        rows: parts.len() as u32,
        flags: schedule_flag::RATES,
        ..Schedule::default()
    };
    (rows, schedule)
}

/// When a packet has left that is served from a time since the start on: a walk over the
/// parts, in floating point.
fn walk(parts: &[Part], repeats: bool, from_ns: u64, bytes: f64) -> f64 {
    let (mut left, mut at) = (bytes, from_ns as f64);
    let mut end = 0.0;
    for round in 0u64.. {
        for (index, (time_ns, rate)) in parts.iter().enumerate() {
            let is_last = !repeats && index + 1 == parts.len();
            end += if is_last { 1e18 } else { *time_ns as f64 };
            if end <= at {
                continue;
            }
            // The rate as the fixed point has it: to 10 ppm.
            let each = ns_per_byte_q20(*rate) as f64 / f64::from(1 << 20);
            let fits = if *rate == 0 { 0.0 } else { (end - at) / each };
            if fits >= left {
                return at + left * each;
            }
            left -= fits;
            at = end;
        }
        assert!(round < 1_000_000, "no service");
    }
    unreachable!()
}

fn departure(rows: &[Row], schedule: &Schedule, now: u64, free: u64, bytes: u32) -> u64 {
    let service = reserve(&(rows, schedule), schedule, now, free, bytes, NO_LIMIT_NS).unwrap();
    assert_eq!(
        service.reservation.next_free_ns,
        service.reservation.departure_ns
    );
    service.reservation.departure_ns
}

const MS: u64 = 1_000_000;

#[test]
fn a_packet_crosses_a_dip_at_the_rates_of_its_bits() {
    // 10 Mbit/s, from 2 s to 3 s 100 kbit/s.
    let parts = [
        (2_000 * MS, 10_000_000),
        (1_000 * MS, 100_000),
        (MS, 10_000_000),
    ];
    let (rows, schedule) = schedule(&parts, false, 5_000 * MS);
    let at = |ms: u64| (5_000 + ms) * MS;
    // 1,250 bytes are 1 ms, and 100 ms in the dip.
    assert_eq!(departure(&rows, &schedule, at(10), 0, 1_250), at(11));
    assert_eq!(departure(&rows, &schedule, at(2_100), 0, 1_250), at(2_200));
    // Half a packet in the dip, half after it.
    let half = departure(&rows, &schedule, at(2_950), 0, 1_250);
    assert_eq!(half, at(3_000) + MS / 2);
    // A queue of 100 packets at the end of the dip leaves in 100 ms.
    assert_eq!(
        departure(&rows, &schedule, at(2_999), at(3_099), 1_250),
        at(3_100)
    );
}

#[test]
fn nothing_leaves_in_an_outage() {
    let parts = [(10 * MS, 8_000_000), (90 * MS, 0)];
    let (rows, schedule) = schedule(&parts, true, MS);
    // 1,000 bytes a millisecond. A packet that ends with the service leaves then, and the
    // next one in the next round.
    assert_eq!(departure(&rows, &schedule, 10 * MS, 0, 1_000), 11 * MS);
    assert_eq!(
        departure(&rows, &schedule, 10 * MS, 0, 1_500),
        101 * MS + MS / 2
    );
    assert_eq!(departure(&rows, &schedule, 50 * MS, 0, 1_000), 102 * MS);
    // Ten rounds of 10,000 bytes; exactly all of a round, then one byte more.
    assert_eq!(departure(&rows, &schedule, MS, 0, 100_000), 911 * MS);
    assert_eq!(
        departure(&rows, &schedule, MS, 0, 100_001),
        1_001 * MS + 1_000
    );
}

#[test]
fn limits_count_what_is_served_until_then() {
    let parts = [(10 * MS, 8_000_000), (10 * MS, 800_000)];
    let (rows, mut schedule) = schedule(&parts, false, MS);
    schedule.limit_work = bytes_as_work(6_000);
    let full = |schedule: &Schedule, now, free, limit_ns| {
        reserve(&(&rows[..], schedule), schedule, now, free, 1_000, limit_ns)
            .unwrap()
            .is_full
    };
    // From 6 ms on 5,000 bytes until the rate falls, and 100 in each millisecond after.
    assert!(!full(&schedule, 6 * MS, 11 * MS, NO_LIMIT_NS));
    assert!(full(&schedule, 6 * MS, 12 * MS, NO_LIMIT_NS));
    schedule.limit_work = NO_LIMIT_WORK;
    assert!(!full(&schedule, 6 * MS, 11 * MS, 15 * MS));
    assert!(full(&schedule, 6 * MS, 11 * MS, 15 * MS - 1));
}

#[test]
fn a_burst_leaves_early_by_its_bytes() {
    let parts = [(10 * MS, 8_000_000), (10 * MS, 800_000)];
    let (rows, mut schedule) = schedule(&parts, false, MS);
    schedule.burst_work = bytes_as_work(1_500);
    let reserve = |now, free| {
        reserve(
            &(&rows[..], &schedule),
            &schedule,
            now,
            free,
            1_000,
            NO_LIMIT_NS,
        )
        .unwrap()
        .reservation
    };
    assert_eq!(reserve(2 * MS, 0).departure_ns, 2 * MS);
    assert_eq!(reserve(2 * MS, 0).next_free_ns, 3 * MS);
    // 9,000 bytes wait and 1,000 come: all but 1,500 have gone at 8.5 ms.
    assert_eq!(reserve(2 * MS, 11 * MS).departure_ns, 10 * MS + MS / 2);
    assert_eq!(reserve(2 * MS, 11 * MS).next_free_ns, 21 * MS);
}

#[test]
fn the_last_row_and_long_times_stay_exact() {
    let parts = [(MS, 1_000_000), (MS, 8_000_000)];
    let (rows, mut schedule) = schedule(&parts, false, MS);
    schedule.limit_work = bytes_as_work(3_000);
    let year = 31_536_000_000 * MS;
    let service = |free| {
        reserve(
            &(&rows[..], &schedule),
            &schedule,
            year,
            free,
            1_000,
            NO_LIMIT_NS,
        )
        .unwrap()
    };
    assert_eq!(
        service(year + 2 * MS).reservation.next_free_ns,
        year + 3 * MS
    );
    assert!(!service(year + 2 * MS).is_full);
    assert!(service(year + 3 * MS).is_full);
    // A start before the clock's zero.
    schedule.start_ns = 0u64.wrapping_sub(500_000);
    assert_eq!(departure_of(&rows, &schedule), 1_000_000 + 500_000);
    // Not yet begun, and never started.
    schedule.start_ns = 10 * MS;
    assert!(!has_begun(&schedule, 10 * MS - 1) && has_begun(&schedule, 10 * MS));
    schedule.start_ns = 0;
    assert!(!has_begun(&schedule, year));
}

/// Half of the row of 1 Mbit/s has passed at time 0; 62.5 bytes remain of it.
fn departure_of(rows: &[Row], schedule: &Schedule) -> u64 {
    let bytes = 62 + 1_000;
    let departure = departure(rows, schedule, 0, 0, bytes);
    // Half a byte of the first row is left for the rest.
    departure + 500
}

#[test]
fn latencies_and_their_decreases_follow_the_departure() {
    let row = |start_ns, latency_ns, generation| Row {
        start_ns,
        latency_ns,
        generation,
        ..Row::default()
    };
    let rows = [row(0, 10, 0), row(100, 30, 0), row(200, 20, 1)];
    let mut schedule = Schedule {
        start_ns: 1_000,
        period_ns: 300,
        rows: 3,
        flags: schedule_flag::LATENCIES,
        period_generations: 2,
        ..Schedule::default()
    };
    let at = |schedule: &Schedule, ns| latency(&&rows[..], schedule, ns);
    assert_eq!(at(&schedule, 999), None);
    assert_eq!(at(&schedule, 1_000), Some((10, 0)));
    assert_eq!(at(&schedule, 1_199), Some((30, 0)));
    assert_eq!(at(&schedule, 1_200), Some((20, 1)));
    assert_eq!(at(&schedule, 1_300), Some((10, 2)));
    assert_eq!(at(&schedule, 1_850), Some((20, 5)));
    schedule.period_ns = 0;
    assert_eq!(at(&schedule, 99_999), Some((20, 1)));
    schedule.flags = 0;
    assert_eq!(at(&schedule, 99_999), None);
}

#[test]
fn the_longest_schedule_is_searched_to_its_ends() {
    let value = |index: u32| u64::from(index) * 10;
    for count in [1, 2, 3, 1_000, MAX_SCHEDULE_ROWS - 1, MAX_SCHEDULE_ROWS] {
        for index in [0, 1, count / 3, count - 1] {
            let index = index.min(count - 1);
            assert_eq!(search(count, value(index), value), index);
            assert_eq!(search(count, value(index) + 9, value), index);
        }
    }
}

/// Rates from 1 kbit/s to 100 Gbit/s, one in five an outage.
fn parts() -> impl Strategy<Value = Vec<Part>> {
    let rate = prop_oneof![
        1 => Just(0u64),
        4 => (3.0f64..11.0).prop_map(|exponent| 10f64.powf(exponent) as u64),
    ];
    let time = (3.0f64..10.0).prop_map(|exponent| 10f64.powf(exponent) as u64);
    proptest::collection::vec((time, rate), 1..60).prop_map(|mut parts| {
        // Some service at the end.
        parts.push((10 * MS, 33_600));
        parts
    })
}

fn rows_ns(parts: &[Part]) -> u64 {
    parts.iter().map(|(time_ns, _)| time_ns).sum()
}

proptest! {
    #[test]
    fn products_are_those_of_128_bits(each in any::<u64>(), work in any::<u64>(), shift in 0u32..64) {
        let (each, work) = (each >> (shift / 2), work >> shift);
        let exact = (u128::from(each) * u128::from(work)) >> 36;
        prop_assert_eq!(work_ns(each, work), u64::try_from(exact).unwrap_or(u64::MAX));
        let slowest = ns_per_byte_q20(rate::MIN_RATE_BITS_PER_SEC);
        let (each, time_ns) = (each % slowest + 1, work % MAX_ROW_NS);
        let exact = (u128::from(time_ns) << 36) / u128::from(each);
        prop_assert_eq!(u128::from(work_in(each, time_ns)), exact.min(u128::from(FULL)));
    }

    /// Each departure of a random load is that of the walk, to 1 us.
    #[test]
    fn departures_are_those_of_a_walk(
        parts in parts(),
        repeats in any::<bool>(),
        start_ns in 1u64..1_000_000_000_000,
        arrivals in proptest::collection::vec((0u64..50_000_000, 0u32..9_000), 1..40),
    ) {
        let (rows, schedule) = schedule(&parts, repeats, start_ns);
        let (mut now, mut free, mut last) = (start_ns, 0u64, 0u64);
        for (gap, bytes) in arrivals {
            now += gap;
            let got = departure(&rows, &schedule, now, free, bytes);
            let from = now.max(free) - start_ns;
            let exact = walk(&parts, repeats, from, f64::from(bytes)) + start_ns as f64;
            // A period is rounded to a unit of work, at 1 kbit/s 122 ns.
            let rounds = (exact - now as f64) / rows_ns(&parts) as f64;
            prop_assert!((got as f64 - exact).abs() < 1_000.0 + 122.0 * rounds, "{got} {exact}");
            prop_assert!(got >= now && got >= last);
            (free, last) = (got, got);
        }
    }

    /// A byte limit keeps what a walk would find waiting, to the bytes of 2 ns at
    /// 100 Gbit/s.
    #[test]
    fn byte_limits_are_those_of_a_walk(
        parts in parts(),
        repeats in any::<bool>(),
        limit in 1_000u64..60_000,
        arrivals in proptest::collection::vec((0u64..5_000_000, 40u32..1_500), 1..60),
    ) {
        let (rows, mut schedule) = schedule(&parts, repeats, 1);
        schedule.limit_work = bytes_as_work(limit);
        let (mut now, mut free) = (1, 0u64);
        for (gap, bytes) in arrivals {
            now += gap;
            let service = reserve(&(&rows[..], &schedule), &schedule, now, free, bytes, NO_LIMIT_NS).unwrap();
            // The queue is full if the limit less this packet is served only after `free`
            // began to be busy: at the limit both times are the same.
            let most = limit.saturating_sub(u64::from(bytes)) as f64;
            let from = now - 1;
            let waits = free > now;
            let early = walk(&parts, repeats, from, (most - 26.0).max(0.0)) + 1.0;
            let late = walk(&parts, repeats, from, most + 26.0) + 1.0;
            if service.is_full {
                prop_assert!(u64::from(bytes) > limit || (waits && free as f64 + 2.0 >= early),
                "{now} {free} {early} {bytes}");
            } else {
                prop_assert!(!waits || free as f64 <= late + 2.0, "{free} {late}");
                free = service.reservation.next_free_ns;
            }
        }
    }
}
