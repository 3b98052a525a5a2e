//! Impairments end to end: real sockets and programs behind access links with loss, jitter,
//! duplication, corruption, reordering, AQM and filters.
//!
//! Random decisions have a seed, so that losses are the same in each run; nevertheless
//! bounds are five to six standard errors of the sample sizes that each test states.
mod aqm;
mod chance;
mod corrupt;
mod delay;
mod filter;
mod share;

use std::{net::UdpSocket, thread, time::Duration};

use integration::{
    command::{TopologyFile, emu_json},
    udp::{self, Arrival},
};

/// One group of four vnodes, 10.1.0.1 to 10.1.0.4, whose access links have these keys.
fn topology(line: &str) -> TopologyFile {
    TopologyFile::new(&format!(
        "version: 1\nseed: 11\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 4, {line}}}}}\n"
    ))
}

/// Sends `count` numbered datagrams in groups with a pause after each group, and receives
/// until none came for `quiet`.
fn stream(ends: (&UdpSocket, &UdpSocket), count: u32, group: u32, quiet: Duration) -> Vec<Arrival> {
    let (from, to) = ends;
    let address = to.local_addr().unwrap().to_string();
    let receiver = to.try_clone().unwrap();
    let receiver = thread::spawn(move || udp::receive(&receiver, usize::MAX, quiet));
    for tag in 0..count {
        udp::send(from, &address, tag, 64).unwrap();
        if (tag + 1) % group == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    receiver.join().unwrap()
}

/// Like [`stream`], from the first vnode to the second.
fn first_to_second(count: u32, group: u32, quiet: Duration) -> Vec<Arrival> {
    let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
    stream((&from, &to), count, group, quiet)
}

/// For each of `count` datagrams, whether it is missing.
fn missing(arrivals: &[Arrival], count: u32) -> Vec<bool> {
    let mut missing = vec![true; count as usize];
    for arrival in arrivals {
        missing[arrival.tag as usize] = false;
    }
    missing
}

/// Number of packets that were affected for a reason, by its name in `emu status`.
fn reason(name: &str) -> u64 {
    let status = emu_json("status");
    status["reasons"][name].as_u64().unwrap_or(0)
}

/// A kernel counter, summed over this network namespace, for example `Udp InErrors`, from
/// `/proc/net/snmp`, `snmp6` and `netstat`.
fn kernel_counter(name: &str) -> u64 {
    let (group, field) = name.split_once(' ').unwrap();
    let read =
        |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let text = read("snmp") + &read("netstat");
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|fields: &Vec<&str>| fields.first() == Some(&format!("{group}:").as_str()))
        .collect();
    let [names, values] = lines.as_slice() else {
        panic!("no counters of {group}");
    };
    let at = names.iter().position(|n| *n == field);
    values[at.unwrap_or_else(|| panic!("no {name}"))]
        .parse()
        .unwrap()
}
