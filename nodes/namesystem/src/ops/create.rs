//! create.

use super::namespace::{Missing, parent_missing};
use super::recovery::Opening;
use super::{created_status, invalid};
use crate::inode::{PERMISSION_MASK, REPLICATION_MAX};
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use crate::retry::{Outcome, outcome_of};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use hadal_proto::client::Response;
use hadal_proto::edit::{Edit, EditOp};
use hadal_proto::{Fault, FaultClass};
use hadal_types::InodeId;

/// What a client asks of a new file.
#[derive(Clone, Copy)]
pub(super) struct NewFile {
    pub(super) permission: u16,
    pub(super) overwrite: bool,
    pub(super) create_parent: bool,
    pub(super) replication: u16,
    pub(super) block_size: u64,
}

impl Namesystem {
    pub(super) fn create(
        &mut self,
        context: Context<'_>,
        path: &str,
        new: NewFile,
        first_block: Option<&str>,
    ) -> Result<Response, Fault> {
        self.check_block_size(new.block_size)?;
        self.check_replication(path, new.replication)?;
        if let Some(existing) = self.check_create(context, path, new)?
            && !new.overwrite
        {
            // A writer that is gone must not hold the name for ever (E-04, T-L14).
            self.recover_for(context, path, existing, Opening::Create)?;
            return Err(Fault::new(
                FaultClass::AlreadyExists,
                format!("{path} for client {} already exists", context.client),
            ));
        }
        let (missing, above, name, replaced) = {
            let resolved = Resolved::new(&self.state.tree, path)?;
            let depth = resolved.components.len() - 1;
            // Directories made on the way take their parent's mode (HDFS createAncestorDirectories).
            let above = resolved.last().inode.permission() | 0o300;
            (
                Missing::of(self, &resolved, depth),
                above,
                resolved.name().to_string(),
                resolved.target().map(|target| target.id),
            )
        };
        let (parent, group) = match replaced {
            Some(replaced) => self.parent_of(replaced),
            None => {
                let group = missing.group.clone();
                let parent = self.make_directories(context, missing, above, above, false);
                (parent, group)
            }
        };
        let op = EditOp::Create {
            parent,
            inode: self.next_inode(),
            name,
            permission: new.permission & PERMISSION_MASK,
            owner: context.caller.user.clone(),
            group,
            replication: new.replication,
            block_size: new.block_size,
            holder: context.client,
            replaced,
        };
        let edit = Edit {
            time_ms: context.wall_ms,
            client: context.client,
            call: context.call,
            op,
        };
        let Some(Outcome::Created(file)) = outcome_of(&edit) else {
            unreachable!("a create by a client has this outcome");
        };
        self.edit(context, edit.op);
        let block =
            first_block.and_then(|host| self.add_first_block(context, path, file.inode, host));
        Ok(Response::Created {
            status: Box::new(created_status(edit.time_ms, *file)),
            block,
        })
    }

    /// Permissions and rules that need no recovery; returns the file that is there.
    fn check_create(
        &self,
        context: Context<'_>,
        path: &str,
        new: NewFile,
    ) -> Result<Option<InodeId>, Fault> {
        let resolved = Resolved::new(&self.state.tree, path)?;
        let checker = self.checker(context.caller);
        checker.traverse(&resolved)?;
        let target = resolved.target();
        if target.is_some_and(|target| target.inode.is_dir()) {
            return Err(Fault::new(
                FaultClass::AlreadyExists,
                format!("{path} already exists as a directory"),
            ));
        }
        if target.is_none() && resolved.parent().is_none() && !new.create_parent {
            return Err(parent_missing(resolved.parent_path()));
        }
        checker.check(
            &resolved,
            Access {
                ancestor: WRITE,
                target: if new.overwrite { WRITE } else { 0 },
                ..Access::default()
            },
        )?;
        Ok(target.map(|target| target.id))
    }

    fn parent_of(&self, id: InodeId) -> (InodeId, alloc::string::String) {
        let tree = &self.state.tree;
        let entry = tree.get(id).expect("resolved just now");
        let parent = InodeId(entry.inode.parent());
        let directory = tree.get(parent).expect("parents exist");
        (parent, tree.owner(directory.inode).1.to_string())
    }

    fn check_block_size(&self, block_size: u64) -> Result<(), Fault> {
        let (min, max) = (self.config.min_block_size, self.config.max_block_size);
        if block_size < min {
            return Err(invalid(format!(
                "Specified block size is less than configured minimum value (dfs.namenode.fs-limits.min-block-size): {block_size} < {min}"
            )));
        }
        if block_size > max {
            return Err(invalid(format!(
                "Specified block size is more than the maximum: {block_size} > {max}"
            )));
        }
        Ok(())
    }

    pub(super) fn check_replication(&self, path: &str, replication: u16) -> Result<(), Fault> {
        let (min, max) = (
            self.config.min_replication,
            self.config.max_replication.min(REPLICATION_MAX),
        );
        if replication > max {
            return Err(invalid(format!(
                "Requested replication factor of {replication} exceeds maximum of {max} for {path}"
            )));
        }
        if replication < min {
            return Err(invalid(format!(
                "Requested replication factor of {replication} is less than the required minimum of {min} for {path}"
            )));
        }
        Ok(())
    }
}
