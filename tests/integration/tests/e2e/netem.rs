//! The baseline: the same access links made of netem, as users of netem build them.
use integration::{
    command::run,
    netns::{Host, two_hosts},
};

/// Settings of an access link, as netem takes them.
pub struct Line<'a> {
    /// Rate of the up pipe.
    pub up: &'a str,
    /// Latency after the up pipe, in microseconds.
    pub up_us: u64,
    /// Rate of the down pipe.
    pub down: &'a str,
    /// Latency after the down pipe, in microseconds.
    pub down_us: u64,
}

/// Two hosts, each of which sends through one netem and receives through another one on an
/// ifb device: the same four stages as in emu.
pub fn four_stages(name: &str, lines: [&Line<'_>; 2]) -> [Host; 2] {
    let hosts = two_hosts(name);
    for (host, (line, back)) in hosts
        .iter()
        .zip([(lines[0], lines[1]), (lines[1], lines[0])])
    {
        let tc = format!("tc -n {}", host.name());
        packets_not_bursts(host);
        run(&format!(
            "{tc} qdisc add dev eth0 root netem limit 100000 rate {} delay {}us",
            line.up, line.up_us
        ));
        run(&format!("ip -n {} link add ifb0 type ifb", host.name()));
        run(&format!("ip -n {} link set ifb0 up", host.name()));
        run(&format!(
            "{tc} qdisc add dev ifb0 root netem limit 100000 rate {} delay {}us",
            back.down, back.down_us
        ));
        run(&format!("{tc} qdisc add dev eth0 clsact"));
        run(&format!(
            "{tc} filter add dev eth0 ingress matchall action mirred egress redirect dev ifb0"
        ));
    }
    hosts
}

/// Two hosts with one netem each, which has the rate and half the round-trip time.
pub fn one_stage(name: &str, rate: &str, half_rtt_us: u64) -> [Host; 2] {
    let hosts = two_hosts(name);
    for host in &hosts {
        packets_not_bursts(host);
        run(&format!(
            "tc -n {} qdisc add dev eth0 root netem limit 100000 rate {rate} delay {half_rtt_us}us",
            host.name()
        ));
    }
    hosts
}

/// Turns segmentation offloads off, as emu does.
fn packets_not_bursts(host: &Host) {
    run(&format!(
        "ip netns exec {} ethtool -K eth0 tso off gso off gro off",
        host.name()
    ));
}
