//! What clients of the agent's HTTP server can take from it: nothing that a load needs.
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use emu_kernel::descriptors;
use integration::{
    agent::Agent,
    command::{emu, emu_json, run, try_emu},
    netns::isolated,
};

use crate::agent::text;

const PORT: u16 = 9750;
/// Slow clients at a time, and the threads that hold them.
const SLOW_CLIENTS: usize = 5_000;
const THREADS: usize = 4;

/// Opens connections that never complete a request, all at the same time, and opens each
/// again that the agent closed, until `stop`.
fn slow_clients(stop: &AtomicBool, opened: &AtomicU64) {
    let open = || {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).ok()?;
        // Not more than the agent would accept as the begin of a request.
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").ok()?;
        opened.fetch_add(1, Relaxed);
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    while !stop.load(Relaxed) {
        if streams.len() < SLOW_CLIENTS / THREADS {
            streams.push(open());
            continue;
        }
        for stream in &mut streams {
            let is_open = stream.as_mut().is_some_and(|s| {
                let read = s.read(&mut [0]);
                read.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
            });
            if !is_open {
                *stream = open();
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Under 5,000 slow clients, and with as few descriptors as an agent starts with, a changed file
/// is loaded, what is taken away comes back, and metrics can be read.
#[test]
fn slow_clients_keep_nothing_from_the_agent() {
    isolated(|| {
        let limit = descriptors::raise_limit().unwrap();
        assert!(limit as usize > SLOW_CLIENTS + 100, "{limit} descriptors");
        let folder = tempfile::tempdir_in("/run").unwrap();
        let file = folder.path().join("t.yaml");
        // The agent must never read half a file.
        let put = |text: &str| {
            fs::write(folder.path().join("next"), text).unwrap();
            fs::rename(folder.path().join("next"), &file).unwrap();
        };
        put(&text("one", "10ms"));
        let arguments = format!("{} --interval 60s", file.display());
        let few = least_descriptors(&arguments);
        let agent = Agent::start_with_files(&arguments, PORT, few);
        agent.wait_good();
        let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| slow_clients(&stop, &opened));
            }
            while opened.load(Relaxed) < SLOW_CLIENTS as u64 {
                thread::sleep(Duration::from_millis(10));
            }
            // In place, a full reload (more vnodes than there is room for), a repair.
            put(&text("two", "30ms"));
            agent.wait("the second version", |_, value| value["topology"] == "two");
            let larger = text("three", "30ms").replace("nodes: 20", "nodes: 200");
            put(&larger);
            agent.wait("the third version", |code, value| {
                code == 200 && value["vnodes"] == 400
            });
            run("tc qdisc del dev lo clsact");
            let restored = |result: &str| {
                let labels = [("result", result)];
                agent.scrape().0.sum("emu_agent_reloads_total", &labels)
            };
            while restored("repaired") < 1.0 {
                thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(emu_json("status")["ok"], true);
            let counts = ["anew", "in_place", "repaired", "failed", "bad_file"].map(restored);
            assert_eq!(counts, [2.0, 1.0, 1.0, 0.0, 0.0], "{}", agent.log());
            let (scrape, _) = agent.scrape();
            let refused = |why| scrape.sum("emu_agent_http_refused_total", &[("reason", why)]);
            assert!(refused("displaced") >= SLOW_CLIENTS as f64 - 64.0);
            assert_eq!(refused("no_descriptor"), 0.0, "{}", agent.log());
            assert!(scrape.sum("emu_agent_http_connections", &[]) <= 64.0);
            stop.store(true, Relaxed);
        });
        let log = agent.log();
        // A flood is told once, not once for each client.
        let lines = log.lines().filter(|l| l.contains("all connections"));
        assert!((1..=4).contains(&lines.count()), "{log}");
        println!(
            "{} connections; the agent's limit was {few} files",
            opened.load(Relaxed)
        );
        assert_eq!(agent.terminate(), Some(0));
        emu("unload");
    });
}

/// The least limit of open files with which an agent starts, as its error says.
fn least_descriptors(arguments: &str) -> u64 {
    let log = Agent::start_with_files(arguments, PORT, 30).wait_end();
    assert_eq!(log.0, Some(1), "{}", log.1);
    let (_, rest) = log.1.split_once("needs at least ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// With a token, those who do not have it learn only whether the agent is ready; without one, an
/// address beyond loopback is told in the log and by a metric.
#[test]
fn what_others_may_read() {
    isolated(|| {
        run("ip link add veth0 type veth peer name veth1");
        run("ip addr add 192.0.2.1/24 dev veth0");
        run("ip link set veth0 up");
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (file, token) = (at("t.yaml"), at("token"));
        fs::write(&file, text("secret-name", "10ms")).unwrap();
        fs::write(&token, "0123456789abcdef0123\n").unwrap();
        let mode = |mode| fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
        let arguments = format!("{} --token-file {}", file.display(), token.display());
        mode(0o644);
        let refused = try_emu(&format!("agent {arguments}"));
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{error}");
        assert!(error.contains("mode 0644"), "{error}");
        mode(0o600);

        let open_to_all = |agent: &Agent, is_open: f64| {
            let (scrape, _) = agent.scrape();
            assert_eq!(scrape.sum("emu_agent_http_open_to_all", &[]), is_open);
            let told = agent.log().contains("everybody who can reach this address");
            assert_eq!(told, is_open == 1.0, "{}", agent.log());
        };
        for (ip, is_open) in [("127.0.0.1", 0.0), ("192.0.2.1", 1.0), ("0.0.0.0", 1.0)] {
            let agent = Agent::start_at(&file.display().to_string(), ip, PORT);
            agent.wait_good();
            open_to_all(&agent, is_open);
        }
        let mut agent = Agent::start_at(&arguments, "192.0.2.1", PORT);
        while agent.get("/readyz").is_none_or(|(code, _)| code != 200) {
            thread::sleep(Duration::from_millis(20));
        }
        for wrong in [None, Some("0123456789abcdef0124"), Some("")] {
            agent.set_token(wrong);
            assert_eq!(agent.get("/healthz"), Some((200, "ok\n".to_owned())));
            assert_eq!(agent.get("/readyz"), Some((200, String::new())));
            assert_eq!(agent.get("/metrics"), Some((401, String::new())));
        }
        agent.set_token(Some("0123456789abcdef0123"));
        assert_eq!(agent.wait_good()["topology"], "secret-name");
        open_to_all(&agent, 0.0);
        let (scrape, _) = agent.scrape();
        let labels = [("reason", "unauthorized")];
        assert_eq!(scrape.sum("emu_agent_http_refused_total", &labels), 3.0);
        drop(agent);
        emu("unload");
    });
}
