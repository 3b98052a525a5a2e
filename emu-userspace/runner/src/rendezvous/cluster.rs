//! What holds for all hosts, from what each says. Pure: no file, no clock.
use serde::{Deserialize, Serialize};

use super::{OnLoss, Phase, Word};

/// What holds for all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Orders {
    /// How many have come.
    pub joined: usize,
    /// How many could start.
    pub loaded: usize,
    /// When all start, by the first host's clock, in nanoseconds since 1970.
    pub start_unix_ns: Option<u64>,
    /// Programs that are ready on every host that lives.
    pub ready: Vec<usize>,
    /// Processes that have failed on all hosts.
    pub failed: usize,
    /// Whether the run is over on every host that lives.
    pub over: bool,
    /// Numbers of the hosts that are lost.
    pub lost: Vec<usize>,
    /// Hosts whose results are written.
    pub done: usize,
    /// Why all must stop.
    pub stop: Option<String>,
}

/// How long a host's word has not changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watch {
    beat: u64,
    silent: u32,
    lost: bool,
}

impl Watch {
    /// Notes what was heard at one look; lost after `most` looks without a change. A
    /// host that has not come yet, or has ended, is not lost.
    pub fn look(&mut self, word: Option<&Word>, most: u32) -> bool {
        let Some(word) = word else {
            return self.lost;
        };
        if word.beat != self.beat {
            self.beat = word.beat;
            self.silent = 0;
        } else if word.phase < Phase::Done {
            self.silent = self.silent.saturating_add(1);
        }
        // Who was given up stays so: the others have gone on without it.
        self.lost |= self.silent > most;
        self.lost
    }
}

impl Orders {
    /// What follows from the words of all hosts and from which are lost. A start that
    /// was set before stays.
    pub(super) fn new(
        words: &[Option<Word>],
        lost: &[bool],
        before: &Orders,
        on_loss: OnLoss,
        programs: usize,
    ) -> Self {
        let known = || words.iter().flatten();
        let lives = |rank: usize| !lost.get(rank).copied().unwrap_or(false);
        let living = || known().filter(|w| lives(w.rank));
        let at_least = |phase: Phase| known().filter(|w| w.phase >= phase).count();
        let all_are = |phase: Phase| living().all(|w| w.phase >= phase);
        let failed = known().find(|w| w.phase == Phase::Failed);
        let lost_ranks: Vec<usize> = (0..words.len()).filter(|r| !lives(*r)).collect();
        let names: Vec<&str> = lost_ranks
            .iter()
            .filter_map(|r| words[*r].as_ref())
            .map(|w| w.host.as_str())
            .collect();
        let ended = (on_loss == OnLoss::End && !names.is_empty())
            .then(|| format!("{} fell silent", names.join(", ")));
        let gave_up = failed.map(|w| {
            let error = w.error.as_deref().unwrap_or("gave up");
            format!("{}: {error}", w.host)
        });
        let broken_off = known().find_map(|w| Some(format!("{}: {}", w.host, w.stop.as_ref()?)));
        Self {
            joined: known().count(),
            loaded: at_least(Phase::Loaded),
            start_unix_ns: before.start_unix_ns,
            ready: (0..programs)
                .filter(|p| living().all(|w| w.ready.contains(p)))
                .collect(),
            failed: known().map(|w| w.failed).sum(),
            over: before.start_unix_ns.is_some() && all_are(Phase::Over),
            lost: lost_ranks,
            done: at_least(Phase::Done),
            stop: before.stop.clone().or(gave_up).or(broken_off).or(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(rank: usize, beat: u64, phase: Phase) -> Word {
        Word {
            host: format!("h{rank}"),
            rank,
            beat,
            phase,
            ready: if rank == 1 { vec![0, 1] } else { vec![1] },
            failed: rank,
            ..Word::default()
        }
    }

    #[test]
    fn a_host_is_lost_when_its_word_does_not_change() {
        let mut watch = Watch::default();
        // Not there yet, however long.
        assert!((0..100).all(|_| !watch.look(None, 3)));
        assert!((1..100).all(|beat| !watch.look(Some(&word(0, beat, Phase::Running)), 3)));
        let silent = word(0, 99, Phase::Running);
        let looks = (0..9).take_while(|_| !watch.look(Some(&silent), 3)).count();
        assert_eq!(looks, 3);
        assert!(watch.look(Some(&word(0, 100, Phase::Running)), 3));
        // One that has ended says nothing any more.
        let mut watch = Watch::default();
        let done = word(0, 5, Phase::Done);
        assert!((0..100).all(|_| !watch.look(Some(&done), 3)));
    }

    #[test]
    fn all_hosts_count_but_the_lost() {
        let started = Orders {
            start_unix_ns: Some(7),
            ..Orders::default()
        };
        let phases = [Phase::Over, Phase::Running, Phase::Done];
        let words: Vec<Option<Word>> = (0..3).map(|r| Some(word(r, 1, phases[r]))).collect();
        let orders = |lost: &[bool], on_loss| Orders::new(&words, lost, &started, on_loss, 3);
        let all = orders(&[false; 3], OnLoss::End);
        assert_eq!((all.over, all.failed, all.done), (false, 3, 1));
        assert_eq!((all.ready.as_slice(), &all.stop), (&[1][..], &None));
        let mark = orders(&[false, true, false], OnLoss::Mark);
        assert!(mark.over && mark.stop.is_none());
        assert_eq!(mark.lost, [1]);
        let end = orders(&[false, true, false], OnLoss::End);
        assert_eq!(end.stop.as_deref(), Some("h1 fell silent"));
        let early = Orders::new(&words, &[false; 3], &Orders::default(), OnLoss::End, 3);
        assert!(!early.over);
    }

    #[test]
    fn a_host_that_gives_up_stops_all() {
        let mut words = vec![Some(word(0, 1, Phase::Joined)), None];
        words[1] = Some(Word {
            error: Some("no fq".to_owned()),
            ..word(1, 1, Phase::Failed)
        });
        let orders = |before: &Orders| Orders::new(&words, &[], before, OnLoss::Mark, 1);
        let first = orders(&Orders::default());
        assert_eq!(first.stop.as_deref(), Some("h1: no fq"));
        assert_eq!(orders(&first).stop, first.stop);
    }
}
