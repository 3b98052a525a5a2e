//! Somebody takes away what a load made: `status` and `load` notice each part.
use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use emu_kernel::state::{StateDir, Undo};
use integration::{
    agent::Agent,
    command::{TopologyFile, emu, emu_json, run, try_emu, try_run},
    netns::isolated,
};

use crate::run::everything;

/// Ways to take away or change the object of a step. A new step does not compile without
/// one.
fn ways(step: &Undo) -> Vec<String> {
    let each = |lines: &[String]| lines.to_vec();
    match step {
        Undo::DeleteLink { name } => each(&[
            format!("ip link del {name}"),
            format!("ip link set {name} down"),
            format!("ip link set {name} mtu 500"),
            format!("tc qdisc del dev {name} root"),
            format!("tc qdisc change dev {name} handle e30: root fq flow_limit 1"),
            format!("tc filter del dev {name} egress"),
            format!("tc qdisc del dev {name} clsact"),
        ]),
        Undo::Mtu {
            interface,
            mtu_bytes,
        } => each(&[format!("ip link set {interface} mtu {mtu_bytes}")]),
        Undo::GsoMaxSegments { interface, .. } => {
            each(&[format!("ip link set {interface} gso_max_segs 1000")])
        }
        Undo::LinkDown { interface } => each(&[format!("ip link set {interface} down")]),
        // Another qdisc in its place is somebody's, and stays after an unload.
        Undo::RootQdisc { interface, .. } => each(&[
            format!("tc qdisc del dev {interface} root"),
            format!("tc qdisc change dev {interface} handle e30: root fq flow_limit 1"),
            format!("tc qdisc change dev {interface} handle e30: root fq horizon 1ms"),
            format!("tc qdisc change dev {interface} handle e30: root fq limit 1"),
        ]),
        Undo::Clsact { interface } => each(&[format!("tc qdisc del dev {interface} clsact")]),
        Undo::Filter { interface, hook } => {
            let hook = format!("{hook:?}").to_lowercase();
            each(&[format!("tc filter del dev {interface} {hook}")])
        }
        Undo::Features { interface, .. } => each(&[format!("ethtool -K {interface} gso on")]),
        Undo::Aliases { interface, .. } => {
            each(&[format!("ip addr flush dev {interface} scope global")])
        }
        Undo::PortFilter { interface } => {
            each(&[format!("tc filter del dev {interface} ingress pref 2")])
        }
        Undo::Machines { folder } => each(&[
            "ip link del emu-p0".to_owned(),
            "ip link set emu-p0 down".to_owned(),
            "tc qdisc del dev emu-p0 clsact".to_owned(),
            "ip route flush dev emu-p0".to_owned(),
            "tc filter del block 58113".to_owned(),
            "tc filter del block 58114 pref 1".to_owned(),
            "tc filter del block 58114 pref 2".to_owned(),
            format!("umount {}/machines", folder.display()),
        ]),
        Undo::Sysctl { path, .. } => {
            let setting = path.strip_prefix("/proc/sys").unwrap().display();
            each(&[format!("sysctl -q -w {setting}=0")])
        }
        Undo::LocalRoutes { .. } => each(&["ip route flush table local proto 227".to_owned()]),
        Undo::LoopbackRoute { prefix } => {
            each(&[format!("ip -6 route del local {prefix} dev lo table local")])
        }
        Undo::Routes { .. } => each(&["ip route flush proto 227".to_owned()]),
        Undo::Cgroup { name } => each(&[format!(
            "find /sys/fs/cgroup/emu/{name} -depth -type d -exec rmdir {{}} ;"
        )]),
        Undo::Pins { directory } => each(&[format!("rm -rf {}", directory.display())]),
    }
}

fn topology(addressing: &str) -> String {
    format!(
        "version: 1\nseed: 1\naddressing: {addressing}\nmtu: 1400\ngroups:\n  \
         m: {{prefix: 10.3.0.0/24, kind: machine, nodes: 2, latency: 10ms}}\n  \
         a: {{prefix: 10.1.0.0/24, nodes: 4, latency: 10ms}}\n  \
         b: {{prefix: 10.2.0.0/24, nodes: 4, latency: 10ms}}\n  \
         c: {{prefix: 'fd10::/64', nodes: 2, latency: 10ms}}\n\
         hosts:\n  \
         - {{name: h0, interface: eth0, address: [192.0.2.1, 'fd00::1'], groups: [m, a, c]}}\n  \
         - {{name: h1, interface: eth0, address: [192.0.2.2, 'fd00::2'], groups: [b]}}\n"
    )
}

/// Adds an interface to the other host.
fn plug(mtu: u32) {
    run(&format!(
        "ip link add eth0 mtu {mtu} type veth peer name eth1"
    ));
    run("ip link set eth0 addrgenmode none");
    run("ip link set eth1 addrgenmode none");
    run("ip addr add 192.0.2.1/24 dev eth0");
    run("ip link set eth1 up");
    run("ip link set eth0 up");
    settle();
}

/// An interface that is down, has a qdisc of its own, and leads to the other host.
fn interface() {
    // An interface that was never up has another default qdisc.
    plug(1500);
    run("ip link set eth0 down");
    settle();
}

/// Loads the topology with aliases as h0; returns its file and the command.
fn loaded() -> (TopologyFile, String) {
    interface();
    let file = TopologyFile::new(&topology("alias"));
    let load = format!("load {} --host h0 --no-verify", file.path());
    emu(&load);
    (file, load)
}

/// Waits until the kernel has followed a change of carrier, which it does with a delay of up
/// to a second (net/core/link_watch.c): routes and states are then those that stay.
fn settle() {
    thread::sleep(Duration::from_secs(3));
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn each_part_that_is_taken_away_is_noticed_and_restored() {
    for addressing in ["alias", "anyip"] {
        isolated(move || {
            interface();
            let before = everything();
            let file = TopologyFile::new(&topology(addressing));
            let load = format!("load {} --host h0 --no-verify", file.path());
            let ready = || {
                emu(&load);
                emu("exec a/0 -- true");
                let status = try_emu("status");
                assert!(status.status.success(), "{}", said(&status));
            };
            ready();
            let journal = StateDir::here().unwrap().journal().unwrap();
            let mut tried = 0;
            for way in journal.iter().flat_map(ways) {
                let changed = try_run(&way);
                if !changed.status.success() {
                    // A version of a tool, or a kernel, that cannot do it.
                    println!("SKIPPED {way}: {}", said(&changed));
                    continue;
                }
                tried += 1;
                let status = try_emu("status");
                let words = said(&status);
                assert_eq!(
                    status.status.code(),
                    Some(1),
                    "{addressing}: {way}: {words}"
                );
                assert!(words.contains("MISSING"), "{way}: {words}");
                let dry = emu(&format!("{load} --dry-run"));
                assert!(dry.contains("was missing"), "{way}: {dry}");
                ready();
            }
            assert!(tried >= 20, "{tried}");
            emu("unload");
            run("ip link set eth0 down");
            settle();
            assert_eq!(everything(), before);
        });
    }
}

/// An interface that gets another name is still the one that the load changed.
#[test]
fn unload_finds_an_interface_under_another_name() {
    isolated(|| {
        interface();
        let before = everything();
        let file = TopologyFile::new(&topology("alias"));
        emu(&format!("load {} --host h0 --no-verify", file.path()));
        run("ip link set eth0 down");
        run("ip link set eth0 name wan0");
        let words = said(&try_emu("status"));
        assert!(words.contains("MISSING: interface eth0"), "{words}");
        emu("unload");
        assert_eq!(emu_json("unload")["was_loaded"], false);
        run("ip link set wan0 name eth0");
        // An interface that is down while its qdisc is deleted has the default one again
        // once it is up.
        run("ip link set eth0 up");
        settle();
        run("ip link set eth0 down");
        settle();
        assert_eq!(everything(), before);
    });
}

/// A new interface with the name of one that was removed is another one, as it is when a
/// network card is plugged in again.
#[test]
fn a_new_interface_with_an_old_name_is_loaded_and_restored() {
    isolated(|| {
        let (_file, load) = loaded();
        run("ip link del eth0");
        let words = said(&try_emu("status"));
        assert!(words.contains("MISSING: interface eth0"), "{words}");
        // Nothing of the old card's settings is for the new one.
        plug(1300);
        emu(&load);
        assert!(try_emu("status").status.success());
        emu("unload");
        let link = run("ip link show eth0");
        assert!(link.contains("mtu 1300") && !link.contains("e30"), "{link}");
        assert!(run("tc filter show dev eth0 egress").is_empty());
    });
}

/// What can be restored alone is, and the rest of the load stays as it is: its maps are the
/// same ones.
#[test]
fn single_objects_are_put_back_without_a_reload() {
    isolated(|| {
        let (_file, load) = loaded();
        let maps = || {
            StateDir::here()
                .unwrap()
                .loaded()
                .unwrap()
                .unwrap()
                .0
                .map_ids
        };
        let first = maps();
        for way in [
            "tc filter del dev lo egress",
            "tc filter del dev lo ingress",
            "tc filter del dev eth0 egress",
            "tc filter del dev emu-ifb0 egress",
            "tc filter del dev eth0 ingress pref 2",
            "tc filter del block 58113",
            "tc filter del block 58114 pref 1",
            "tc qdisc del dev emu-p0 clsact",
            "ip link set emu-p1 down",
            "tc qdisc del dev emu-ifb0 clsact",
            "tc qdisc del dev eth0 clsact",
            "tc qdisc del dev lo root",
            "tc qdisc change dev lo handle e30: root fq horizon 1ms",
            "ip link set emu-ifb0 down",
            "ip link set emu-ifb0 mtu 500",
            "ip link set eth0 down",
            "ip route flush proto 227",
            "ip addr flush dev lo scope global",
            "ip link set lo down",
        ] {
            run(way);
            let words = emu(&load);
            assert!(words.contains("put back: "), "{way}: {words}");
            assert!(try_emu("status").status.success(), "{way}");
            assert_eq!(maps(), first, "{way}");
        }
        // A map cannot be.
        run("rm -r /sys/fs/bpf/emu");
        let words = emu(&load);
        assert!(words.contains("full reload, because"), "{words}");
        assert_ne!(maps(), first);
        emu("unload");
    });
}

/// The agent learns of a loss at once, whatever its interval is, and its answers tell.
#[test]
fn the_agent_puts_back_within_two_seconds() {
    isolated(|| {
        interface();
        let file = TopologyFile::new(&topology("alias"));
        let arguments = format!("{} --host h0 --interval 10min", file.path());
        let agent = Agent::start(&arguments, 9750);
        agent.wait_good();
        emu("exec a/0 -- true");
        let journal = StateDir::here().unwrap().journal().unwrap();
        let mut tried = 0;
        for way in journal.iter().flat_map(ways) {
            if !try_run(&way).status.success() {
                println!("SKIPPED {way}");
                continue;
            }
            tried += 1;
            let begin = Instant::now();
            // In virtual time a pause costs nothing, and a status that comes too early does.
            thread::sleep(Duration::from_millis(500));
            while !try_emu("status").status.success() {
                let took = begin.elapsed();
                assert!(
                    took < Duration::from_secs(2),
                    "{way}: {took:?}\n{}",
                    agent.log()
                );
                thread::sleep(Duration::from_millis(20));
            }
            if way.contains("emu/ns-") {
                // A cgroup comes back with the next program.
                emu("exec a/0 -- true");
            }
        }
        assert!(tried >= 20, "{tried}");
        let (scrape, _) = agent.scrape();
        assert!(scrape.sum("emu_agent_losses_total", &[]) >= 20.0);
        assert_eq!(scrape.sum("emu_agent_in_sync", &[]), 1.0);
        assert_eq!(scrape.sum("emu_agent_missing", &[]), 0.0);
        // What cannot be restored is told.
        run("ip link set eth0 down");
        run("ip link set eth0 name wan0");
        let begin = Instant::now();
        while agent.readiness().is_none_or(|(code, _)| code != 503) {
            assert!(begin.elapsed() < Duration::from_secs(2), "{}", agent.log());
            thread::sleep(Duration::from_millis(20));
        }
        run("ip link set wan0 name eth0");
        run("ip link set eth0 up");
        agent.wait_good();
        drop(agent);
        emu("unload");
    });
}
