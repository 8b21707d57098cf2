//! What one client knows about its own directory, which nobody else changes.
//!
//! Names are never used twice, and what an operation with unknown outcome touched is not touched again: the
//! possible states are then known per entry, without enumerating combinations. An entry is at exactly one of its
//! possible names; at one at most when it may be absent.

use super::durability::{LastBlow, Witness};
use crate::rng::scramble;
use crate::world::Handle;
use std::collections::BTreeMap;

/// Bytes of a file: each word of eight follows from the file's number and the word's place.
pub(super) fn content(file: u64, from: u64, length: u64) -> Vec<u8> {
    let skip = (from % 8) as usize;
    let wanted = skip + length as usize;
    let mut bytes = Vec::with_capacity(wanted + 8);
    let mut word = from / 8;
    while bytes.len() < wanted {
        bytes.extend_from_slice(&scramble(file ^ scramble(word)).to_le_bytes());
        word += 1;
    }
    bytes.truncate(wanted);
    bytes.drain(..skip);
    bytes
}

/// A file as its writer knows it.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Names its content.
    pub(super) number: u64,
    /// Bytes handed to the stream.
    pub(super) written: u64,
    /// Bytes acknowledged by hflush or hsync.
    pub(super) flushed: u64,
    /// Bytes acknowledged by hsync.
    pub(super) synced: u64,
    /// Bytes a reader saw behind the flushed ones, when nothing was written any more.
    pub(super) seen: u64,
    /// Who had the bytes of the last hflush or hsync.
    pub(super) witness: Witness,
    /// The close was acknowledged.
    pub(super) closed: bool,
}

impl File {
    /// Nothing is written of it yet.
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            written: 0,
            flushed: 0,
            synced: 0,
            seen: 0,
            witness: Witness::default(),
            closed: false,
        }
    }

    /// Bytes that a reader must see if it sees any.
    pub(super) fn owed(&self, world: &Handle, blow: &LastBlow) -> u64 {
        if self.witness.owes_flushed(world, blow) {
            self.flushed
        } else if self.witness.owes_synced(blow) {
            self.synced
        } else {
            0
        }
    }

    /// Bytes that are owed once its lease is recovered.
    pub(super) fn owed_in_the_end(&self, world: &Handle, blow: &LastBlow) -> u64 {
        let owed = self.owed(world, blow);
        if self.witness.owes_seen(world, blow) {
            owed.max(self.seen)
        } else {
            owed
        }
    }
}

/// A file or directory.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    parent: Option<usize>,
    /// Possible names in the parent.
    pub(super) names: Vec<String>,
    /// `None`: a directory.
    pub(super) file: Option<File>,
    /// A creation or deletion has an unknown outcome.
    pub(super) maybe_absent: bool,
    /// Deleted, and acknowledged.
    pub(super) gone: bool,
}

/// A client's directory.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    entries: Vec<Entry>,
}

/// What a listing of the real tree says of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A directory.
    Dir,
    /// A file of that length, open or closed.
    File {
        /// Bytes.
        length: u64,
        /// Under construction.
        open: bool,
    },
}

impl Tree {
    /// The tree at `/name`, which exists.
    pub(super) fn new(name: &str) -> Self {
        let root = Entry {
            parent: None,
            names: vec![name.to_owned()],
            file: None,
            maybe_absent: false,
            gone: false,
        };
        Self {
            entries: vec![root],
        }
    }

    pub(super) fn entry(&self, id: usize) -> &Entry {
        &self.entries[id]
    }

    pub(super) fn entry_mut(&mut self, id: usize) -> &mut Entry {
        &mut self.entries[id]
    }

    pub(super) fn add(&mut self, parent: usize, name: &str, file: Option<File>) -> usize {
        self.entries.push(Entry {
            parent: Some(parent),
            names: vec![name.to_owned()],
            file,
            maybe_absent: false,
            gone: false,
        });
        self.entries.len() - 1
    }

    /// The path under the first of the possible names.
    pub(super) fn path(&self, id: usize) -> String {
        let entry = &self.entries[id];
        let parent = entry
            .parent
            .map(|parent| self.path(parent))
            .unwrap_or_default();
        format!("{parent}/{}", entry.names[0])
    }

    /// Surely there, under one known path.
    pub(super) fn is_certain(&self, id: usize) -> bool {
        let entry = &self.entries[id];
        !entry.maybe_absent
            && !entry.gone
            && entry.names.len() == 1
            && entry.parent.is_none_or(|parent| self.is_certain(parent))
    }

    /// Surely not there, although its parent is.
    pub(super) fn is_surely_gone(&self, id: usize) -> bool {
        let entry = &self.entries[id];
        entry.gone
            && entry.names.len() == 1
            && entry.parent.is_none_or(|parent| self.is_certain(parent))
    }

    /// Entries that pass `test`.
    pub(super) fn select(&self, test: impl Fn(usize, &Entry) -> bool) -> Vec<usize> {
        let all = self.entries.iter().enumerate();
        all.filter(|(id, entry)| test(*id, entry))
            .map(|(id, _)| id)
            .collect()
    }

    /// Entries in this directory.
    pub(super) fn children(&self, id: usize) -> Vec<usize> {
        self.select(|_, entry| entry.parent == Some(id))
    }

    /// Whether `id` is below `above` or the same.
    pub(super) fn is_within(&self, id: usize, above: usize) -> bool {
        id == above
            || self.entries[id]
                .parent
                .is_some_and(|parent| self.is_within(parent, above))
    }

    /// Compares the names a directory may have with those it has.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn check_listing(&self, dir: usize, names: &[String]) -> Result<(), String> {
        let mut unexplained: Vec<&String> = names.iter().collect();
        for child in self.children(dir) {
            let entry = &self.entries[child];
            let present: Vec<&String> = entry
                .names
                .iter()
                .filter(|name| names.contains(name))
                .collect();
            let least = usize::from(!entry.gone && !entry.maybe_absent);
            let most = usize::from(!entry.gone);
            if present.len() < least || present.len() > most {
                return Err(format!(
                    "{}: of the names {:?} of one entry {present:?} are there, expected {least} to {most}",
                    self.path(dir),
                    entry.names
                ));
            }
            unexplained.retain(|name| !entry.names.contains(name));
        }
        match unexplained.first() {
            None => Ok(()),
            Some(name) => Err(format!(
                "{}/{name} is there, nobody made it",
                self.path(dir)
            )),
        }
    }

    /// Compares with all that is below the root; returns the paths of the files that are there.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn check(
        &self,
        found: &BTreeMap<String, Found>,
    ) -> Result<Vec<(String, File)>, String> {
        let mut files = Vec::new();
        self.check_below(0, &self.path(0), found, &mut files)?;
        Ok(files)
    }

    fn check_below(
        &self,
        dir: usize,
        path: &str,
        found: &BTreeMap<String, Found>,
        files: &mut Vec<(String, File)>,
    ) -> Result<(), String> {
        let prefix = format!("{path}/");
        let names: Vec<String> = found
            .range(prefix.clone()..)
            .map_while(|(path, _)| path.strip_prefix(&prefix))
            .filter(|rest| !rest.contains('/'))
            .map(str::to_owned)
            .collect();
        self.check_listing(dir, &names)?;
        for child in self.children(dir) {
            let entry = &self.entries[child];
            let Some(name) = entry.names.iter().find(|name| names.contains(name)) else {
                continue;
            };
            let path = format!("{prefix}{name}");
            match (&entry.file, found[&path]) {
                (None, Found::Dir) => self.check_below(child, &path, found, files)?,
                (Some(file), Found::File { length, open }) => {
                    if file.closed && (open || length != file.written) {
                        return Err(format!(
                            "{path} was closed with {} bytes, has {length} (open: {open})",
                            file.written
                        ));
                    }
                    if length > file.written {
                        return Err(format!(
                            "{path} has {length} bytes, {} were written",
                            file.written
                        ));
                    }
                    files.push((path, file.clone()));
                }
                (_, found) => return Err(format!("{path} is of another kind: {found:?}")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{File, Found, Tree, content};
    use std::collections::BTreeMap;

    fn file() -> File {
        File {
            written: 10,
            closed: true,
            ..File::new(1)
        }
    }

    fn found(paths: &[(&str, Found)]) -> BTreeMap<String, Found> {
        paths
            .iter()
            .map(|(path, found)| ((*path).to_owned(), *found))
            .collect()
    }

    const FILE: Found = Found::File {
        length: 10,
        open: false,
    };

    #[test]
    fn content_does_not_depend_on_how_it_is_cut() {
        let whole = content(7, 0, 1000);
        for (from, length) in [(0, 1), (3, 9), (8, 8), (501, 0), (13, 987)] {
            let end = (from + length) as usize;
            assert_eq!(content(7, from, length), whole[from as usize..end]);
        }
        assert_ne!(content(8, 0, 1000), whole);
    }

    #[test]
    fn certain_entries_must_be_there_and_no_others() {
        let mut tree = Tree::new("u");
        let dir = tree.add(0, "d", None);
        tree.add(dir, "f", Some(file()));
        assert_eq!(
            tree.check(&found(&[("/u/d", Found::Dir), ("/u/d/f", FILE)]))
                .map(|files| files.len()),
            Ok(1)
        );
        assert!(tree.check(&found(&[("/u/d", Found::Dir)])).is_err());
        assert!(
            tree.check(&found(&[
                ("/u/d", Found::Dir),
                ("/u/d/f", FILE),
                ("/u/g", FILE)
            ]))
            .is_err()
        );
        assert!(
            tree.check(&found(&[("/u/d", Found::Dir), ("/u/d/f", Found::Dir)]))
                .is_err()
        );
        let short = Found::File {
            length: 9,
            open: false,
        };
        assert!(
            tree.check(&found(&[("/u/d", Found::Dir), ("/u/d/f", short)]))
                .is_err()
        );
    }

    #[test]
    fn a_rename_of_unknown_outcome_leaves_exactly_one_name() {
        let mut tree = Tree::new("u");
        let id = tree.add(0, "a", Some(file()));
        tree.entry_mut(id).names.push("b".into());
        assert!(tree.check(&found(&[("/u/a", FILE)])).is_ok());
        assert!(tree.check(&found(&[("/u/b", FILE)])).is_ok());
        assert!(
            tree.check(&found(&[("/u/a", FILE), ("/u/b", FILE)]))
                .is_err()
        );
        assert!(tree.check(&found(&[])).is_err());
        tree.entry_mut(id).maybe_absent = true;
        assert!(tree.check(&found(&[])).is_ok());
    }

    #[test]
    fn what_was_deleted_stays_deleted() {
        let mut tree = Tree::new("u");
        let id = tree.add(0, "a", Some(file()));
        tree.entry_mut(id).gone = true;
        assert!(tree.check(&found(&[])).is_ok());
        assert!(tree.check(&found(&[("/u/a", FILE)])).is_err());
    }
}
