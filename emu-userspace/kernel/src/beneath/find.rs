//! Files below a folder whose names match a pattern.
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::{FileKind, Folder, MOST_DEPTH};

/// Largest number of entries that one search reads.
const MOST_ENTRIES: usize = 1_000_000;

/// A search in progress.
struct Search<'a> {
    matches: &'a dyn Fn(&str, &OsString) -> bool,
    found: BTreeSet<PathBuf>,
    left: usize,
}

impl Folder {
    /// Regular files below the folder whose paths match a pattern, name by name: `**`
    /// is any number of folders, and `matches` compares one name with one part of the
    /// pattern. Links are not followed, and what cannot be opened has no files.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] when a program has left more than a million
    /// entries where the pattern leads.
    pub fn find(
        &self,
        pattern: &str,
        matches: &dyn Fn(&str, &OsString) -> bool,
    ) -> io::Result<Vec<PathBuf>> {
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let mut search = Search {
            matches,
            found: BTreeSet::new(),
            left: MOST_ENTRIES,
        };
        search.look(self, Path::new(""), &parts)?;
        Ok(search.found.into_iter().collect())
    }
}

impl Search<'_> {
    fn look(&mut self, folder: &Folder, below: &Path, parts: &[&str]) -> io::Result<()> {
        let Some((first, rest)) = parts.split_first() else {
            return Ok(());
        };
        if below.components().count() > MOST_DEPTH {
            return Ok(());
        }
        if *first == "**" {
            self.look(folder, below, rest)?;
        }
        let Ok(entries) = folder.entries() else {
            return Ok(());
        };
        for (name, kind) in entries {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or(io::ErrorKind::FileTooLarge)?;
            let here = below.join(&name);
            let deeper = *first == "**";
            let alike = !deeper && (self.matches)(first, &name);
            match kind {
                FileKind::Folder if deeper || (alike && !rest.is_empty()) => {
                    let parts = if deeper { parts } else { rest };
                    if let Ok(folder) = folder.child(&name) {
                        self.look(&folder, &here, parts)?;
                    }
                }
                // A final `**` also matches any file.
                FileKind::File if rest.is_empty() && (alike || deeper) => {
                    self.found.insert(here);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
