//! append: a closed file open again (F-10).

use super::recovery::Opening;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use crate::status::file_status;
use alloc::boxed::Box;
use alloc::format;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, InodeId};

impl Namesystem {
    pub(super) fn append(
        &mut self,
        context: Context<'_>,
        path: &str,
        new_block: bool,
        writer_host: &str,
    ) -> Result<Response, Fault> {
        let inode = self.check_append(context, path)?;
        self.recover_for(context, path, inode, Opening::Append)?;
        let entry = self.state.tree.get(inode).expect("resolved just now");
        let file = entry.inode.file().expect("checked to be a file");
        let (last, block_size) = (file.blocks.last(), file.block_size);
        if let Some(last) = last {
            self.check_append_to(path, last)?;
        }
        let reopened = last.filter(|last| !new_block && last.length < block_size);
        self.edit(
            context,
            EditOp::Append {
                inode,
                holder: context.client,
                block: reopened,
            },
        );
        let reopened = reopened.map_or(BlockId(0), |block| block.id);
        Ok(self.appended(inode, reopened, writer_host))
    }

    /// The file to append to, in HDFS's order of checks.
    fn check_append(&self, context: Context<'_>, path: &str) -> Result<InodeId, Fault> {
        let resolved = Resolved::new(&self.state.tree, path)?;
        let checker = self.checker(context.caller);
        checker.traverse(&resolved)?;
        let target = resolved.target();
        if target.is_some_and(|target| target.inode.is_dir()) {
            return Err(Fault::new(
                FaultClass::AlreadyExists,
                format!("Cannot append to directory {path}; already exists as a directory."),
            ));
        }
        checker.check(
            &resolved,
            Access {
                target: WRITE,
                ..Access::default()
            },
        )?;
        let target = target.ok_or_else(|| {
            Fault::new(
                FaultClass::NotFound,
                format!(
                    "Failed to append to non-existent file {path} for client {}",
                    context.client
                ),
            )
        })?;
        Ok(target.id)
    }

    /// What is appended to must have enough replicas, or the writer's pipeline would begin with none.
    fn check_append_to(&self, path: &str, last: Block) -> Result<(), Fault> {
        let live = self.blocks.stored(last.id).map_or(0, |stored| stored.live);
        let wanted = u64::from(self.config.min_replication)
            .min(self.blocks.live_datanodes())
            .max(1);
        if u64::from(live) < wanted {
            return Err(Fault::new(
                FaultClass::NotReplicatedYet,
                format!(
                    "append: lastBlock={last} of src={path} is not sufficiently replicated yet: {live} of {wanted} \
                     replicas are reported; try again when its DataNodes are back"
                ),
            ));
        }
        Ok(())
    }

    /// The answer to an append of a file that is open now; `reopened` is zero when its last block is not.
    fn appended(&self, inode: InodeId, reopened: BlockId, writer_host: &str) -> Response {
        let entry = self.state.tree.get(inode).expect("looked at by the caller");
        let file = entry.inode.file().expect("only files are appended to");
        let last = file.blocks.last();
        let reopened = last
            .filter(|last| last.id == reopened && !self.blocks.is_complete(last.id))
            .map(|last| {
                let found = self.blocks.locate(last.id, writer_host);
                let mut found = found.unwrap_or_else(|| super::read::unlocated(last));
                found.block = last;
                found.offset = file.blocks.length() - last.length;
                found.under_construction = true;
                found
            });
        Response::Appended {
            reopened,
            last,
            status: Box::new(file_status(&self.state.tree, entry)),
        }
    }

    /// The answer to an append that ran before: as long as the file is still open.
    pub(super) fn repeat_append(
        &self,
        inode: InodeId,
        reopened: BlockId,
        writer_host: &str,
    ) -> Result<Response, Fault> {
        let entry = self.state.tree.get(inode);
        let file = entry.and_then(|entry| entry.inode.file());
        if file.is_some_and(|file| file.is_open) {
            return Ok(self.appended(inode, reopened, writer_host));
        }
        Err(Fault::new(
            FaultClass::LeaseExpired,
            format!(
                "the file this call opened for append before (inode {inode}) is no longer open"
            ),
        ))
    }
}
