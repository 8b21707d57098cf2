//! truncate: at once on a block's boundary, else by recovery of the last block to its new length (F-10).
//!
//! In place: replicas keep their block id and are cut. (HDFS copies on truncate when a snapshot or an upgrade
//! still needs the old bytes; neither exists here.)

use super::invalid;
use super::recovery::{Attempts, Opening};
use crate::inode::BlocksRef;
use crate::lease::TRUNCATE_HOLDER;
use crate::namesystem::{Context, Namesystem};
use crate::output::Event;
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use alloc::format;
use hadal_proto::Fault;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;
use hadal_types::{Block, InodeId};

impl Namesystem {
    pub(super) fn truncate(
        &mut self,
        context: Context<'_>,
        path: &str,
        length: u64,
    ) -> Result<Response, Fault> {
        let inode = self.check_truncate(context, path)?;
        let now_is = |namesystem: &Self| {
            let entry = namesystem.state.tree.get(inode).expect("resolved just now");
            let file = entry.inode.file().expect("checked to be a file");
            file.blocks.length()
        };
        // T-T2: the same target again while the recovery runs.
        if self.state.leases.holder(inode) == Some(TRUNCATE_HOLDER) && now_is(self) == length {
            return Ok(Response::Flag { value: false });
        }
        self.recover_for(context, path, inode, Opening::Truncate)?;
        let old = now_is(self);
        if length == old {
            return Ok(Response::Flag { value: true });
        }
        if length > old {
            return Err(invalid(format!(
                "Cannot truncate to a larger file size. Current size: {old}, truncate size: {length}."
            )));
        }
        let entry = self.state.tree.get(inode).expect("resolved just now");
        let file = entry.inode.file().expect("checked to be a file");
        let stamp = self.state.counters.generation_stamp.next();
        let recovering = cut(file.blocks, length).map(|block| Block {
            generation_stamp: stamp,
            ..block
        });
        let txid = self.edit(
            context,
            EditOp::Truncate {
                inode,
                length,
                recovering,
            },
        );
        if let Some(block) = recovering {
            let to = Some(block.length);
            // When no DataNode has it just now (T-T8) the lease monitor starts the recovery later.
            let started = self
                .blocks
                .start_recovery(context.now, txid, block.id, stamp, to);
            self.recoveries
                .insert(inode, Attempts::first(context.now, started.is_ok()));
            if started.is_ok() {
                self.event(Event::LeaseRecoveryStarted {
                    inode,
                    holder: TRUNCATE_HOLDER,
                    block: Some((block.id, stamp)),
                });
            }
        }
        Ok(Response::Flag {
            value: recovering.is_none(),
        })
    }

    fn check_truncate(&self, context: Context<'_>, path: &str) -> Result<InodeId, Fault> {
        let resolved = Resolved::new(&self.state.tree, path)?;
        let writable = Access {
            target: WRITE,
            ..Access::default()
        };
        self.checker(context.caller).check(&resolved, writable)?;
        Ok(resolved.require_file()?.id)
    }
}

/// The block `length` cuts in two, with the bytes of it that stay; `None` on a boundary.
fn cut(blocks: BlocksRef<'_>, length: u64) -> Option<Block> {
    let mut start = 0;
    for block in blocks.iter() {
        if length <= start {
            return None;
        }
        if length < start + block.length {
            return Some(Block {
                length: length - start,
                ..block
            });
        }
        start += block.length;
    }
    None
}
