//! The directory tree: what programs see, what the medium holds, and the changes between the two.

use super::inode::Decision;
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Dir,
    File(u64),
}

type Tree = BTreeMap<PathBuf, Entry>;

/// A change of names that is not yet durable. It happens wholly or not at all.
#[derive(Clone, Debug)]
struct Change {
    sets: Vec<(PathBuf, Option<Entry>)>,
}

impl Change {
    fn touches(&self, directory: &Path) -> bool {
        self.sets
            .iter()
            .any(|(path, _)| path.parent() == Some(directory))
    }

    fn apply(&self, tree: &mut Tree) {
        for (path, entry) in &self.sets {
            match entry {
                Some(entry) => tree.insert(path.clone(), *entry),
                None => tree.remove(path),
            };
        }
    }
}

/// All names of a disk. Paths are absolute and clean.
#[derive(Clone, Default, Debug)]
pub(crate) struct Names {
    live: Tree,
    durable: Tree,
    unsynced: Vec<Change>,
    /// Counts changes of live names.
    version: u64,
}

/// Past so many unsynced changes the file system commits the older half by itself.
const COMMIT_CHANGES: usize = 512;

/// An absolute path without `.` and `..`.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

impl Names {
    pub(crate) fn get(&self, path: &Path) -> Option<Entry> {
        if path == Path::new("/") {
            Some(Entry::Dir)
        } else {
            self.live.get(path).copied()
        }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.get(path) == Some(Entry::Dir)
    }

    /// Entries directly under a directory.
    pub(crate) fn children(&self, directory: &Path) -> Vec<(PathBuf, Entry)> {
        self.below(directory)
            .into_iter()
            .filter(|(path, _)| path.parent() == Some(directory))
            .collect()
    }

    /// All entries under a directory, in order.
    pub(crate) fn below(&self, directory: &Path) -> Vec<(PathBuf, Entry)> {
        self.live
            .range(directory.to_path_buf()..)
            .take_while(|(path, _)| path.starts_with(directory))
            .filter(|(path, _)| path.as_path() != directory)
            .map(|(path, entry)| (path.clone(), *entry))
            .collect()
    }

    /// Changes names atomically; durable only after [`Names::sync_dir`].
    pub(crate) fn change(&mut self, sets: Vec<(PathBuf, Option<Entry>)>) {
        self.version += 1;
        let change = Change { sets };
        change.apply(&mut self.live);
        self.unsynced.push(change);
        if self.unsynced.len() > COMMIT_CHANGES {
            let rest = self.unsynced.split_off(COMMIT_CHANGES / 2);
            for old in std::mem::replace(&mut self.unsynced, rest) {
                old.apply(&mut self.durable);
            }
        }
    }

    /// Another number means other live names, or a power failure.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// What the medium holds under a name.
    pub(crate) fn get_durable(&self, path: &Path) -> Option<Entry> {
        self.durable.get(path).copied()
    }

    /// Creates a directory whose name is durable at once, as `create_dir_all` promises.
    pub(crate) fn create_dir_durably(&mut self, path: &Path) {
        self.change(vec![(path.to_path_buf(), Some(Entry::Dir))]);
        if let Some(parent) = path.parent() {
            self.sync_dir(parent);
        }
    }

    /// Makes the changes in a directory durable, and those older ones they build upon.
    pub(crate) fn sync_dir(&mut self, directory: &Path) {
        let mut paths = BTreeSet::new();
        let mut flush = vec![false; self.unsynced.len()];
        for (place, change) in self.unsynced.iter().enumerate().rev() {
            if change.touches(directory) || change.sets.iter().any(|(path, _)| paths.contains(path))
            {
                flush[place] = true;
                paths.extend(change.sets.iter().map(|(path, _)| path.clone()));
            }
        }
        let mut place = 0;
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let flushed = flush[place];
            place += 1;
            if flushed {
                change.apply(durable);
            }
            !flushed
        });
    }

    /// A failed sync: some changes reached the medium, the others never will.
    pub(crate) fn sync_dir_failed(&mut self, directory: &Path, rng: &mut Rng) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            if !change.touches(directory) {
                return true;
            }
            if rng.chance(1, 2) {
                change.apply(durable);
            }
            false
        });
    }

    /// Changes a power failure could take.
    pub(crate) fn unsynced_changes(&self) -> usize {
        self.unsynced.len()
    }

    pub(crate) fn power_failure(&mut self, decision: &mut Decision<'_>) {
        self.version += 1;
        let changes = std::mem::take(&mut self.unsynced);
        let kept = decision.kept(changes.len());
        for (change, kept) in changes.into_iter().zip(kept) {
            if kept {
                change.apply(&mut self.durable);
            }
        }
        // A file whose directory's removal was kept but not its own: the directory stands.
        let mut missing = BTreeSet::new();
        for path in self.durable.keys() {
            let above = path
                .ancestors()
                .skip(1)
                .filter(|above| above.parent().is_some());
            missing.extend(
                above
                    .filter(|above| !self.durable.contains_key(*above))
                    .map(Path::to_path_buf),
            );
        }
        self.durable
            .extend(missing.into_iter().map(|path| (path, Entry::Dir)));
        self.live = self.durable.clone();
    }

    /// Every file some name (live, durable, or in an unsynced change) refers to.
    pub(crate) fn referenced(&self) -> BTreeSet<u64> {
        let entries = self.live.values().chain(self.durable.values()).copied();
        let unsynced = self
            .unsynced
            .iter()
            .flat_map(|change| change.sets.iter().filter_map(|(_, entry)| *entry));
        entries
            .chain(unsynced)
            .filter_map(|entry| match entry {
                Entry::File(inode) => Some(inode),
                Entry::Dir => None,
            })
            .collect()
    }

    /// Every live file with its name.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.live.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) => Some((path.as_path(), *inode)),
            Entry::Dir => None,
        })
    }

    /// Only what the medium holds.
    pub(crate) fn durable_only(&self) -> Self {
        Self {
            live: self.durable.clone(),
            durable: self.durable.clone(),
            unsynced: Vec::new(),
            version: self.version,
        }
    }
}
