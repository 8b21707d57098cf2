//! Lease recovery (E-04..E-06, E-18, E-20): closing files whose writer is gone.

use crate::lease::NAMENODE_HOLDER;
use crate::namesystem::{Context, Namesystem};
use crate::output::Event;
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_blocks::RecoveryError;
use hadal_proto::client::{ReplicaTarget, Response};
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, BlockState, ClientId, GenerationStamp, InodeId, Tick};

/// After an attempt that could not end at once, the next is made no sooner than this (ms). The block manager
/// itself refuses to run two recoveries of one block at a time (T-L12).
const RETRY_MS: u64 = 10_000;

impl Namesystem {
    pub(super) fn recover_lease(
        &mut self,
        context: Context<'_>,
        path: &str,
    ) -> Result<Response, Fault> {
        let inode = {
            let resolved = Resolved::new(&self.state.tree, path)?;
            let writable = Access {
                target: WRITE,
                ..Access::default()
            };
            self.checker(context.caller).check(&resolved, writable)?;
            resolved.require_file()?.id
        };
        let value = match self.release_lease(context.now, context.wall_ms, inode) {
            Ok(closed) => closed,
            // Waiting for replicas: "not yet" is the whole answer; the monitor goes on.
            Err(fault) if fault.class == FaultClass::RecoveryInProgress => false,
            Err(fault) => return Err(fault),
        };
        Ok(Response::Flag { value })
    }

    /// A create over an existing file: takes over when the holder is past its soft limit (E-04, T-L14).
    ///
    /// Returns when the file is closed.
    pub(super) fn recover_for_create(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
    ) -> Result<(), Fault> {
        let Some(holder) = self.state.leases.holder(inode) else {
            return Ok(());
        };
        let refuse = |class, why: &str| {
            Err(Fault::new(
                class,
                format!(
                    "Failed to CREATE_FILE {path} for {} because {why}",
                    context.client
                ),
            ))
        };
        if holder == context.client {
            return refuse(
                FaultClass::AlreadyBeingCreated,
                &format!("{holder} is already the current lease holder."),
            );
        }
        let limit_ms = self.config.lease_soft_limit_ms;
        if holder != NAMENODE_HOLDER && !self.state.leases.is_expired(holder, context.now, limit_ms)
        {
            return refuse(
                FaultClass::AlreadyBeingCreated,
                &format!("this file lease is currently owned by {holder}"),
            );
        }
        match self.release_lease(context.now, context.wall_ms, inode) {
            Ok(true) => Ok(()),
            Ok(false) => refuse(
                FaultClass::RecoveryInProgress,
                "lease recovery is in progress. Try again later.",
            ),
            Err(fault) => refuse(fault.class, &fault.message),
        }
    }

    /// The lease monitor's turn (E-05): files past the hard limit, and those the NameNode recovers already.
    pub(crate) fn check_leases(&mut self, now: Tick, wall_ms: u64) {
        // T-L19: without reports nobody knows which replicas there are.
        if self.blocks.in_safe_mode() {
            return;
        }
        let most = self.config.lease_checks_max;
        let limit_ms = self.config.lease_hard_limit_ms;
        let expired = self.state.leases.expired(now, limit_ms);
        let expired = expired
            .filter(|(holder, _)| *holder != NAMENODE_HOLDER)
            .map(|(_, inode)| inode);
        let again = self.recoveries.keys().copied();
        let due = |inode: &InodeId| self.recoveries.get(inode).is_none_or(|at| *at <= now);
        let due: Vec<_> = again.chain(expired).filter(due).take(most).collect();
        for inode in due {
            if self.state.leases.holder(inode).is_none() {
                self.recoveries.remove(&inode);
                continue;
            }
            // A failure only means "later": the file stays due.
            if self.release_lease(now, wall_ms, inode).is_err() {
                self.recoveries.insert(inode, now.after_ms(RETRY_MS));
            }
        }
    }

    /// Closes an open file without its writer (HDFS's `internalReleaseLease`): `true` when it is closed now,
    /// `false` when block recovery was started or runs.
    fn release_lease(&mut self, now: Tick, wall_ms: u64, inode: InodeId) -> Result<bool, Fault> {
        let Some(holder) = self.state.leases.holder(inode) else {
            self.recoveries.remove(&inode);
            return Ok(true);
        };
        let entry = self.state.tree.get(inode).expect("open files exist");
        let file = entry.inode.file().expect("only files are open");
        let Some(last) = file.blocks.last() else {
            self.close(wall_ms, inode, holder, None);
            return Ok(true);
        };
        let penultimate = file.blocks.penultimate();
        let ready = penultimate.is_none_or(|block| self.blocks.is_complete(block.id));
        let stored = self.blocks.stored(last.id);
        match stored.map(|stored| stored.state) {
            Some(BlockState::Complete) if ready => {
                let block = stored.map(|stored| stored.block);
                self.close(wall_ms, inode, holder, block);
                Ok(true)
            }
            Some(BlockState::Committed) if ready && stored.is_some_and(|s| s.block.length == 0) => {
                // Its writer said that nothing is in it (T-L23).
                self.drop_last(wall_ms, inode, holder, last.id);
                Ok(true)
            }
            Some(BlockState::Complete | BlockState::Committed) => {
                self.take_over(wall_ms, inode, holder);
                self.recoveries.insert(inode, now.after_ms(RETRY_MS));
                Err(in_progress(format!(
                    "Failed to release lease for file {}. Committed blocks are waiting to be minimally replicated. Try again later.",
                    self.state.tree.path_of(inode)
                )))
            }
            _ => self.recover_block(now, wall_ms, inode, holder, last),
        }
    }

    fn recover_block(
        &mut self,
        now: Tick,
        wall_ms: u64,
        inode: InodeId,
        holder: ClientId,
        last: Block,
    ) -> Result<bool, Fault> {
        if self.recoveries.get(&inode).is_some_and(|at| now < *at) {
            return Ok(false);
        }
        // E-16: the recovery id is a new stamp, and an old holder's calls fail from here on.
        let recovery_id = self.state.counters.generation_stamp.next();
        self.own_edit(
            wall_ms,
            EditOp::AllocateStamp {
                generation_stamp: recovery_id,
            },
        );
        self.take_over(wall_ms, inode, holder);
        self.recoveries.insert(inode, now.after_ms(RETRY_MS));
        let txid = self.applied();
        match self
            .blocks
            .start_recovery(now, txid, last.id, recovery_id, None)
        {
            Ok(()) => {
                self.event(Event::LeaseRecoveryStarted {
                    inode,
                    holder,
                    block: Some((last.id, recovery_id)),
                });
                Ok(false)
            }
            Err(RecoveryError::Running { .. }) => Ok(false),
            Err(RecoveryError::NoReplica(_))
                if last.length == 0 && self.blocks.ready_to_become_active() =>
            {
                // Every live DataNode has reported and none has it: its writer never got to write.
                self.drop_last(wall_ms, inode, holder, last.id);
                Ok(true)
            }
            Err(error) => Err(in_progress(format!("{error}"))),
        }
    }

    fn take_over(&mut self, wall_ms: u64, inode: InodeId, holder: ClientId) {
        if holder != NAMENODE_HOLDER {
            self.own_edit(
                wall_ms,
                EditOp::ReassignLease {
                    inode,
                    holder: NAMENODE_HOLDER,
                },
            );
        }
    }

    /// Drops a last block with nothing in it and closes the file.
    fn drop_last(&mut self, wall_ms: u64, inode: InodeId, holder: ClientId, block: BlockId) {
        self.own_edit(wall_ms, EditOp::AbandonBlock { inode, block });
        self.close(wall_ms, inode, holder, None);
    }

    fn close(&mut self, wall_ms: u64, inode: InodeId, holder: ClientId, last: Option<Block>) {
        let last = last.or_else(|| {
            let entry = self.state.tree.get(inode)?;
            entry.inode.file()?.blocks.last()
        });
        self.own_edit(wall_ms, EditOp::Close { inode, last });
        if self.recoveries.remove(&inode).is_none() {
            self.event(Event::LeaseRecoveryStarted {
                inode,
                holder,
                block: None,
            });
        }
        self.event(Event::LeaseRecovered { inode });
    }

    /// The result of a block recovery (E-18), only at the active (E-20).
    pub(crate) fn commit_synchronization(
        &mut self,
        wall_ms: u64,
        block: BlockId,
        recovery_id: GenerationStamp,
        length: u64,
        nodes: &[ReplicaTarget],
        delete: bool,
    ) -> Result<(), Fault> {
        if self.blocks.in_safe_mode() {
            return Err(Fault::new(
                FaultClass::SafeMode,
                format!("Cannot commitBlockSynchronization of {block} while in safe mode"),
            ));
        }
        let Some(stored) = self.blocks.stored(block) else {
            if delete {
                // Said again after it was done.
                return Ok(());
            }
            return Err(Fault::new(
                FaultClass::NotFound,
                format!("{block} is not known to this NameNode; its file may be deleted"),
            ));
        };
        let inode = stored.inode;
        let tree = &self.state.tree;
        let file = tree.get(inode).and_then(|entry| entry.inode.file());
        let Some(file) = file.filter(|file| file.is_open()) else {
            // Said again after the file was closed with this very result, or too late.
            return if stored.block.generation_stamp == recovery_id {
                Ok(())
            } else {
                Err(stale(format!(
                    "{block} belongs to a closed file (inode {inode}); recovery {recovery_id} is too late"
                )))
            };
        };
        if file.blocks.last().map(|last| last.id) != Some(block) {
            return Err(stale(format!(
                "{block} is not the last block of its file (inode {inode})"
            )));
        }
        let block_size = file.block_size.get();
        self.blocks
            .check_recovery(block, recovery_id)
            .map_err(|error| stale(format!("{error}")))?;
        if length > block_size || recovery_id > self.state.counters.generation_stamp {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                format!(
                    "recovery {recovery_id} of {block} cannot end with length {length} of block size {block_size}"
                ),
            ));
        }
        let holder = self.state.leases.holder(inode).unwrap_or(NAMENODE_HOLDER);
        if delete {
            self.drop_last(wall_ms, inode, holder, block);
            return Ok(());
        }
        let recovered = Block {
            id: block,
            generation_stamp: recovery_id,
            length,
        };
        self.own_edit(
            wall_ms,
            EditOp::UpdatePipeline {
                inode,
                block: recovered,
            },
        );
        self.blocks.set_pipeline(block, nodes);
        self.close(wall_ms, inode, holder, Some(recovered));
        Ok(())
    }
}

fn in_progress(message: String) -> Fault {
    Fault::new(FaultClass::RecoveryInProgress, message)
}

fn stale(message: String) -> Fault {
    Fault::new(FaultClass::StaleReplica, message)
}
