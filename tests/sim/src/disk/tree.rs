//! What opening, renaming, removing and locking do to the tree and its files.

use super::inode::Inode;
use super::names::Entry;
use super::op::Reply;
use super::state::{DiskState, eio, fail, full, missing};
use crate::node::NodeId;
use hadal_env::{Create, DirEntry, OpenOptions};
use std::io;
use std::path::Path;

impl DiskState {
    pub(super) fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::Dir) => Err(fail(io::ErrorKind::IsADirectory, "is a directory")),
            Some(Entry::File(_)) if options.create == Create::New => {
                Err(fail(io::ErrorKind::AlreadyExists, "file exists"))
            }
            Some(Entry::File(inode)) => {
                self.inode(inode)?.opens += 1;
                Ok(inode)
            }
            None if options.create == Create::No => Err(missing()),
            None => {
                let inode = self.create_file(path)?;
                self.inode(inode)?.opens += 1;
                Ok(inode)
            }
        }
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        if !path
            .parent()
            .is_some_and(|parent| self.names.is_dir(parent))
        {
            return Err(missing());
        }
        if self.used >= self.config.capacity {
            return Err(full());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::linked());
        self.names
            .change(vec![(path.to_path_buf(), Some(Entry::File(inode)))]);
        Ok(inode)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<Reply> {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for directory in above {
            match self.names.get(directory) {
                Some(Entry::Dir) => {}
                Some(Entry::File(_)) => {
                    return Err(fail(io::ErrorKind::NotADirectory, "not a directory"));
                }
                None => self.names.create_dir_durably(directory),
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn read_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        if !self.names.is_dir(path) {
            return Err(missing());
        }
        let mut entries = Vec::new();
        for (child, entry) in self.names.children(path) {
            let name = child
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            let (is_dir, length) = match entry {
                Entry::Dir => (true, 0),
                Entry::File(inode) => (false, self.inode(inode)?.live.length()),
            };
            entries.push(DirEntry {
                name,
                is_dir,
                length,
            });
        }
        entries.sort();
        Ok(entries)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<Reply> {
        let entry = self.names.get(from).ok_or_else(missing)?;
        if !to.parent().is_some_and(|parent| self.names.is_dir(parent)) {
            return Err(missing());
        }
        if from == to {
            return Ok(Reply::Done);
        }
        if self.names.is_dir(to) {
            return Err(fail(io::ErrorKind::IsADirectory, "is a directory"));
        }
        let mut sets = vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(entry))];
        if entry == Entry::Dir {
            if to.starts_with(from) {
                return Err(fail(
                    io::ErrorKind::InvalidInput,
                    "a directory cannot move below itself",
                ));
            }
            for (path, entry) in self.names.below(from) {
                let Ok(rest) = path.strip_prefix(from) else {
                    continue;
                };
                sets.push((to.join(rest), Some(entry)));
                sets.push((path, None));
            }
        }
        if let Some(Entry::File(replaced)) = self.names.get(to) {
            self.unlink(replaced);
        }
        self.names.change(sets);
        Ok(Reply::Done)
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<Reply> {
        match self.names.get(path) {
            None => Err(missing()),
            Some(Entry::Dir) => Err(fail(io::ErrorKind::IsADirectory, "is a directory")),
            Some(Entry::File(inode)) => {
                self.names.change(vec![(path.to_path_buf(), None)]);
                self.unlink(inode);
                Ok(Reply::Done)
            }
        }
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<Reply> {
        if !self.names.is_dir(path) || path == Path::new("/") {
            return Err(missing());
        }
        // Each name goes by itself: a crash can leave any part of the tree.
        for (path, entry) in self.names.below(path).into_iter().rev() {
            self.names.change(vec![(path, None)]);
            if let Entry::File(inode) = entry {
                self.unlink(inode);
            }
        }
        self.names.change(vec![(path.to_path_buf(), None)]);
        Ok(Reply::Done)
    }

    pub(super) fn unlink(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode) {
            entry.linked = false;
        }
        self.discharge(inode);
        self.removals += 1;
        if self.removals >= 256 {
            self.sweep();
        }
    }

    pub(super) fn discharge(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode)
            && entry.charged
            && !entry.is_open_or_linked()
        {
            entry.charged = false;
            self.used -= entry.live.length();
        }
    }

    pub(super) fn close(&mut self, inode: u64) {
        if let Some(entry) = self.inodes.get_mut(&inode) {
            entry.opens = entry.opens.saturating_sub(1);
        }
        self.discharge(inode);
    }

    /// Forgets files nothing refers to.
    pub(super) fn sweep(&mut self) {
        self.removals = 0;
        let referenced = self.names.referenced();
        self.inodes
            .retain(|inode, entry| entry.is_open_or_linked() || referenced.contains(inode));
    }

    pub(super) fn lock(&mut self, path: &Path, by: (NodeId, u32)) -> io::Result<Reply> {
        if self.dead {
            return Err(eio("the disk is dead"));
        }
        if self.names.get(path).is_none() {
            self.create_file(path)?;
        }
        if self.locks.contains_key(path) && !self.omissions.lock {
            return Err(fail(
                io::ErrorKind::WouldBlock,
                "another process holds the lock",
            ));
        }
        self.locks.insert(path.to_path_buf(), by);
        Ok(Reply::Locked(path.to_path_buf()))
    }

    pub(super) fn unlock(&mut self, path: &Path, by: (NodeId, u32)) {
        if self.locks.get(path) == Some(&by) {
            self.locks.remove(path);
        }
    }
}
