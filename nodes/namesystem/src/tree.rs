//! The inode tree. Reading it is free for all; it changes in [`crate::apply`] only.

use crate::children::Children;
use crate::inode::{Body, Inode};
use crate::inode_page::{InodeMut, InodePage, InodeRef};
use crate::owners::Owners;
use crate::radix::{Radix, slot};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hadal_types::InodeId;

/// How much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) directories: u64,
    pub(crate) files: u64,
    pub(crate) blocks: u64,
}

impl Counts {
    /// Adds what others counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.directories += other.directories;
        self.files += other.files;
        self.blocks += other.blocks;
    }
}

/// All inodes. A clone is a point-in-time view that shares what is not written afterwards.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    inodes: Radix<InodePage>,
    owners: Arc<Owners>,
    pub(crate) counts: Counts,
}

/// An inode that was found.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) id: InodeId,
    pub(crate) inode: InodeRef<'a>,
    pub(crate) name: &'a str,
}

impl Tree {
    /// A tree of just the root directory.
    pub(crate) fn with_root(owner: &str, group: &str, permission: u16, time_ms: u64) -> Self {
        let mut tree = Self::default();
        let owner = tree.intern(owner, group);
        let root = Inode::new(permission, owner, time_ms, Body::Directory);
        tree.place(InodeId::ROOT, "", root);
        tree
    }

    /// The inode of that id.
    pub(crate) fn get(&self, id: InodeId) -> Option<Entry<'_>> {
        let (inode, name) = self.inodes.page(id.0)?.get(slot(id.0))?;
        Some(Entry { id, inode, name })
    }

    /// The root directory.
    pub(crate) fn root(&self) -> Entry<'_> {
        self.get(InodeId::ROOT).expect("the root always exists")
    }

    /// The inode of that id, to change.
    ///
    /// # Panics
    /// When there is none: an impossible edit.
    pub(crate) fn get_mut(&mut self, id: InodeId) -> InodeMut<'_> {
        self.inodes
            .page_mut(id.0)
            .and_then(|page| page.get_mut(slot(id.0)))
            .unwrap_or_else(|| panic!("inode {id} does not exist"))
    }

    fn name_bytes(&self, id: u64) -> &[u8] {
        self.inodes
            .page(id)
            .and_then(|page| page.name(slot(id)))
            .expect("children exist")
    }

    /// The entry of that name in a directory.
    pub(crate) fn child(&self, directory: InodeRef<'_>, name: &str) -> Option<Entry<'_>> {
        let id = directory
            .children()?
            .get(name.as_bytes(), |id| self.name_bytes(id))?;
        self.get(InodeId(id))
    }

    /// The entries of a directory whose names come after `name`, in name order, and how many there are.
    pub(crate) fn children_after<'a>(
        &'a self,
        directory: InodeRef<'a>,
        name: &str,
    ) -> (usize, impl Iterator<Item = Entry<'a>> + 'a) {
        let found = directory.children().map(|children| {
            let place = match children.find(name.as_bytes(), |id| self.name_bytes(id)) {
                Ok((place, _)) | Err(place) => place,
            };
            (children, place)
        });
        let left = found.map_or(0, |(children, place)| {
            children.len() - children.before(place)
        });
        // An entry of exactly that name is the first of them and not wanted.
        let skip = usize::from(!name.is_empty() && self.child(directory, name).is_some());
        let entries = found
            .into_iter()
            .flat_map(|(children, place)| children.from(place))
            .skip(skip)
            .map(|id| self.get(InodeId(id)).expect("children exist"));
        (left - skip, entries)
    }

    /// All entries of a directory in name order.
    pub(crate) fn children<'a>(
        &'a self,
        directory: InodeRef<'a>,
    ) -> impl Iterator<Item = Entry<'a>> + 'a {
        directory
            .children()
            .into_iter()
            .flat_map(Children::iter)
            .map(|id| self.get(InodeId(id)).expect("children exist"))
    }

    /// Owner and group of an inode.
    pub(crate) fn owner(&self, inode: InodeRef<'_>) -> (&str, &str) {
        self.owners
            .get(inode.owner())
            .expect("owner numbers come from the table")
    }

    /// The number of an (owner, group) pair, added when new.
    pub(crate) fn intern(&mut self, owner: &str, group: &str) -> u32 {
        match self.owners.find(owner, group) {
            Some(number) => number,
            None => Arc::make_mut(&mut self.owners).add(owner, group),
        }
    }

    /// The table of owners.
    pub(crate) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// The absolute path of an inode.
    pub(crate) fn path_of(&self, id: InodeId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while at != InodeId::ROOT {
            let Some(entry) = self.get(at) else {
                break;
            };
            names.push(entry.name);
            at = InodeId(entry.inode.parent());
        }
        if names.is_empty() {
            return String::from("/");
        }
        let mut path = String::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.into_iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// Whether `id` is `ancestor` or below it.
    pub(crate) fn is_within(&self, id: InodeId, ancestor: InodeId) -> bool {
        let mut at = id;
        loop {
            if at == ancestor {
                return true;
            }
            if at == InodeId::ROOT {
                return false;
            }
            let Some(entry) = self.get(at) else {
                return false;
            };
            at = InodeId(entry.inode.parent());
        }
    }

    /// Stores an inode without entering it into its parent (root, image load).
    pub(crate) fn place(&mut self, id: InodeId, name: &str, inode: Inode) {
        match &inode.body {
            Body::Directory => self.counts.directories += 1,
            Body::File(file) => {
                self.counts.files += 1;
                self.counts.blocks += file.blocks.as_slice().len() as u64;
            }
        }
        self.inodes
            .page_or_default(id.0)
            .insert(slot(id.0), inode, name);
    }

    /// Stores a page of inodes at the place of `id`, or adds them behind those that are there. [`Self::counts`] are the
    /// caller's.
    pub(crate) fn place_page(&mut self, id: InodeId, page: Arc<InodePage>) {
        match self.inodes.page_mut(id.0) {
            None => self.inodes.set_page(id.0, page),
            Some(before) => before.append(&page),
        }
    }

    /// The page that holds an id.
    pub(crate) fn page(&self, id: u64) -> Option<&InodePage> {
        self.inodes.page(id)
    }

    /// Gives a directory all its entries at once (image load).
    pub(crate) fn set_children(&mut self, directory: InodeId, entries: Children) {
        self.get_mut(directory).set_children(Some(entries));
    }

    /// Adds an inode below `parent`.
    ///
    /// # Panics
    /// When the parent is no directory, or the name or the id is taken: an impossible edit.
    pub(crate) fn insert(&mut self, parent: InodeId, id: InodeId, name: &str, mut inode: Inode) {
        assert!(self.get(id).is_none(), "inode {id} exists already");
        inode.parent = parent.0;
        self.place(id, name, inode);
        self.link(parent, id, name);
    }

    /// Enters an inode into a directory.
    fn link(&mut self, parent: InodeId, id: InodeId, name: &str) {
        let directory = self
            .get(parent)
            .unwrap_or_else(|| panic!("parent inode {parent} does not exist"));
        assert!(
            directory.inode.is_dir(),
            "parent inode {parent} is not a directory"
        );
        let place = directory.inode.children().map(|children| {
            match children.find(name.as_bytes(), |id| self.name_bytes(id)) {
                Err(place) => place,
                Ok((_, other)) => panic!("name {name} of {id} in {parent} is taken by {other}"),
            }
        });
        let mut directory = self.get_mut(parent);
        match place {
            Some(place) => {
                let children = directory.children().expect("a place is among some");
                children.insert(place, id.0, name.as_bytes());
            }
            None => directory.set_children(Some(Children::one(id.0, name.as_bytes()))),
        }
    }

    /// Takes an inode out of its directory; it stays in the arena. Returns the directory.
    fn unlink(&mut self, id: InodeId) -> InodeId {
        let entry = self
            .get(id)
            .unwrap_or_else(|| panic!("inode {id} does not exist"));
        assert!(id != InodeId::ROOT, "the root has no parent");
        let parent = InodeId(entry.inode.parent());
        let directory = self.get(parent).expect("parents exist");
        let (place, found) = directory
            .inode
            .children()
            .and_then(|children| {
                children
                    .find(entry.name.as_bytes(), |id| self.name_bytes(id))
                    .ok()
            })
            .expect("a parent lists its children");
        assert!(found == id.0, "a parent lists its children");
        let list = self.get_mut(parent).children();
        let list = list.expect("it holds the child");
        list.remove(place);
        if list.len() == 0 {
            self.get_mut(parent).set_children(None);
        }
        parent
    }

    /// Moves an inode to another place in the tree; the target name must be free. Returns the old parent.
    pub(crate) fn rename(&mut self, id: InodeId, to_parent: InodeId, to_name: &str) -> InodeId {
        assert!(
            !self.is_within(to_parent, id),
            "inode {id} cannot move below itself"
        );
        let from_parent = self.unlink(id);
        self.inodes
            .page_mut(id.0)
            .expect("checked by unlink")
            .rename(slot(id.0), to_name);
        self.get_mut(id).set_parent(to_parent.0);
        self.link(to_parent, id, to_name);
        from_parent
    }

    /// Removes an inode and everything below it; `removed` sees each. Returns the old parent.
    pub(crate) fn remove(
        &mut self,
        id: InodeId,
        mut removed: impl FnMut(InodeId, InodeRef<'_>),
    ) -> InodeId {
        let parent = self.unlink(id);
        let mut pending = alloc::vec![id.0];
        while let Some(id) = pending.pop() {
            let page = self.inodes.page_mut(id).expect("children exist");
            let (inode, _) = page.raw(slot(id)).expect("children exist");
            match inode.file() {
                None => {
                    self.counts.directories -= 1;
                    pending.extend(inode.children().into_iter().flat_map(Children::iter));
                }
                Some(file) => {
                    self.counts.files -= 1;
                    self.counts.blocks -= file.blocks.len() as u64;
                }
            }
            removed(InodeId(id), inode);
            page.remove(slot(id));
            self.inodes.prune(id);
        }
        parent
    }

    /// The first page of inodes that holds an id of at least `id`, with the id its first slot stands for.
    pub(crate) fn next_page(&self, id: u64) -> Option<(u64, &InodePage)> {
        self.inodes.next_page(id)
    }

    /// All inodes in the order of their ids.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut from = Some(0);
        core::iter::from_fn(move || {
            let (base, page) = self.next_page(from?)?;
            from = base.checked_add(crate::radix::PAGE_IDS);
            Some((base, page))
        })
        .flat_map(|(base, page)| {
            page.iter().map(move |(slot, inode, name)| Entry {
                id: InodeId(base + u64::from(slot)),
                inode,
                name,
            })
        })
    }

    /// Bytes of heap the tree takes, counted exactly by walking it (allocator overhead not included).
    pub(crate) fn heap_bytes(&self) -> usize {
        let mut total = 0;
        let mut from = Some(0);
        while let Some((base, page)) = from.and_then(|from| self.next_page(from)) {
            let children = page.inodes().filter_map(|(_, inode)| inode.children());
            total += page_bytes(page) + children.map(Children::heap_bytes).sum::<usize>();
            from = base.checked_add(crate::radix::PAGE_IDS);
        }
        total
    }

    /// About as many bytes as [`Self::heap_bytes`], from a few hundred pages: cheap at any size. `last` is the last inode
    /// id handed out.
    pub(crate) fn heap_bytes_about(&self, last: InodeId) -> u64 {
        let (mut bytes, mut seen, mut from) = (0, 0, 0);
        let step = (last.0 / SAMPLED_PAGES).max(crate::radix::PAGE_IDS);
        while let Some((base, page)) = self.next_page(from) {
            bytes += page_bytes(page) as u64;
            seen += page.inodes().count() as u64;
            from = base.saturating_add(step);
        }
        let inodes = self.counts.directories + self.counts.files;
        let share = u128::from(bytes) * u128::from(inodes) / u128::from(seen.max(1));
        // Directories are too different to be sampled: an entry per inode.
        u64::try_from(share)
            .unwrap_or(u64::MAX)
            .saturating_add(8 * inodes)
    }
}

/// Pages looked at for an estimate.
const SAMPLED_PAGES: u64 = 512;

/// Bytes of heap of a page, and its place in the array above it.
fn page_bytes(page: &InodePage) -> usize {
    page.heap_bytes() + size_of::<usize>()
}
