//! Who may do what: HDFS's `FSPermissionChecker` (POSIX bits, sticky bit, superuser).

use crate::caller::Caller;
use crate::inode::STICKY;
use crate::inode_page::InodeRef;
use crate::path::Resolved;
use crate::tree::{Entry, Tree};
use alloc::format;
use alloc::string::String;
use hadal_proto::{Fault, FaultClass};

/// Read.
pub(crate) const READ: u16 = 4;
/// Write.
pub(crate) const WRITE: u16 = 2;
/// Execute: search in a directory.
pub(crate) const EXECUTE: u16 = 1;
/// Everything.
pub(crate) const ALL: u16 = 7;

/// What an operation needs; zero means nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Access {
    /// The caller must own the target.
    pub(crate) owner: bool,
    /// On the deepest existing inode above the target.
    pub(crate) ancestor: u16,
    /// On the target's parent; with [`WRITE`] the sticky bit applies.
    pub(crate) parent: u16,
    /// On the target, when it exists.
    pub(crate) target: u16,
    /// On every directory from the target down.
    pub(crate) below: u16,
    /// With `below`: directories without entries need nothing.
    pub(crate) ignore_empty: bool,
}

/// Checks callers against the tree.
#[derive(Clone, Copy)]
pub(crate) struct Checker<'a> {
    /// Where owners and modes stand.
    pub(crate) tree: &'a Tree,
    /// Who asks.
    pub(crate) caller: &'a Caller,
    /// False when permissions are off.
    pub(crate) enabled: bool,
}

impl Checker<'_> {
    fn exempt(&self) -> bool {
        !self.enabled || self.caller.superuser
    }

    fn owns(&self, inode: InodeRef<'_>) -> bool {
        self.tree.owner(inode).0 == self.caller.user
    }

    fn allows(&self, inode: InodeRef<'_>, access: u16) -> bool {
        let (owner, group) = self.tree.owner(inode);
        let bits = if owner == self.caller.user {
            inode.permission() >> 6
        } else if self.caller.is_in(group) {
            inode.permission() >> 3
        } else {
            inode.permission()
        };
        bits & access == access
    }

    fn need(&self, entry: Entry<'_>, access: u16) -> Result<(), Fault> {
        if access == 0 || self.allows(entry.inode, access) {
            return Ok(());
        }
        let (owner, group) = self.tree.owner(entry.inode);
        Err(denied(format!(
            "Permission denied: user={}, access={}, inode=\"{}\":{owner}:{group}:{}",
            self.caller.user,
            access_name(access),
            self.tree.path_of(entry.id),
            mode_text(entry.inode),
        )))
    }

    fn sticky(&self, parent: Entry<'_>, entry: Entry<'_>) -> Result<(), Fault> {
        if parent.inode.permission() & STICKY == 0
            || self.owns(parent.inode)
            || self.owns(entry.inode)
        {
            return Ok(());
        }
        let (owner, group) = self.tree.owner(entry.inode);
        let (parent_owner, parent_group) = self.tree.owner(parent.inode);
        Err(denied(format!(
            "Permission denied by sticky bit: user={}, path=\"{}\":{owner}:{group}:{}, parent=\"{}\":{parent_owner}:{parent_group}:{}",
            self.caller.user,
            self.tree.path_of(entry.id),
            mode_text(entry.inode),
            self.tree.path_of(parent.id),
            mode_text(parent.inode),
        )))
    }

    /// Search permission on every directory above the target; a file among them is an error for everyone.
    pub(crate) fn traverse(&self, resolved: &Resolved<'_, '_>) -> Result<(), Fault> {
        let above = resolved.entries.len().min(resolved.components.len());
        for (depth, entry) in resolved.entries[..above].iter().enumerate() {
            if !entry.inode.is_dir() {
                return Err(Fault::new(
                    FaultClass::ParentNotDirectory,
                    format!("{} (is not a directory)", resolved.prefix(depth)),
                ));
            }
            if !self.exempt() {
                self.need(*entry, EXECUTE)?;
            }
        }
        Ok(())
    }

    /// Everything an operation needs, in HDFS's order, traversal included.
    pub(crate) fn check(&self, resolved: &Resolved<'_, '_>, access: Access) -> Result<(), Fault> {
        self.traverse(resolved)?;
        if self.exempt() {
            return Ok(());
        }
        let (target, parent) = (resolved.target(), resolved.parent());
        if access.parent & WRITE != 0
            && let (Some(parent), Some(target)) = (parent, target)
        {
            self.sticky(parent, target)?;
        }
        if access.ancestor != 0 && !resolved.is_root() {
            let above = resolved.entries.len().min(resolved.components.len());
            self.need(resolved.entries[above - 1], access.ancestor)?;
        }
        if let Some(parent) = parent {
            self.need(parent, access.parent)?;
        }
        if let Some(target) = target {
            self.need(target, access.target)?;
            if access.below != 0 {
                self.below(target, access.below, access.ignore_empty)?;
            }
            if access.owner && !self.owns(target.inode) {
                return Err(denied(format!(
                    "Permission denied. user={} is not the owner of inode={}",
                    self.caller.user, resolved.path
                )));
            }
        }
        Ok(())
    }

    fn below(&self, top: Entry<'_>, access: u16, ignore_empty: bool) -> Result<(), Fault> {
        let mut pending = alloc::vec![top.id];
        while let Some(id) = pending.pop() {
            let entry = self.tree.get(id).expect("children exist");
            if !entry.inode.is_dir() {
                continue;
            }
            let empty = entry.inode.child_count() == 0;
            if empty && ignore_empty {
                continue;
            }
            self.need(entry, access)?;
            let sticky = access & WRITE != 0 && entry.inode.permission() & STICKY != 0;
            for child in self.tree.children(entry.inode) {
                if sticky {
                    self.sticky(entry, child)?;
                }
                if child.inode.is_dir() {
                    pending.push(child.id);
                }
            }
        }
        Ok(())
    }

    /// For calls that only the superuser may make.
    pub(crate) fn superuser(&self) -> Result<(), Fault> {
        if self.exempt() {
            return Ok(());
        }
        Err(denied(format!(
            "Access denied for user {}. Superuser privilege is required",
            self.caller.user
        )))
    }

    /// For a change of owner or group by the inode's owner: the owner's name only by the superuser, the group
    /// only to one the owner is in.
    pub(crate) fn chown(&self, owner: &str, group: &str) -> Result<(), Fault> {
        if self.exempt() {
            return Ok(());
        }
        if !owner.is_empty() && owner != self.caller.user {
            return Err(denied(format!(
                "User {} is not a super user (non-super user cannot change owner).",
                self.caller.user
            )));
        }
        if !group.is_empty() && !self.caller.is_in(group) {
            return Err(denied(format!(
                "User {} does not belong to {group}",
                self.caller.user
            )));
        }
        Ok(())
    }
}

fn denied(message: String) -> Fault {
    Fault::new(FaultClass::AccessDenied, message)
}

/// HDFS's name of an access (`FsAction`).
fn access_name(access: u16) -> &'static str {
    match access {
        1 => "EXECUTE",
        2 => "WRITE",
        3 => "WRITE_EXECUTE",
        4 => "READ",
        5 => "READ_EXECUTE",
        6 => "READ_WRITE",
        7 => "ALL",
        _ => "NONE",
    }
}

/// A mode as `ls` prints it, with the kind in front.
fn mode_text(inode: InodeRef<'_>) -> String {
    let mut text = String::with_capacity(10);
    text.push(if inode.is_dir() { 'd' } else { '-' });
    for bit in (0..9).rev() {
        let set = inode.permission() >> bit & 1 == 1;
        text.push(match (set, bit % 3) {
            _ if bit == 0 && inode.permission() & STICKY != 0 => {
                if set {
                    't'
                } else {
                    'T'
                }
            }
            (false, _) => '-',
            (true, 2) => 'r',
            (true, 1) => 'w',
            (true, _) => 'x',
        });
    }
    text
}
