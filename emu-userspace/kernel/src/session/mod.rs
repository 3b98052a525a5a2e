//! Loads, finds and unloads an emulated network: the interface for the command and other
//! programs.
mod compare;
mod error;
mod loaded;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use emu_model::plan::Plan;

pub use compare::{How, preview};
pub use error::SessionError;
pub use loaded::Loaded;

use crate::{
    apply, bpf,
    error::ApplyError,
    netns::Netns,
    reload::{self, Reload},
    repair,
    sockets::{self, BoundSocket},
    state::{Holder, State, StateDir, StateError, WriterLock},
    undo::{self, Processes},
};
use compare::{Change, Comparison, compare};
use loaded::plan_text;

/// How far a change in place came before it failed.
enum Failed {
    /// Nothing was changed.
    Before(SessionError),
    /// Some settings are the new ones, and others are not.
    Amid(SessionError),
}

/// The only writer of a network namespace.
pub struct Session {
    pub(crate) dir: StateDir,
    pub(crate) lock: WriterLock,
}

impl Session {
    /// Takes the lock of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another process is changing it.
    pub fn open() -> Result<Self, SessionError> {
        let dir = StateDir::here()?;
        let lock = dir.lock()?;
        Ok(Self { dir, lock })
    }

    /// Like [`Session::open`], for `unload --kill`: if another process keeps the lock, ends
    /// all processes of vnodes and then those that hold it. Returns the latter.
    ///
    /// # Errors
    /// [`StateError::Locked`] if the holder is not visible from here.
    pub fn seize() -> Result<(Self, Vec<Holder>), SessionError> {
        let dir = StateDir::here()?;
        let (lock, killed) = match dir.lock() {
            Err(StateError::Locked { .. }) => {
                undo::kill_processes(&dir)?;
                dir.seize()?
            }
            other => (other?, Vec::new()),
        };
        Ok((Self { dir, lock }, killed))
    }

    /// Loads a plan: in place if that is possible, otherwise as a full reload. If that fails,
    /// the previous plan is loaded again.
    ///
    /// `text` is the topology's source, kept for later commands.
    ///
    /// # Errors
    /// Why the new plan could not be loaded.
    pub fn load(&self, plan: &Plan, file: &Path, text: &str) -> Result<How, SessionError> {
        tracing::info!(topology = %file.display(), vnodes = plan.vnodes.len(), "loading");
        let put_back = self.repair();
        let because = match compare(&self.dir, plan)? {
            Comparison::Nothing => None,
            Comparison::FullReload(because) => Some(because),
            Comparison::InPlace(change) => match self.change(*change, file, text) {
                Ok(mut how) => {
                    if let How::InPlace { repaired, .. } = &mut how {
                        *repaired = put_back;
                    }
                    return Ok(how);
                }
                // Nothing was changed, so there is nothing that a full reload would mend.
                Err(Failed::Before(error)) => return Err(error),
                Err(Failed::Amid(error)) => Some(format!("the change in place failed ({error})")),
            },
        };
        tracing::info!(
            reason = because.as_deref().unwrap_or("nothing is loaded"),
            "full reload"
        );
        self.load_full(plan, file, text)?;
        Ok(How::FullReload { because })
    }

    /// Restores what somebody took away from the load, as far as single objects can be;
    /// returns what was missing. What cannot be read or restored is left to the comparison
    /// that follows.
    fn repair(&self) -> Vec<String> {
        let Ok(Some((state, text))) = self.dir.loaded() else {
            return Vec::new();
        };
        if state.object != bpf::object_mark() {
            return Vec::new();
        }
        let Ok(loaded) = Loaded::from_state(state, &text) else {
            return Vec::new();
        };
        repair::repair(&loaded.plan, &loaded.state, &self.dir, &self.lock).unwrap_or_default()
    }

    /// Unloads whatever is loaded, then loads a plan.
    pub fn load_full(&self, plan: &Plan, file: &Path, text: &str) -> Result<State, SessionError> {
        let before = self.dir.loaded().ok().flatten();
        apply::load(plan, file, text, &self.dir, &self.lock).map_err(|error| {
            let undone = !self.dir.exists();
            if let Some((state, text)) = before.filter(|_| undone)
                && let Ok((_, plan)) = plan_text(&text, &state)
            {
                // The error to report is the first one.
                let _ = apply::load(&plan, &state.topology, &text, &self.dir, &self.lock);
            }
            SessionError::Apply(Box::new(error))
        })
    }

    fn change(&self, change: Change, file: &Path, text: &str) -> Result<How, Failed> {
        let Change {
            loaded,
            mut maps,
            plan,
            diff,
            fq,
        } = change;
        let how = How::in_place(&diff);
        tracing::info!(?how, "changing in place");
        let settings = diff.added.is_empty() && diff.removed.is_empty();
        let state = State {
            topology: file.to_owned(),
            loaded_at_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            seed: plan.seed,
            size: plan.size,
            slots: diff.slots.clone(),
            fq: Some(fq.clone()),
            ..loaded.state.clone()
        };
        // All that can fail for want of room happens before the first change.
        let before = |error: StateError| Failed::Before(error.into());
        let staged = self.dir.stage(&self.lock, &state, text).map_err(before)?;
        // After an interrupted change of vnodes, writing the settings again is not enough.
        self.dir.changing(&self.lock, settings).map_err(before)?;
        let amid = |error: ApplyError| Failed::Amid(Box::new(error).into());
        if &fq != loaded.fq() {
            reload::resize_fq(&plan, &fq).map_err(amid)?;
        }
        let reload = Reload {
            dir: &self.dir,
            lock: &self.lock,
            old: &loaded.plan,
            new: &plan,
            diff: &diff,
        };
        reload.apply(&mut maps).map_err(amid)?;
        let amid = |error: StateError| Failed::Amid(error.into());
        staged.commit().map_err(amid)?;
        self.dir.changed(&self.lock).map_err(amid)?;
        Ok(how)
    }

    /// Stores a state that differs from the one on disk in its settings of fq.
    pub(crate) fn update(&self, state: &State) -> Result<(), SessionError> {
        Ok(self.dir.update(&self.lock, state)?)
    }

    /// Checks that the maps match one plan: this process holds the lock, so a change in place
    /// with a marker was interrupted.
    pub(crate) fn check_whole(&self) -> Result<(), SessionError> {
        if self.dir.is_half_changed() {
            return Err(SessionError::Interrupted);
        }
        Ok(())
    }

    /// Sockets that are bound to addresses that would go away: with an unload, or with a load of
    /// `next`. With an unload those of vnodes' processes do not count, see [`Processes`].
    ///
    /// # Errors
    /// [`SessionError`] if the journal or the kernel's tables cannot be read.
    pub fn sockets_in_the_way(
        &self,
        next: Option<&Plan>,
    ) -> Result<Vec<BoundSocket>, SessionError> {
        let journal = self.dir.journal()?;
        let stay: BTreeSet<IpAddr> = next.map_or_else(BTreeSet::new, |plan| {
            plan.vnodes.iter().map(|v| v.address).collect()
        });
        let goes = |address| !stay.contains(&address) && undo::takes_away(&journal, address);
        let mut sockets = sockets::bound(goes).map_err(SessionError::Sockets)?;
        if next.is_none() {
            let processes = undo::processes(&journal);
            let is_vnodes = |(id, _): &(i32, String)| processes.contains(id);
            sockets.retain(|s| s.owners.is_empty() || !s.owners.iter().all(is_vnodes));
        }
        Ok(sockets)
    }

    /// Undoes everything; returns whether there was anything.
    ///
    /// # Errors
    /// [`UndoError`](undo::UndoError); its variant `Busy`, with nothing changed, if processes of
    /// vnodes are running and are not to be killed.
    pub fn unload(&self, processes: Processes) -> Result<bool, SessionError> {
        Ok(undo::unload(&self.dir, &self.lock, processes)? > 0)
    }

    /// Removes the objects of emu in this namespace that no journal tells of, as far as they
    /// can be recognised; returns what was removed.
    ///
    /// # Errors
    /// [`UndoError`](undo::UndoError).
    pub fn sweep(&self) -> Result<Vec<String>, SessionError> {
        Ok(undo::sweep_unknown(&self.dir, &self.lock)?)
    }

    /// Removes the namespace if a load made it under this name and nothing is loaded in it.
    /// Returns whether it did.
    pub fn remove_netns(self, netns: &Netns) -> Result<bool, SessionError> {
        if self.dir.exists() || !netns.remove_if_made(&self.dir, &self.lock)? {
            return Ok(false);
        }
        self.dir.remove_agent_record();
        self.dir.remove_lock(self.lock);
        Ok(true)
    }
}
