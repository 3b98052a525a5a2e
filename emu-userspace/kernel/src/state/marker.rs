//! The marker of a change in place, by which the next load recognises an interrupted one.
use std::{fs, time::Duration};

use super::{StateDir, StateError, WriterLock, file_error, is_there, private};

/// Name of the marker file that exists while the maps are changed in place.
const CHANGING: &str = "changing";
/// Its content if no vnode is added or removed.
const SETTINGS: &str = "settings";

impl StateDir {
    /// Creates the marker for a change in place: if this process ends before
    /// [`StateDir::changed`], the next load is a full reload, unless only `settings` are
    /// changed, which can be repeated.
    pub fn changing(&self, _lock: &WriterLock, settings: bool) -> Result<(), StateError> {
        let path = self.path.join(CHANGING);
        let text = if settings { SETTINGS } else { "" };
        private::replace(&path, text.as_bytes()).map_err(file_error("write", &path))
    }

    /// Whether an interrupted change in place can be repeated, because it adds and removes no
    /// vnode.
    pub fn can_change_again(&self) -> bool {
        fs::read_to_string(self.path.join(CHANGING)).is_ok_and(|text| text == SETTINGS)
    }

    /// Removes the marker of [`StateDir::changing`].
    pub fn changed(&self, _lock: &WriterLock) -> Result<(), StateError> {
        let path = self.path.join(CHANGING);
        fs::remove_file(&path).map_err(file_error("remove", &path))
    }

    /// Whether the marker of [`StateDir::changing`] exists.
    pub fn is_half_changed(&self) -> bool {
        is_there(&self.path.join(CHANGING))
    }

    /// Age of the marker.
    pub fn changing_since(&self) -> Option<Duration> {
        let made = fs::metadata(self.path.join(CHANGING)).and_then(|m| m.modified());
        made.ok()?.elapsed().ok()
    }
}
