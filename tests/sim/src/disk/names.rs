//! The directory tree: what programs see, what the medium holds, and the changes between the two.

use super::inode::Decision;
use crate::rng::Rng;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Dir,
    File(u64),
}

/// By text: comparing paths part by part is most of what looking names up costs.
type Tree = BTreeMap<String, Entry>;

/// A change of names that is not yet durable. It happens wholly or not at all.
#[derive(Clone, Debug)]
struct Change {
    sets: Vec<(String, Option<Entry>)>,
}

/// A path as a key.
fn text(path: &Path) -> &str {
    path.to_str()
        .expect("paths of the simulated world are UTF-8")
}

/// The directory a name stands in; `None` for the root.
fn parent(name: &str) -> Option<&str> {
    match name.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

impl Change {
    fn touches(&self, directory: &str) -> bool {
        self.sets
            .iter()
            .any(|(name, _)| parent(name) == Some(directory))
    }

    fn apply(&self, tree: &mut Tree) {
        for (name, entry) in &self.sets {
            match entry {
                Some(entry) => tree.insert(name.clone(), *entry),
                None => tree.remove(name),
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
pub(crate) fn clean(path: &Path) -> Cow<'_, Path> {
    let names = text(path).strip_prefix('/');
    let is_plain = |name: &str| !matches!(name, "" | "." | "..");
    if names.is_some_and(|names| names.split('/').all(is_plain)) {
        return Cow::Borrowed(path);
    }
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
    Cow::Owned(out)
}

impl Names {
    pub(crate) fn get(&self, path: &Path) -> Option<Entry> {
        if path == Path::new("/") {
            Some(Entry::Dir)
        } else {
            self.live.get(text(path)).copied()
        }
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.get(path) == Some(Entry::Dir)
    }

    /// Entries directly under a directory.
    pub(crate) fn children(&self, directory: &Path) -> Vec<(PathBuf, Entry)> {
        self.within(directory)
            .filter(|(name, _)| parent(name) == Some(text(directory)))
            .map(|(name, entry)| (PathBuf::from(name), entry))
            .collect()
    }

    /// All entries under a directory, in order.
    pub(crate) fn below(&self, directory: &Path) -> Vec<(PathBuf, Entry)> {
        self.within(directory)
            .map(|(name, entry)| (PathBuf::from(name), entry))
            .collect()
    }

    fn within(&self, directory: &Path) -> impl Iterator<Item = (&str, Entry)> {
        let mut start = text(directory).to_owned();
        if !start.ends_with('/') {
            start.push('/');
        }
        self.live
            .range(start.clone()..)
            .take_while(move |(name, _)| name.starts_with(&start))
            .map(|(name, entry)| (name.as_str(), *entry))
    }

    /// Changes names atomically; durable only after [`Names::sync_dir`].
    pub(crate) fn change(&mut self, sets: Vec<(PathBuf, Option<Entry>)>) {
        self.version += 1;
        let sets = sets.into_iter();
        let sets = sets.map(|(path, entry)| (text(&path).to_owned(), entry));
        let change = Change {
            sets: sets.collect(),
        };
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
        self.durable.get(text(path)).copied()
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
        let directory = text(directory);
        let mut names = BTreeSet::new();
        let mut flush = vec![false; self.unsynced.len()];
        for (place, change) in self.unsynced.iter().enumerate().rev() {
            let mut built_upon = change.sets.iter();
            if change.touches(directory)
                || built_upon.any(|(name, _)| names.contains(name.as_str()))
            {
                flush[place] = true;
                names.extend(change.sets.iter().map(|(name, _)| name.as_str()));
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
        let directory = text(directory);
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
        for name in self.durable.keys() {
            let mut above = parent(name);
            while let Some(directory) = above.filter(|directory| *directory != "/") {
                if !self.durable.contains_key(directory) {
                    missing.insert(directory.to_owned());
                }
                above = parent(directory);
            }
        }
        self.durable
            .extend(missing.into_iter().map(|name| (name, Entry::Dir)));
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
        self.live.iter().filter_map(|(name, entry)| match entry {
            Entry::File(inode) => Some((Path::new(name.as_str()), *inode)),
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
