//! Lease recovery (E-04..E-06, Q38..Q40): closing files whose writer is gone.

use crate::lease::{NAMENODE_HOLDER, TRUNCATE_HOLDER, is_namenode};
use crate::namesystem::{Context, Namesystem};
use crate::output::Event;
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_blocks::RecoveryError;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, BlockState, ClientId, InodeId, Tick};

/// After an attempt that could not end at once, the lease monitor makes the next no sooner than this (ms); each
/// further one waits twice as long, up to [`RETRY_MAX_MS`], so that many files nobody can recover cost little (Q40).
/// The block manager itself refuses to run two recoveries of one block at a time (T-L12).
const RETRY_MS: u64 = 10_000;
/// The longest wait between two attempts (ms).
const RETRY_MAX_MS: u64 = 300_000;

/// How the recovery of a file goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    /// The lease monitor leaves it alone until then.
    pub(crate) next: Tick,
    /// Attempts that did not end it.
    failed: u32,
}

impl Attempts {
    /// None yet.
    pub(crate) fn none(now: Tick) -> Self {
        Self {
            next: now,
            failed: 0,
        }
    }

    /// The first was made; `started` says whether a block recovery runs now.
    pub(crate) fn first(now: Tick, started: bool) -> Self {
        let mut attempts = Self::none(now);
        if started {
            attempts.next = now.after_ms(RETRY_MS);
        } else {
            attempts.again(now);
        }
        attempts
    }

    fn again(&mut self, now: Tick) {
        self.next = now.after_ms((RETRY_MS << self.failed.min(8)).min(RETRY_MAX_MS));
        self.failed = self.failed.saturating_add(1);
    }
}

/// Who meets an open file and may take it over (HDFS's `RecoverLeaseOp`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Create,
    Append,
    Truncate,
}

impl Opening {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE_FILE",
            Self::Append => "APPEND_FILE",
            Self::Truncate => "TRUNCATE_FILE",
        }
    }
}

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

    /// A create, append or truncate of an existing file: takes over when the holder is past its soft limit (E-04,
    /// T-L14, T-L22).
    ///
    /// Returns when the file is closed.
    pub(super) fn recover_for(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        opening: Opening,
    ) -> Result<(), Fault> {
        let Some(holder) = self.state.leases.holder(inode) else {
            return Ok(());
        };
        let refuse = |class, why: &str| {
            Err(Fault::new(
                class,
                format!(
                    "Failed to {} {path} for {} because {why}",
                    opening.name(),
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
        if !is_namenode(holder) && !self.state.leases.is_expired(holder, context.now, limit_ms) {
            return refuse(
                FaultClass::AlreadyBeingCreated,
                &format!("this file lease is currently owned by {holder}"),
            );
        }
        match self.release_lease(context.now, context.wall_ms, inode) {
            Ok(true) => Ok(()),
            // T-T4.
            Ok(false) if holder == TRUNCATE_HOLDER => refuse(
                FaultClass::RecoveryInProgress,
                "the file is being truncated; another recovery is in progress. Try again later.",
            ),
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
            .filter(|(holder, _)| !is_namenode(*holder))
            .map(|(_, inode)| inode);
        let again = self.recoveries.keys().copied();
        let due = |inode: &InodeId| {
            let attempts = self.recoveries.get(inode);
            attempts.is_none_or(|attempts| attempts.next <= now)
        };
        let due: Vec<_> = again.chain(expired).filter(due).take(most).collect();
        for inode in due {
            if self.state.leases.holder(inode).is_none() {
                self.recoveries.remove(&inode);
                continue;
            }
            // A failure only means "later".
            if self.release_lease(now, wall_ms, inode).is_err() {
                self.try_again(now, inode);
            }
        }
    }

    /// The lease monitor comes back to this file.
    fn try_again(&mut self, now: Tick, inode: InodeId) {
        let attempts = self.recoveries.entry(inode);
        attempts.or_insert(Attempts::none(now)).again(now);
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
            Some(BlockState::Committed) if ready && self.has_waited(now, inode) => {
                // Its writer said it was finished, and what it wrote did not arrive: perhaps its DataNodes restarted
                // in between and have unfinished replicas (RWR), which block recovery finishes.
                self.recover_block(now, wall_ms, inode, holder, last)
            }
            Some(BlockState::Complete | BlockState::Committed) => {
                self.take_over(wall_ms, inode, holder);
                if !self.recoveries.contains_key(&inode) {
                    self.try_again(now, inode);
                }
                Err(in_progress(format!(
                    "Failed to release lease for file {}. Committed blocks are waiting to be minimally replicated. Try again later.",
                    self.state.tree.path_of(inode)
                )))
            }
            _ => self.recover_block(now, wall_ms, inode, holder, last),
        }
    }

    /// Whether the lease monitor waited for this file before and its wait is over.
    fn has_waited(&self, now: Tick, inode: InodeId) -> bool {
        let attempts = self.recoveries.get(&inode);
        attempts.is_some_and(|attempts| attempts.failed > 0 && attempts.next <= now)
    }

    fn recover_block(
        &mut self,
        now: Tick,
        wall_ms: u64,
        inode: InodeId,
        holder: ClientId,
        last: Block,
    ) -> Result<bool, Fault> {
        match self.blocks.check_start(now, last.id) {
            Ok(()) => {}
            // Neither is an attempt that failed.
            Err(RecoveryError::Running { .. } | RecoveryError::OnlyRestarted(_)) => {
                self.take_over(wall_ms, inode, holder);
                let attempts = self.recoveries.entry(inode);
                attempts.or_insert(Attempts::none(now)).next = now.after_ms(RETRY_MS);
                return Ok(false);
            }
            Err(RecoveryError::NoReplica(_)) if last.length == 0 && self.has_heard_all(now) => {
                // Nobody has it, and nobody is away who may: its writer never got to write.
                self.drop_last(wall_ms, inode, holder, last.id);
                return Ok(true);
            }
            Err(error) => {
                self.take_over(wall_ms, inode, holder);
                self.try_again(now, inode);
                return Err(in_progress(format!("{error}")));
            }
        }
        // E-16: the recovery id is a new stamp, and an old holder's calls fail from here on.
        self.take_over(wall_ms, inode, holder);
        let recovery_id = self.state.counters.generation_stamp.next();
        let txid = self.own_edit(
            wall_ms,
            EditOp::AllocateStamp {
                generation_stamp: recovery_id,
            },
        );
        let truncate_to = (holder == TRUNCATE_HOLDER).then_some(last.length);
        self.blocks
            .start_recovery(now, txid, last.id, recovery_id, truncate_to)
            .expect("checked just now");
        self.try_again(now, inode);
        self.event(Event::LeaseRecoveryStarted {
            inode,
            holder,
            block: Some((last.id, recovery_id)),
        });
        Ok(false)
    }

    /// Every DataNode there is has reported. One that never registered with this NameNode (it was down when that started)
    /// is not known to be away: it has had as long as one that fell silent has until it counts as dead.
    fn has_heard_all(&self, now: Tick) -> bool {
        self.blocks.has_heard_all() && now.ms_since(self.started) >= self.blocks.dead_interval_ms()
    }

    fn take_over(&mut self, wall_ms: u64, inode: InodeId, holder: ClientId) {
        if !is_namenode(holder) {
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
    pub(super) fn drop_last(
        &mut self,
        wall_ms: u64,
        inode: InodeId,
        holder: ClientId,
        block: BlockId,
    ) {
        self.own_edit(wall_ms, EditOp::AbandonBlock { inode, block });
        self.close(wall_ms, inode, holder, None);
    }

    pub(super) fn close(
        &mut self,
        wall_ms: u64,
        inode: InodeId,
        holder: ClientId,
        last: Option<Block>,
    ) {
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
}

fn in_progress(message: String) -> Fault {
    Fault::new(FaultClass::RecoveryInProgress, message)
}
