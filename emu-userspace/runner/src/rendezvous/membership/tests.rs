//! Hosts as threads, a real folder between them.
use super::{listen::MARGIN, *};
use crate::rendezvous::OnLoss;

fn terms(folder: &std::path::Path, rank: usize, size: usize, on_loss: OnLoss) -> Terms {
    Terms {
        folder: folder.to_owned(),
        rank,
        names: (0..size).map(|r| format!("h{r}")).collect(),
        digest: "d".to_owned(),
        on_loss,
        within: Duration::from_secs(20),
        lost_after: Duration::from_secs(1),
    }
}

fn join(folder: &std::path::Path, rank: usize, size: usize, on_loss: OnLoss) -> Fleet {
    let luggage = Luggage {
        programs: 2,
        addresses: vec![IpAddr::from([127, 0, 0, 1])],
        ..Luggage::default()
    };
    Fleet::join(terms(folder, rank, size, on_loss), luggage).unwrap()
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

fn started(fleet: &Fleet) -> SystemTime {
    until("started", || fleet.start(Duration::ZERO).unwrap())
}

fn here(ready: &[usize], over: bool) -> Here {
    Here {
        ready: ready.to_vec(),
        failed: usize::from(over),
        over,
        stop: None,
    }
}

/// A host that dies says nothing more, and clears nothing up.
fn die(mut fleet: Fleet) {
    let shared = Arc::clone(&fleet.shared);
    let path = shared.meet.path().join(Word::file(shared.terms.rank));
    let last = std::fs::read(&path).unwrap();
    fleet.end();
    std::fs::write(path, last).unwrap();
}

#[test]
fn hosts_start_together_and_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let hosts: Vec<Fleet> = (0..3)
        .map(|rank| join(folder.path(), rank, 3, OnLoss::End))
        .collect();
    for host in &hosts {
        let words = host.gather(&|| false).unwrap().unwrap();
        assert_eq!(words.len(), 3);
        host.compare_clocks(&words[0]);
        assert_eq!(host.start(Duration::ZERO).unwrap(), None);
        host.loaded();
    }
    let starts: Vec<SystemTime> = hosts.iter().map(started).collect();
    assert!(starts[0] > SystemTime::now() - MARGIN);
    for start in &starts {
        // One clock, read by datagrams whose round trip bounds the error.
        let apart = start
            .duration_since(starts[0])
            .unwrap_or_else(|e| e.duration());
        assert!(apart < Duration::from_millis(100), "{apart:?}");
    }
    for host in &hosts {
        host.tell(&here(&[1], false));
    }
    hosts[0].tell(&here(&[0, 1], true));
    until("ready", || (hosts[2].there().ready == [1]).then_some(()));
    assert!(!hosts[2].there().over);
    for host in &hosts[1..] {
        host.tell(&here(&[0, 1], true));
    }
    let there = until("over", || {
        Some(hosts[1].there()).filter(|t| t.over && t.failed == 3)
    });
    assert_eq!((there.ready, there.stop), (vec![0, 1], None));
    let mut hosts = hosts.into_iter();
    let first = hosts.next().unwrap();
    let others: Vec<_> = hosts
        .map(|host| thread::spawn(|| host.finish(None, Duration::ZERO)))
        .collect();
    let words = first.finish(None, Duration::from_secs(20));
    assert!(words.iter().all(|w| w.phase == Phase::Done), "{words:?}");
    assert!(words[1].offset.is_some() && words[0].offset.is_none());
    for other in others {
        other.join().unwrap();
    }
}

#[test]
fn the_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut terms = terms(folder.path(), 0, 3, OnLoss::End);
    terms.within = Duration::from_secs(1);
    let first = Fleet::join(terms, Luggage::default()).unwrap();
    let second = join(folder.path(), 1, 3, OnLoss::End);
    let error = first.gather(&|| false).unwrap_err().to_string();
    assert!(error.starts_with("h2 is not there within 1 s"), "{error}");
    let third = join(folder.path(), 2, 3, OnLoss::End);
    first.gather(&|| false).unwrap().unwrap();
    for host in [&first, &second] {
        host.loaded();
    }
    until("loaded", || {
        let error = first.start(Duration::from_secs(2)).unwrap_err().to_string();
        error.starts_with("h2 is not loaded").then_some(())
    });
    // One that gives up takes all with it, and says why.
    third.finish(Some("no fq".to_owned()), Duration::ZERO);
    let error = until("failed", || second.start(Duration::ZERO).err()).to_string();
    assert_eq!(error, "h2: no fq");
}

#[test]
fn a_place_is_taken_once_and_all_run_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let first = join(folder.path(), 0, 2, OnLoss::End);
    let again = Fleet::join(terms(folder.path(), 0, 2, OnLoss::End), Luggage::default());
    assert!(matches!(again, Err(FleetError::Taken { rank: 0, .. })));
    let mut other = terms(folder.path(), 1, 2, OnLoss::End);
    other.digest = "another".to_owned();
    let _other = Fleet::join(other, Luggage::default()).unwrap();
    let error = first.gather(&|| false).unwrap_err().to_string();
    assert!(error.starts_with("h0 runs another experiment"), "{error}");
}

#[test]
fn the_others_stop_or_go_on_when_one_dies() {
    for (on_loss, dead) in [(OnLoss::End, 1), (OnLoss::Mark, 1), (OnLoss::Mark, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut hosts: Vec<Fleet> = (0..3)
            .map(|rank| join(folder.path(), rank, 3, on_loss))
            .collect();
        hosts.iter().for_each(Fleet::loaded);
        hosts.iter().for_each(|host| {
            started(host);
            host.tell(&here(&[], false));
        });
        die(hosts.remove(dead));
        for host in &hosts {
            let there = until("lost", || Some(host.there()).filter(|t| !t.lost.is_empty()));
            assert_eq!(there.lost, [format!("h{dead}")]);
            let stop = (on_loss == OnLoss::End).then(|| format!("h{dead} fell silent"));
            assert_eq!(there.stop, stop);
            assert!(!there.over);
        }
        for host in &hosts {
            host.tell(&here(&[], true));
        }
        for host in &hosts {
            until("over", || host.there().over.then_some(()));
        }
        // The first one that lives collects what all have written.
        let leading = hosts.iter().filter(|host| host.leads()).count();
        assert!(leading == 1 && hosts[0].leads());
    }
}
