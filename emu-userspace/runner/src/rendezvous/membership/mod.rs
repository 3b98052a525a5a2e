//! This host among the others: its word, kept fresh by a thread that listens to the
//! others'.
mod listen;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::beneath::Folder;

use super::{
    FOLDER, FleetError, Here, Luggage, Orders, Phase, Terms, There, Word,
    clock::{self, Server},
    orders::Watch,
};

/// Time between two looks at the others' words.
const LOOK: Duration = Duration::from_millis(250);

/// This host among the others. Dropped without [`Fleet::finish`], it has given up.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _clock: Option<Server>,
}

#[derive(Debug)]
struct Shared {
    terms: Terms,
    /// The folder that all share.
    folder: Folder,
    /// The folder of the words in it.
    meet: Folder,
    programs: usize,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// This host's word.
    own: Word,
    /// Whether it has changed since it was said.
    dirty: bool,
    /// The words of all, as far as this host reads them.
    words: Vec<Option<Word>>,
    watches: Vec<Watch>,
    /// What the one in command says.
    orders: Orders,
    /// Why words cannot be said.
    trouble: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// Takes this host's place in the shared folder.
    ///
    /// # Errors
    /// [`FleetError::Taken`], [`FleetError::System`].
    pub fn join(terms: Terms, luggage: Luggage) -> Result<Self, FleetError> {
        // Without one, offsets are not known: nothing else needs it.
        let clock = (terms.rank == 0).then(|| Server::start().ok()).flatten();
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = Word {
            host: terms.names.get(terms.rank).cloned().unwrap_or_default(),
            rank: terms.rank,
            size: terms.names.len(),
            digest: terms.digest.clone(),
            machine: machine.trim().to_owned(),
            clock: clock
                .iter()
                .flat_map(|c| places(&luggage.addresses, c.port()))
                .collect(),
            seed: luggage.seed,
            interface: luggage.interface,
            addresses: luggage.addresses,
            beat: 1,
            ..Word::default()
        };
        let make = || FleetError::system(format!("make {}", terms.folder.display()));
        let (folder, _) = Folder::make(&terms.folder).map_err(make())?;
        let meet = folder.make_folder(FOLDER).map_err(make())?;
        own.claim(&meet)?;
        let size = terms.names.len();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                own,
                words: vec![None; size],
                watches: vec![Watch::default(); size],
                ..State::default()
            }),
            terms,
            folder,
            meet,
            programs: luggage.programs,
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let keeper = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("fleet".to_owned())
            .spawn(move || listen::keep(&keeper))
            .map_err(FleetError::system("start the thread of the fleet"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _clock: clock,
        })
    }

    /// The folder that all hosts share.
    pub fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    /// Waits until all hosts are there and returns their words; `interrupted` ends
    /// that early, with none.
    ///
    /// # Errors
    /// [`FleetError::Missing`] with the names of those that are not, or what is wrong
    /// with one that is.
    pub fn gather(&self, interrupted: &dyn Fn() -> bool) -> Result<Option<Vec<Word>>, FleetError> {
        let deadline = Instant::now() + self.shared.terms.within;
        let size = self.shared.terms.names.len();
        loop {
            // All of them once, also on hosts that later listen to the first alone.
            let words: Vec<Option<Word>> = (0..size)
                .map(|rank| Word::hear(&self.shared.meet, rank))
                .collect();
            self.compare(&words)?;
            let found: Vec<Word> = words.into_iter().flatten().collect();
            if found.len() == size {
                return Ok(Some(found));
            }
            if interrupted() {
                return Ok(None);
            }
            self.check_stop()?;
            if Instant::now() >= deadline {
                let here: BTreeSet<usize> = found.iter().map(|w| w.rank).collect();
                return Err(self.missing("there", |rank| here.contains(&rank)));
            }
            thread::sleep(LOOK);
        }
    }

    /// All must run the same.
    fn compare(&self, words: &[Option<Word>]) -> Result<(), FleetError> {
        let own = self.shared.state().own.clone();
        let differs = |what: &'static str, other: &Word| FleetError::Different {
            host: own.host.clone(),
            what,
            other: other.host.clone(),
        };
        for word in words.iter().flatten() {
            if word.size != own.size {
                return Err(differs("with another number of hosts", word));
            }
            if word.digest != own.digest {
                return Err(differs("another experiment or topology", word));
            }
            if let (Phase::Failed, Some(error)) = (word.phase, &word.error) {
                return Err(FleetError::Failed {
                    host: word.host.clone(),
                    error: error.clone(),
                });
            }
        }
        Ok(())
    }

    fn missing(&self, state: &'static str, is_well: impl Fn(usize) -> bool) -> FleetError {
        let names = self.shared.terms.names.iter().enumerate();
        FleetError::Missing {
            missing: names
                .filter(|(rank, _)| !is_well(*rank))
                .map(|(_, name)| name.clone())
                .collect(),
            state,
            within: self.shared.terms.within,
            folder: self.shared.terms.folder.clone(),
        }
    }

    /// Compares this host's clock with the first one's, and tells.
    pub fn compare_clocks(&self, first: &Word) {
        if self.shared.terms.rank > 0 {
            let offset = clock::ask(&first.clock);
            self.change(|word| word.offset = offset);
        }
    }

    /// Says that this host could start; [`Fleet::start`] then tells when all do.
    pub fn loaded(&self) {
        self.change(|word| word.phase = Phase::Loaded);
    }

    /// When all start, by this host's clock; none as long as that is not known.
    ///
    /// # Errors
    /// What keeps the others from starting; `waited` is how long they have had.
    pub fn start(&self, waited: Duration) -> Result<Option<SystemTime>, FleetError> {
        self.check_stop()?;
        let state = self.shared.state();
        let lost: Vec<String> = self.lost(&state.orders);
        if !lost.is_empty() {
            return Err(FleetError::Lost { lost });
        }
        if let Some(start_ns) = state.orders.start_unix_ns {
            let ahead = state.own.offset.map_or(0, |o| o.ahead_ns);
            let start = SystemTime::UNIX_EPOCH
                + Duration::from_nanos(start_ns.saturating_add_signed(ahead));
            return Ok(Some(start));
        }
        drop(state);
        if waited < self.shared.terms.within {
            return Ok(None);
        }
        let words =
            (0..self.shared.terms.names.len()).map(|rank| Word::hear(&self.shared.meet, rank));
        let loaded: Vec<bool> = words
            .map(|w| w.is_some_and(|w| w.phase >= Phase::Loaded))
            .collect();
        Err(self.missing("loaded", |rank| loaded[rank]))
    }

    fn check_stop(&self) -> Result<(), FleetError> {
        match self.there().stop {
            Some(stop) => {
                let (host, error) = stop.split_once(": ").unwrap_or(("a host", &stop));
                Err(FleetError::Failed {
                    host: host.to_owned(),
                    error: error.to_owned(),
                })
            }
            None => Ok(()),
        }
    }

    /// Tells the others how this host stands, from the start on. Never blocks on
    /// the shared folder.
    pub fn tell(&self, here: &Here) {
        self.change(|word| {
            let phase = if here.over {
                Phase::Over
            } else {
                Phase::Running
            };
            word.phase = word.phase.max(phase);
            word.ready.clone_from(&here.ready);
            word.failed = here.failed;
            word.stop.clone_from(&here.stop);
        });
    }

    /// How all stand. Never blocks on the shared folder.
    pub fn there(&self) -> There {
        let state = self.shared.state();
        let orders = &state.orders;
        let given_up = orders.lost.contains(&self.shared.terms.rank);
        There {
            ready: orders.ready.clone(),
            failed: orders.failed,
            over: orders.over,
            lost: self.lost(orders),
            stop: (orders.stop.clone())
                .or_else(|| given_up.then(|| "the other hosts have given this one up".to_owned()))
                .or_else(|| state.trouble.clone()),
        }
    }

    fn lost(&self, orders: &Orders) -> Vec<String> {
        let names = &self.shared.terms.names;
        let names = orders.lost.iter().filter_map(|rank| names.get(*rank));
        names.cloned().collect()
    }

    /// Whether this is the first host that lives: it puts the results together.
    pub fn leads(&self) -> bool {
        let orders = &self.shared.state().orders;
        (0..self.shared.terms.rank).all(|rank| orders.lost.contains(&rank))
    }

    /// Says that this host's results are written, or that it gave up and why, and
    /// ends. The one that leads, before that, waits for the others to be through,
    /// for `patience` at most. Returns the last words of all.
    pub fn finish(mut self, error: Option<String>, patience: Duration) -> Vec<Word> {
        let gave_up = error.is_some();
        self.change(|word| {
            word.phase = if gave_up { Phase::Failed } else { Phase::Done };
            word.error = error;
        });
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + patience;
        if self.leads() && !gave_up {
            let mut state = shared.state();
            let through = |state: &State| {
                state.words.iter().enumerate().all(|(rank, word)| {
                    state.orders.lost.contains(&rank)
                        || word.as_ref().is_some_and(|w| w.phase >= Phase::Done)
                })
            };
            while !through(&state) && Instant::now() < deadline {
                let waited = shared.changed.wait_timeout(state, LOOK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        self.end();
        let size = shared.terms.names.len();
        (0..size)
            .filter_map(|r| Word::hear(&shared.meet, r))
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Word)) {
        let mut state = self.shared.state();
        let before = state.own.clone();
        change(&mut state.own);
        state.dirty |= state.own != before;
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.change(|word| {
                word.phase = Phase::Failed;
                word.error.get_or_insert_with(|| "gave up".to_owned());
            });
            self.end();
        }
    }
}

/// Where a clock can be asked for: at this host's addresses, and on the host itself.
fn places(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let own = addresses.iter().map(|a| SocketAddr::new(*a, port));
    own.chain([SocketAddr::from(([127, 0, 0, 1], port))])
        .collect()
}

#[cfg(test)]
mod tests;
