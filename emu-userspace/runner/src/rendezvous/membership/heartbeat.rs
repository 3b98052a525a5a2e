//! What the thread does: says this host's word, listens to the others', and draws
//! conclusions.
use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{LOOK, Shared, State};
use crate::rendezvous::{OnLoss, Orders, Phase, Terms, Word, unix_ns};

/// A word is said at least so often.
const BEAT: Duration = Duration::from_secs(1);
/// Time between the agreement on a start and the start itself: every host must have
/// seen it by then.
pub(super) const MARGIN: Duration = Duration::from_secs(2);

/// Runs until the fleet ends; says a last word then.
pub(super) fn keep(shared: &Shared) {
    let mut said = Instant::now();
    loop {
        let last = shared.stop.load(Ordering::Relaxed);
        listen(shared);
        let word = {
            let mut state = shared.state();
            let due = state.dirty || last || said.elapsed() >= BEAT;
            due.then(|| {
                state.dirty = false;
                state.own.beat += 1;
                state.own.said_unix_ns = unix_ns(SystemTime::now());
                state.own.clone()
            })
        };
        // Not under the lock: a file server may take its time.
        if let Some(word) = word {
            let trouble = word.say(&shared.meet).err();
            let path = shared.meet.path().join(Word::file(word.rank));
            let trouble = trouble.map(|e| format!("write {}: {e}", path.display()));
            shared.state().trouble = trouble;
            said = Instant::now();
        }
        shared.changed.notify_all();
        if last {
            return;
        }
        thread::park_timeout(LOOK);
    }
}

/// Looks at the words of those whom this host listens to, and draws conclusions.
fn listen(shared: &Shared) {
    let terms = &shared.terms;
    let (first_lost, own) = {
        let state = shared.state();
        (state.orders.lost.contains(&0), state.own.clone())
    };
    // The first host listens to all and commands. Once it is lost, all do so.
    let commands = terms.rank == 0 || first_lost;
    let ranks = if commands { 0..terms.names.len() } else { 0..1 };
    let heard: Vec<(usize, Option<Word>)> = ranks
        .map(|rank| match rank == terms.rank {
            true => (rank, Some(own.clone())),
            false => (rank, Word::hear(&shared.meet, rank)),
        })
        .collect();
    let looks = terms.lost_after.as_millis() / LOOK.as_millis();
    let most = u32::try_from(looks).unwrap_or(u32::MAX).max(2);
    let mut state = shared.state();
    let mut lost = vec![false; terms.names.len()];
    for (rank, word) in heard {
        // A word that could not be read now is not news.
        if word.is_some() {
            state.words[rank] = word;
        }
        let word = state.words[rank].clone().filter(|_| rank != terms.rank);
        lost[rank] = state.watches[rank].look(word.as_ref(), most);
    }
    let orders = if commands {
        command(&state, terms, &lost, shared.programs)
    } else {
        obey(&state, lost[0], terms.on_loss)
    };
    state.orders = orders;
    if commands && state.own.orders.as_ref() != Some(&state.orders) {
        state.own.orders = Some(state.orders.clone());
        state.dirty = true;
    }
}

fn command(state: &State, terms: &Terms, lost: &[bool], programs: usize) -> Orders {
    let mut orders = Orders::new(&state.words, lost, &state.orders, terms.on_loss, programs);
    if orders.start_unix_ns.is_none() && orders.loaded == terms.names.len() {
        orders.start_unix_ns = Some(unix_ns(SystemTime::now() + MARGIN));
    }
    orders
}

/// What the first host says, or what follows from its silence.
fn obey(state: &State, lost: bool, on_loss: OnLoss) -> Orders {
    let first = state.words[0].as_ref();
    let mut orders = first
        .and_then(|word| word.orders.clone())
        .unwrap_or_else(|| state.orders.clone());
    if let Some(word) = first.filter(|w| w.phase == Phase::Failed) {
        let error = word.error.as_deref().unwrap_or("gave up");
        orders
            .stop
            .get_or_insert_with(|| format!("{}: {error}", word.host));
    }
    if lost {
        orders.lost.push(0);
        let host = first.map_or("the first host", |word| word.host.as_str());
        if on_loss == OnLoss::End {
            orders
                .stop
                .get_or_insert_with(|| format!("{host} fell silent"));
        }
    }
    orders
}
