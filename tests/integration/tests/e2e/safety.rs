//! Traffic between addresses that are not vnodes, and the host's own settings.
use std::{thread, time::Duration};

use integration::{
    command::{TopologyFile, emu, run, try_emu},
    median,
    netns::isolated,
    udp,
};

pub use integration::snapshot::snapshot;

use crate::latency::TOPOLOGIES;

/// Sends 2,000 datagrams between addresses that are not vnodes; returns delays in ms.
fn foreign_delays() -> Vec<f64> {
    let (from, to) = (udp::socket("127.0.0.1:7001"), udp::socket("127.0.0.2:7000"));
    let receiver = thread::spawn(move || udp::receive(&to, 2000, Duration::from_secs(2)));
    for tag in 0..2000 {
        udp::send(&from, "127.0.0.2:7000", tag, 400).unwrap();
    }
    let arrivals = receiver.join().unwrap();
    let tags: Vec<u32> = arrivals.iter().map(|a| a.tag).collect();
    assert_eq!(tags, (0..2000).collect::<Vec<u32>>(), "lost or reordered");
    arrivals.iter().map(|a| a.delay_ms()).collect()
}

#[test]
fn foreign_traffic_is_not_touched() {
    isolated(|| {
        let before = median(&foreign_delays());
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 4, up: 100kbit, down: 100kbit, latency: 200ms}}\n",
        );
        file.load();
        // Meanwhile a vnode's up pipe is saturated.
        let busy = thread::spawn(|| {
            let from = udp::socket("10.1.0.1");
            udp::blast(
                &from,
                "10.1.0.2",
                1000,
                Duration::from_millis(10),
                Duration::from_secs(3),
            );
        });
        let during = median(&foreign_delays());
        busy.join().unwrap();
        println!("foreign traffic: {before:.3} ms before, {during:.3} ms loaded");
        // fq itself costs microseconds; the smallest emulated delay that could leak is 8
        // ms.
        assert!(during <= before * 5.0 + 1.0, "{during} after {before}");
        let status = integration::command::emu_json("status");
        assert!(status["reasons"]["not_vnode"].as_u64().unwrap() >= 2000);
    });
}

#[test]
fn unload_leaves_everything_as_before() {
    for addressing in ["alias", "anyip"] {
        isolated(move || {
            // A user's own qdisc with options, an address and a smaller MTU exist.
            run("tc qdisc replace dev lo root handle 7: fq_codel limit 777 target 7ms");
            run("ip addr add 10.77.0.1/32 dev lo");
            let before = snapshot();
            let file = TopologyFile::new(&format!(
                "version: 1\naddressing: {addressing}\ngroups: {{a: {{prefix: 10.77.0.0/24, nodes: 4, up: 1mbit}}}}\n"
            ));
            file.load();
            assert_ne!(snapshot(), before);
            emu("unload");
            assert_eq!(snapshot(), before);
        });
    }
}

#[test]
fn unload_brings_back_default_qdiscs_and_a_link_that_was_down() {
    isolated(|| {
        run("ip link set lo down");
        let before = snapshot();
        emu(&format!("load {TOPOLOGIES}/p2plab.yaml --no-verify"));
        emu("unload");
        assert_eq!(snapshot(), before);
        assert_eq!(emu("unload").trim(), "nothing was loaded");
    });
}

#[test]
fn a_user_filter_on_the_same_hook_survives() {
    isolated(|| {
        run("tc qdisc add dev lo clsact");
        run("tc filter add dev lo egress protocol ip prio 77 matchall action pass");
        let before = snapshot();
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, latency: 5ms}}\n",
        );
        emu(&format!("load {}", file.path()));
        emu("unload");
        // Counters of the user's filter may have changed; its text must not.
        assert_eq!(snapshot(), before);
    });
}

/// A qdisc that cannot be restored is not replaced, and after the refusal the machine is
/// unchanged.
#[test]
fn a_classful_qdisc_is_refused() {
    isolated(|| {
        run("tc qdisc replace dev lo root handle 5: htb default 1");
        let before = snapshot();
        let file = TopologyFile::new("version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}}\n");
        let output = try_emu(&format!("load {}", file.path()));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("htb"), "{errors}");
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_prefix_of_the_machine_itself_is_refused() {
    isolated(|| {
        run("ip link add eth9 type veth peer name eth8");
        run("ip addr add 10.1.0.77/24 dev eth9");
        run("ip link set eth9 up");
        let before = snapshot();
        let file = TopologyFile::new("version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}}\n");
        let output = try_emu(&format!("load {}", file.path()));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains("10.1.0.77") && errors.contains("eth9"),
            "{errors}"
        );
        assert_eq!(snapshot(), before);
    });
}
