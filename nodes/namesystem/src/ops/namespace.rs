//! mkdirs and delete.

use super::invalid;
use crate::inode::PERMISSION_MASK;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{ALL, Access, WRITE};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{CallId, ClientId, InodeId};

/// Directories of a path that must be made first.
pub(super) struct Missing {
    /// Where to begin.
    pub(super) parent: InodeId,
    /// The group new inodes inherit.
    pub(super) group: String,
    /// Their names, outermost first.
    pub(super) names: Vec<String>,
}

impl Missing {
    /// The components of the first `depth` that do not exist yet.
    pub(super) fn of(namesystem: &Namesystem, resolved: &Resolved<'_, '_>, depth: usize) -> Self {
        let last = resolved.last();
        Self {
            parent: last.id,
            group: namesystem.state.tree.owner(last.inode).1.to_string(),
            names: resolved.components[(resolved.entries.len() - 1).min(depth)..depth]
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl Namesystem {
    pub(super) fn mkdirs(
        &mut self,
        context: Context<'_>,
        path: &str,
        permission: u16,
        create_parent: bool,
    ) -> Result<Response, Fault> {
        let missing = {
            let resolved = Resolved::new(&self.state.tree, path)?;
            let checker = self.checker(context.caller);
            checker.traverse(&resolved)?;
            if let Some(target) = resolved.target() {
                if !target.inode.is_dir() {
                    return Err(Fault::new(
                        FaultClass::AlreadyExists,
                        format!("Path is not a directory: {path}"),
                    ));
                }
                return Ok(Response::Flag { value: true });
            }
            checker.check(
                &resolved,
                Access {
                    ancestor: WRITE,
                    ..Access::default()
                },
            )?;
            if !create_parent && resolved.parent().is_none() {
                return Err(parent_missing(resolved.parent_path()));
            }
            Missing::of(self, &resolved, resolved.components.len())
        };
        self.make_directories(context, missing, permission, permission | 0o300, true);
        Ok(Response::Flag { value: true })
    }

    /// Makes directories below each other and returns the last. The ones above it get `above`; only the last
    /// edit carries the call, if `answers`, so that the retry cache never knows half a path.
    pub(super) fn make_directories(
        &mut self,
        context: Context<'_>,
        missing: Missing,
        permission: u16,
        above: u16,
        answers: bool,
    ) -> InodeId {
        let count = missing.names.len();
        let mut parent = missing.parent;
        for (at, name) in missing.names.into_iter().enumerate() {
            let is_last = at + 1 == count;
            let inode = self.next_inode();
            let context = if is_last && answers {
                context
            } else {
                Context {
                    client: ClientId::default(),
                    call: CallId(0),
                    ..context
                }
            };
            self.edit(
                context,
                EditOp::Mkdir {
                    parent,
                    inode,
                    name,
                    permission: PERMISSION_MASK & if is_last { permission } else { above },
                    owner: context.caller.user.clone(),
                    group: missing.group.clone(),
                },
            );
            parent = inode;
        }
        parent
    }

    pub(super) fn delete(
        &mut self,
        context: Context<'_>,
        path: &str,
        recursive: bool,
    ) -> Result<Response, Fault> {
        let inode = {
            let resolved = Resolved::new(&self.state.tree, path)?;
            let checker = self.checker(context.caller);
            checker.traverse(&resolved)?;
            let Some(target) = resolved.target() else {
                return Ok(Response::Flag { value: false });
            };
            if resolved.is_root() {
                return Err(invalid(
                    "The root directory / is not allowed to be deleted".to_string(),
                ));
            }
            if !recursive && target.inode.child_count() > 0 {
                return Err(Fault::new(
                    FaultClass::NotEmpty,
                    format!("`{path} is non empty': Directory is not empty"),
                ));
            }
            checker.check(
                &resolved,
                Access {
                    parent: WRITE,
                    below: ALL,
                    ignore_empty: true,
                    ..Access::default()
                },
            )?;
            target.id
        };
        self.edit(context, EditOp::Delete { inode });
        Ok(Response::Flag { value: true })
    }
}

pub(super) fn parent_missing(parent: &str) -> Fault {
    Fault::new(
        FaultClass::NotFound,
        format!("Parent directory doesn't exist: {parent}"),
    )
}
