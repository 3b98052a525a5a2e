//! Each host is a thread; the folder between them is real.
#![expect(
    clippy::disallowed_methods,
    reason = "a test that cannot start a thread must fail"
)]
use super::{heartbeat::START_DELAY, *};
use crate::rendezvous::OnLoss;

fn config(folder: &std::path::Path, rank: usize, size: usize, on_loss: OnLoss) -> RendezvousConfig {
    RendezvousConfig {
        folder: folder.to_owned(),
        rank,
        names: (0..size).map(|r| format!("h{r}")).collect(),
        digest: "d".to_owned(),
        on_loss,
        within: Duration::from_secs(20),
        lost_after: Duration::from_secs(1),
    }
}

fn join(folder: &std::path::Path, rank: usize, size: usize, on_loss: OnLoss) -> Membership {
    let info = JoinInfo {
        programs: 2,
        addresses: vec![IpAddr::from([127, 0, 0, 1])],
        ..JoinInfo::default()
    };
    Membership::join(config(folder, rank, size, on_loss), info).unwrap()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "never {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn started(membership: &Membership) -> SystemTime {
    until("started", || membership.start(Duration::ZERO).unwrap())
}

fn here(ready: &[usize], over: bool) -> LocalStatus {
    LocalStatus {
        ready: ready.to_vec(),
        failed: usize::from(over),
        over,
        stop: None,
    }
}

/// A host that dies publishes nothing more and removes nothing.
fn die(mut membership: Membership) {
    let shared = Arc::clone(&membership.shared);
    let path = shared
        .status_folder
        .path()
        .join(HostStatus::file(shared.config.rank));
    let last = std::fs::read(&path).unwrap();
    membership.end();
    std::fs::write(path, last).unwrap();
}

#[test]
fn hosts_start_together_and_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<Membership> = (0..3)
        .map(|rank| join(folder.path(), rank, 3, OnLoss::End))
        .collect();
    for host in &hosts {
        let statuses = host.wait_for_all(&|| false).unwrap().unwrap();
        assert_eq!(statuses.len(), 3);
        host.compare_clocks(&statuses[0]);
        assert_eq!(host.start(Duration::ZERO).unwrap(), None);
        host.set_loaded();
    }
    let starts: Vec<SystemTime> = hosts.iter().map(started).collect();
    assert!(starts[0] > SystemTime::now() - START_DELAY);
    for start in &starts {
        // All threads read one clock; the round trip of the datagrams bounds the error.
        let apart = start
            .duration_since(starts[0])
            .unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_millis(100), "{apart:?}");
    }
    for host in &hosts {
        host.publish(&here(&[1], false));
    }
    hosts[0].publish(&here(&[0, 1], true));
    until("ready", || (hosts[2].view().ready == [1]).then_some(()));
    assert!(!hosts[2].view().over);
    for host in &hosts[1..] {
        host.publish(&here(&[0, 1], true));
    }
    let there = until("over", || {
        Some(hosts[1].view()).filter(|t| t.over && t.failed == 3)
    });
    assert_eq!((there.ready, there.stop), (vec![0, 1], None));
    let mut hosts = hosts.into_iter();
    let first = hosts.next().unwrap();
    let others: Vec<_> = hosts
        .map(|host| thread::spawn(|| host.finish(None, Duration::ZERO)))
        .collect();
    let statuses = first.finish(None, Duration::from_secs(20));
    assert!(
        statuses.iter().all(|s| s.phase == Phase::Done),
        "{statuses:?}"
    );
    assert!(statuses[1].offset.is_some() && statuses[0].offset.is_none());
    for other in others {
        other.join().unwrap();
    }
}

#[test]
fn the_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 0, 3, OnLoss::End);
    config.within = Duration::from_secs(1);
    let first = Membership::join(config, JoinInfo::default()).unwrap();
    let second = join(folder.path(), 1, 3, OnLoss::End);
    let error = first.wait_for_all(&|| false).unwrap_err().to_string();
    assert!(error.starts_with("h2 is not there within 1 s"), "{error}");
    let third = join(folder.path(), 2, 3, OnLoss::End);
    first.wait_for_all(&|| false).unwrap().unwrap();
    for host in [&first, &second] {
        host.set_loaded();
    }
    until("loaded", || {
        let error = first.start(Duration::from_secs(2)).unwrap_err().to_string();
        error.starts_with("h2 is not loaded").then_some(())
    });
    // A host that fails stops all others and publishes the reason.
    third.finish(Some("no fq".to_owned()), Duration::ZERO);
    let error = until("failed", || second.start(Duration::ZERO).err()).to_string();
    assert_eq!(error, "h2: no fq");
}

#[test]
fn a_place_is_taken_once_and_all_run_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first = join(folder.path(), 0, 2, OnLoss::End);
    let again = Membership::join(
        config(folder.path(), 0, 2, OnLoss::End),
        JoinInfo::default(),
    );
    assert!(matches!(
        again,
        Err(RendezvousError::RankTaken { rank: 0, .. })
    ));
    let mut other = config(folder.path(), 1, 2, OnLoss::End);
    other.digest = "another".to_owned();
    let _other = Membership::join(other, JoinInfo::default()).unwrap();
    let error = first.wait_for_all(&|| false).unwrap_err().to_string();
    assert!(error.starts_with("h0 runs another experiment"), "{error}");
}

#[test]
fn the_others_stop_or_go_on_when_one_dies() {
    for (on_loss, dead) in [(OnLoss::End, 1), (OnLoss::Mark, 1), (OnLoss::Mark, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut hosts: Vec<Membership> = (0..3)
            .map(|rank| join(folder.path(), rank, 3, on_loss))
            .collect();
        hosts.iter().for_each(Membership::set_loaded);
        hosts.iter().for_each(|host| {
            started(host);
            host.publish(&here(&[], false));
        });
        die(hosts.remove(dead));
        for host in &hosts {
            let there = until("lost", || Some(host.view()).filter(|t| !t.lost.is_empty()));
            assert_eq!(there.lost, [format!("h{dead}")]);
            let hosts = vec![format!("h{dead}")];
            let stop = (on_loss == OnLoss::End).then_some(StopReason::HostsLost { hosts });
            assert_eq!(there.stop, stop);
            assert!(!there.over);
        }
        for host in &hosts {
            host.publish(&here(&[], true));
        }
        for host in &hosts {
            until("over", || host.view().over.then_some(()));
        }
        // The first live host collects the results of all.
        let leading = hosts.iter().filter(|host| host.leads()).count();
        assert!(leading == 1 && hosts[0].leads());
    }
}

#[test]
fn steps_are_barriers_and_carry_texts() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = [0, 1].map(|rank| join(folder.path(), rank, 2, OnLoss::End));
    let [first, second] = &hosts;
    thread::scope(|scope| {
        let waits = scope.spawn(|| second.wait_for_first("prepared"));
        thread::sleep(2 * STATUS_POLL_INTERVAL);
        assert!(!waits.is_finished());
        first.publish_step("prepared", "");
        waits.join().unwrap().unwrap();
    });
    second.publish_step("measured", "7");
    first.publish_step("measured", "5");
    for host in &hosts {
        assert_eq!(host.collect("measured").unwrap(), ["5", "7"]);
    }
}

#[test]
fn a_host_that_does_not_reach_a_step_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 0, 2, OnLoss::End);
    config.within = Duration::from_secs(1);
    let first = Membership::join(config, JoinInfo::default()).unwrap();
    let second = join(folder.path(), 1, 2, OnLoss::End);
    first.publish_step("loaded", "");
    let error = first.collect("loaded").unwrap_err().to_string();
    assert!(error.starts_with("h1 is not loaded within 1 s"), "{error}");
    second.finish(Some("no fq: missing".to_owned()), Duration::ZERO);
    let error = until("failed", || {
        first
            .collect("loaded")
            .err()
            .map(|error| error.to_string())
            .filter(|error| !error.contains("within"))
    });
    assert_eq!(error, "h1: no fq: missing");
}
