//! Files of both kinds, their times and their mistakes.
use super::*;

const WINDOW: Duration = Duration::from_millis(100);

fn rates(text: &str) -> Vec<(u64, u64)> {
    let (rows, _) = parse(text, WINDOW).unwrap();
    rows.iter()
        .map(|row| {
            (
                row.at.as_millis() as u64,
                row.change.rate.unwrap().unwrap().0,
            )
        })
        .collect()
}

#[test]
fn opportunities_become_rates_and_gaps_are_joined() {
    // Ten in the first 100 ms, none in the next 200, one then.
    let mut text = String::new();
    for ms in 1..=10 {
        text += &format!("{}\n", ms * 10);
    }
    text += "400\n";
    assert_eq!(rates(&text), [(0, 1_200_000), (100, 40_000)]);
    // The bits of all rows are those of all lines.
    let (_, end) = parse(&text, WINDOW).unwrap();
    let bits = 1_200_000.0 * 0.1 + 40_000.0 * 0.3;
    assert!((bits - 11.0 * 12_000.0f64).abs() < 1e-6);
    assert_eq!(end, Duration::from_millis(400));
}

#[test]
fn tables_have_units_and_mistakes_have_lines() {
    let text = "time, rate, latency, loss\n0s, 1mbit, 40ms, 0%\n1.5s, 2mbit, 50ms, 1%\n";
    let (rows, end) = parse(text, WINDOW).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(end, Duration::from_millis(1500));
    assert_eq!(rows[1].change.latency, Some(Duration::from_millis(50)));
    for (text, line, word) in [
        ("", 1, "empty"),
        ("time,speed\n", 1, "column 2"),
        ("time,rate\n0s,5\n", 2, "the rate: expected"),
        ("time,rate\n0s,5kbit\n0s,6kbit\n", 3, "not later"),
        ("time,rate\n1s,5kbit\n", 2, "first row"),
        ("time,rate\n0s,5kbit\n", 2, "two rows"),
        ("time,rate\n0s\n", 2, "1 values for 2"),
        ("5\nx\n", 2, "not a whole number"),
        ("5\n4\n", 2, "earlier"),
    ] {
        let (at, detail) = parse(text, WINDOW).unwrap_err();
        assert!(
            at == line && detail.contains(word),
            "{text:?}: {at}: {detail}"
        );
    }
}

#[test]
fn rows_follow_the_clock_once_or_in_rounds() {
    let text = "time,latency\n0s,1ms\n1s,2ms\n3s,3ms\n";
    let (rows, end) = parse(text, WINDOW).unwrap();
    let recording = Recording { rows, end };
    let row = |loops, now| recording.row(now, loops);
    let s = Duration::from_secs;
    assert_eq!(row(false, s(0)), (0, Some(s(1))));
    assert_eq!(row(false, s(2)), (1, Some(s(3))));
    assert_eq!(row(false, s(3)), (2, None));
    assert_eq!(row(true, s(2)), (1, Some(s(3))));
    assert_eq!(row(true, s(3)), (0, Some(s(4))));
    assert_eq!(row(true, s(10)), (1, Some(s(12))));
}

#[test]
fn a_rate_of_zero_is_an_outage_in_every_unit() {
    for zero in ["0", "0bit", "0 kbit", "0.0mbit", "0gbit"] {
        let (rows, _) = parse(&format!("time,rate\n0s,{zero}\n1s,1mbit\n"), WINDOW).unwrap();
        assert_eq!(rows[0].change.rate, Some(Some(Rate(0))), "{zero}");
    }
    for wrong in ["0ms", "zero", "", "-1mbit", "0.1bit", "0Mbps"] {
        parse(&format!("time,rate\n0s,{wrong}\n1s,1mbit\n"), WINDOW).unwrap_err();
    }
}
