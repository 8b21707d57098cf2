//! setPermission, setOwner, setTimes, setReplication.

use super::invalid;
use crate::inode::PERMISSION_MASK;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use alloc::format;
use alloc::string::ToString;
use hadal_proto::Fault;
use hadal_proto::client::{NAME_LEN_MAX, Response};
use hadal_proto::edit::EditOp;
use hadal_types::{InodeId, U48};

const OWNER: Access = Access {
    owner: true,
    ancestor: 0,
    parent: 0,
    target: 0,
    below: 0,
    ignore_empty: false,
};
const WRITABLE: Access = Access {
    owner: false,
    target: WRITE,
    ..OWNER
};

impl Namesystem {
    fn target(&self, context: Context<'_>, path: &str, access: Access) -> Result<InodeId, Fault> {
        let resolved = Resolved::new(&self.state.tree, path)?;
        self.checker(context.caller).check(&resolved, access)?;
        Ok(resolved.require()?.id)
    }

    pub(super) fn set_permission(
        &mut self,
        context: Context<'_>,
        path: &str,
        permission: u16,
    ) -> Result<Response, Fault> {
        let inode = self.target(context, path, OWNER)?;
        self.edit(
            context,
            EditOp::SetPermission {
                inode,
                permission: permission & PERMISSION_MASK,
            },
        );
        Ok(Response::Done)
    }

    pub(super) fn set_owner(
        &mut self,
        context: Context<'_>,
        path: &str,
        owner: &str,
        group: &str,
    ) -> Result<Response, Fault> {
        for name in [owner, group] {
            if name.len() > NAME_LEN_MAX {
                return Err(invalid(format!(
                    "owner or group name of {} bytes, limit {NAME_LEN_MAX}",
                    name.len()
                )));
            }
        }
        let inode = self.target(context, path, OWNER)?;
        self.checker(context.caller).chown(owner, group)?;
        let tree = &self.state.tree;
        let entry = tree.get(inode).expect("resolved just now");
        let (old_owner, old_group) = tree.owner(entry.inode);
        let now = |new: &str, old: &str| if new.is_empty() { old } else { new }.to_string();
        let op = EditOp::SetOwner {
            inode,
            owner: now(owner, old_owner),
            group: now(group, old_group),
        };
        self.edit(context, op);
        Ok(Response::Done)
    }

    pub(super) fn set_times(
        &mut self,
        context: Context<'_>,
        path: &str,
        modified_ms: u64,
        accessed_ms: u64,
    ) -> Result<Response, Fault> {
        for time_ms in [modified_ms, accessed_ms] {
            if time_ms != u64::MAX && time_ms > U48::MAX {
                return Err(invalid(format!(
                    "time {time_ms} ms is beyond the year 10000"
                )));
            }
        }
        let inode = self.target(context, path, WRITABLE)?;
        let entry = self.state.tree.get(inode).expect("resolved just now");
        let now = |new: u64, old: u64| if new == u64::MAX { old } else { new };
        let op = EditOp::SetTimes {
            inode,
            modified_ms: now(modified_ms, entry.inode.modified_ms()),
            accessed_ms: now(accessed_ms, entry.inode.accessed_ms()),
        };
        self.edit(context, op);
        Ok(Response::Done)
    }

    pub(super) fn set_replication(
        &mut self,
        context: Context<'_>,
        path: &str,
        replication: u16,
    ) -> Result<Response, Fault> {
        self.check_replication(path, replication)?;
        let inode = self.target(context, path, WRITABLE)?;
        let entry = self.state.tree.get(inode).expect("resolved just now");
        let Some(file) = entry.inode.file() else {
            return Ok(Response::Flag { value: false });
        };
        if file.replication != replication {
            self.edit(context, EditOp::SetReplication { inode, replication });
        }
        Ok(Response::Flag { value: true })
    }
}
