//! Traces that the kernel programs follow, under traffic.
use std::{
    fmt::Write,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use emu_common::{
    layout::NO_LIMIT_NS,
    model::{random::mix, schedule},
};
use emu_kernel::{bpf::Maps, session::Loaded};
use integration::{
    clock::{ENTRIES_MS, bound_ms},
    command::{TopologyFile, emu, emu_command, emu_json, run},
    netns::{isolated, two_hosts},
    packet::monotonic_ns,
    udp::{self, Arrival},
};

/// Rows of 10 ms, with rates from 1 to 20 Mbit/s and an outage each tenth one.
fn fast_rows(rows: u64) -> String {
    let mut text = String::from("time, rate\n");
    for row in 0..=rows {
        let kbit = match row % 10 {
            3 => 0,
            _ => 1_000 + mix(row) % 19_000,
        };
        writeln!(text, "{}ms, {kbit}kbit", row * 10).unwrap();
    }
    text
}

fn maps() -> Maps {
    Loaded::find().unwrap().maps().unwrap()
}

/// `CLOCK_REALTIME` less `CLOCK_MONOTONIC`.
fn boot() -> Duration {
    udp::now() - Duration::from_nanos(monotonic_ns())
}

/// Losses, the time from `end` until what waited then has arrived, and from the first of these
/// packets to the last, in milliseconds.
fn dip(sent: u32, arrivals: &[Arrival], end: Duration) -> (u32, f64, f64) {
    let waited: Vec<f64> = arrivals
        .iter()
        .filter(|a| a.sent < end && a.arrived > end)
        .map(|a| (a.arrived.as_secs_f64() - end.as_secs_f64()) * 1e3)
        .collect();
    let (first, last) = (waited[0], waited[waited.len() - 1]);
    (sent - arrivals.len() as u32, last, last - first)
}

/// Time between two packets of a dip, and the time of all.
const GAP: Duration = Duration::from_nanos(8_333_333);
const SENDING: Duration = Duration::from_millis(3_500);

/// Measures what a pipe of 10 Mbit/s does that has 100 kbit/s from 1 s to 2 s.
fn our_dip(topology: &str, pipe: impl FnOnce() -> u32 + Send + 'static) -> (u32, f64, f64) {
    let topology = topology.to_owned();
    isolated(move || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dip.csv");
        std::fs::write(
            &path,
            "time,rate\n0s,10mbit\n1s,100kbit\n2s,10mbit\n3s,10mbit\n",
        )
        .unwrap();
        TopologyFile::new(&topology.replace("DIP", &path.display().to_string())).load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.2.0.1"));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        let clock = thread::spawn(|| emu("start"));
        let sent = udp::blast(&from, "10.2.0.1", 1_000, GAP, SENDING);
        let start_ns = maps().schedules.get(pipe() as usize).unwrap().start_ns;
        let end = boot() + Duration::from_nanos(start_ns) + Duration::from_secs(2);
        clock.join().unwrap();
        dip(sent, &receiver.join().unwrap(), end)
    })
}

/// The same for TBF, whose rate is changed by hand.
fn dip_of_tbf() -> (u32, f64, f64) {
    isolated(|| {
        let [a, b] = two_hosts("tbf");
        let tbf = |verb: &str, rate: &str| {
            // 50 packets of 1042 bytes, with their Ethernet headers.
            let limit = 50 * 1_042;
            run(&format!(
                "tc -n {} qdisc {verb} dev eth0 root tbf rate {rate} burst 1600 limit {limit}",
                a.name()
            ));
        };
        tbf("add", "10mbit");
        let from = a.enter(|| udp::socket("192.0.2.1"));
        let to = b.enter(|| udp::socket("192.0.2.2"));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        let sender = thread::spawn(move || udp::blast(&from, "192.0.2.2", 1_000, GAP, SENDING));
        thread::sleep(Duration::from_secs(1));
        tbf("change", "100kbit");
        thread::sleep(Duration::from_secs(1));
        tbf("change", "10mbit");
        let end = udp::now();
        dip(sender.join().unwrap(), &receiver.join().unwrap(), end)
    })
}

/// 10 Mbit/s, for a second 100 kbit/s: 1000-byte datagrams 120 times a second. What waits
/// after the dip leaves at the rate after it, as from a real queue; whatever announces the
/// rates beforehand, and whatever pipe has them.
#[test]
fn traces_and_events_end_a_dip_for_what_waits_as_tbf_does() {
    const GROUPS: &str = "version: 1\ngroups:\n  a: {prefix: 10.1.0.0/24, nodes: 1, up: 10mbit}\n  \
                          b: {prefix: 10.2.0.0/24, nodes: 1}\n";
    let events = |target: &str, rate: &str| {
        format!(
            "events:\n  - {{at: 1s, set: {{{target}, {rate}: 100kbit}}}}\n  \
             - {{at: 2s, set: {{{target}, {rate}: 10mbit}}}}\n  \
             - {{at: 3s, set: {{{target}, {rate}: 10mbit}}}}\n"
        )
    };
    let capacity = "latencies: [{between: [a, b], rate: 10mbit}]\n";
    let ways = [
        (
            "a trace",
            "traces: [{vnode: 10.1.0.1, up: DIP}]\n".to_owned(),
        ),
        ("events of a group", events("group: a", "up")),
        ("events of a vnode", events("vnode: 10.1.0.1", "up")),
        (
            "events of a capacity",
            format!("{capacity}{}", events("between: [a, b]", "rate")),
        ),
    ];
    let theirs = dip_of_tbf();
    for (what, rest) in ways {
        let is_capacity = what.ends_with("capacity");
        let pipe = move || match is_capacity {
            true => {
                let maps = maps();
                let pipes = (0..maps.pairs.len()).filter_map(|pair| maps.pairs.get(pair));
                pipes.map(|link| link.pipe).find(|p| *p != 0).unwrap()
            }
            false => 0,
        };
        // The line is not the bottleneck where the capacity is.
        let groups = match is_capacity {
            true => GROUPS.replace("10mbit", "100mbit"),
            false => GROUPS.to_owned(),
        };
        let ours = our_dip(&format!("{groups}{rest}"), pipe);
        println!("{what}: {ours:?}, TBF: {theirs:?}");
        // 120 come in the dip, 12 leave, 50 wait.
        assert!(ours.0.abs_diff(58) <= 2, "{what}: {ours:?}");
        // 50 packets of 1028 bytes at 10 Mbit/s are 41.1 ms.
        assert!((37.0..45.3).contains(&ours.1), "{what}: {ours:?}");
        assert!(
            (f64::from(ours.0) / f64::from(theirs.0) - 1.0).abs() < 0.1,
            "{what}: {ours:?} {theirs:?}"
        );
        // TBF goes on when the next packet comes, or its timer for the slow rate expires, so
        // what waits begins to leave later there.
        assert!(
            (ours.2 / theirs.2 - 1.0).abs() < 0.1,
            "{what}: {ours:?} {theirs:?}"
        );
    }
}

/// A rate that is set by hand counts until the next event, and the events after it count
/// again.
#[test]
fn traces_events_continue_after_a_rate_by_hand() {
    isolated(|| {
        TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: 10mbit}}\nevents:\n  \
             - {at: 200ms, set: {group: a, up: 5mbit}}\n  \
             - {at: 600ms, set: {group: a, up: 2mbit}}\n  \
             - {at: 900ms, ramp: {group: a, up: 1mbit}, over: 100ms}\n",
        )
        .load();
        let rate = |vnode: &str| {
            let status = emu_json(&format!("status {vnode}"));
            status["up"]["rate_bits_per_sec"].as_f64().unwrap() / 1e6
        };
        let both = || [rate("10.1.0.1"), rate("10.1.0.2")].map(|r| (r * 100.0).round() / 100.0);
        let clock = thread::spawn(|| emu("start"));
        let begin = udp::now();
        let at =
            |ms: u64| thread::sleep((begin + Duration::from_millis(ms)).saturating_sub(udp::now()));
        at(400);
        assert_eq!(both(), [5.0, 5.0]);
        emu("set 10.1.0.2 up=7mbit");
        assert_eq!(both(), [5.0, 7.0]);
        at(800);
        assert_eq!(both(), [2.0, 2.0]);
        clock.join().unwrap();
        assert_eq!(both(), [1.0, 1.0]);
    });
}

/// Every packet arrives when the formula says, across rows of 10 ms and outages, and twice
/// around.
#[test]
fn traces_of_10_ms_rows_are_followed_exactly() {
    isolated(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fast.csv");
        std::fs::write(&path, fast_rows(100)).unwrap();
        TopologyFile::new(&format!(
            "
version: 1
groups:
  a: {{prefix: 10.1.0.0/24, nodes: 2, latency: 7ms, up: {{rate: 1mbit, queue: 5000 packets}}}}
traces: [{{vnode: 10.1.0.1, up: {}, loop: true}}]
",
            path.display()
        ))
        .load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let child = emu_command("start").stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(500));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        let gap = Duration::from_micros(1_300);
        let sent = udp::blast(&from, "10.1.0.2", 972, gap, Duration::from_millis(2_000));
        let arrivals = receiver.join().unwrap();
        let maps = maps();
        let schedule = maps.schedules.get(0).unwrap();
        let rows = maps.rows.copy();
        let boot_ns = boot().as_nanos() as u64;
        stop(child);
        assert_eq!(arrivals.len(), sent as usize);
        let curve = (&rows[..schedule.rows as usize], &schedule);
        let (mut free, mut worst) = (0, 0.0f64);
        for arrival in &arrivals {
            let now = arrival.sent.as_nanos() as u64 - boot_ns;
            let served = schedule::reserve(&curve, &schedule, now, free, 1_000, NO_LIMIT_NS);
            free = served.unwrap().reservation.next_free_ns;
            // Both latencies.
            let due = free + 14_000_000;
            let got = arrival.arrived.as_nanos() as u64 - boot_ns;
            worst = worst.max((got as f64 - due as f64).abs() / 1e6);
        }
        println!("{sent} packets, the worst {worst:.4} ms off");
        assert!(worst < bound_ms(0.1 + ENTRIES_MS, 20.0), "{worst} ms");
    });
}

/// Sends the signal of Ctrl-C, and waits.
fn stop(mut child: std::process::Child) {
    let process = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Processor time of a process so far, in clock ticks of 10 ms.
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// 5,000 pipes share 10,000 rows; while they play, user space does nothing.
#[test]
fn traces_of_thousands_of_pipes_cost_user_space_nothing() {
    isolated(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fast.csv");
        std::fs::write(&path, fast_rows(10_000)).unwrap();
        let file = TopologyFile::new(&format!(
            "
version: 1
addressing: anyip
groups:
  a: {{prefix: 10.1.0.0/16, nodes: 2500, up: 1mbit, down: 1mbit}}
traces: [{{group: a, file: {}, loop: true}}]
",
            path.display()
        ));
        let start = Instant::now();
        file.load();
        let loaded = start.elapsed();
        assert_eq!(maps().rows.len(), 10_000);
        let child = emu_command("start").stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_secs(2));
        let begun = ticks(child.id());
        let all = maps().schedules.copy();
        let first = all[0];
        assert!(first.start_ns != 0 && all[..5_000].iter().all(|s| *s == first));
        thread::sleep(Duration::from_secs(10));
        let played = ticks(child.id()) - begun;
        println!("loaded in {loaded:?}, begun in {begun}0 ms, then {played}0 ms in 10 s");
        stop(child);
        assert!(loaded < Duration::from_secs(5), "{loaded:?}");
        assert!(begun < 100, "{begun}0 ms");
        // Polls for Ctrl-C alone, 20 a second.
        assert!(played <= 5, "{played}0 ms");
    });
}

/// A setting by hand ends the trace of that pipe alone; stopping the clock leaves the
/// settings of the moment; another recording needs a full reload.
#[test]
fn traces_end_where_something_is_set() {
    isolated(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.csv");
        std::fs::write(&path, "time,rate\n0s,2mbit\n1s,4mbit\n60s,8mbit\n").unwrap();
        let file = TopologyFile::new(&format!(
            "
version: 1
groups:
  a: {{prefix: 10.1.0.0/24, nodes: 3, up: 1mbit, down: 1mbit}}
traces: [{{group: a, file: {}}}]
",
            path.display()
        ));
        file.load();
        let rates = |vnode: &str| {
            let status = emu_json(&format!("status {vnode}"));
            ["up", "down"].map(|way| status[way]["rate_bits_per_sec"].as_u64().unwrap())
        };
        assert_eq!(rates("10.1.0.1"), [1_000_000, 1_000_000]);
        let child = emu_command("start").stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(rates("10.1.0.1"), [2_000_000, 2_000_000]);
        thread::sleep(Duration::from_millis(1_000));
        assert_eq!(rates("10.1.0.1"), [4_000_000, 4_000_000]);
        emu("set 10.1.0.2 up=3mbit");
        assert_eq!(rates("10.1.0.2"), [3_000_000, 4_000_000]);
        stop(child);
        assert_eq!(rates("10.1.0.1"), [4_000_000, 4_000_000]);
        assert_eq!(rates("10.1.0.2"), [3_000_000, 4_000_000]);
        // A load restores the file's settings in place.
        file.load_again();
        assert_eq!(rates("10.1.0.2"), [1_000_000, 1_000_000]);
        std::fs::write(&path, "time,rate\n0s,3mbit\n1s,4mbit\n").unwrap();
        let text = emu(&format!("load {} --no-verify", file.path()));
        assert!(text.contains("the rows of a trace changed"), "{text}");
    });
}
