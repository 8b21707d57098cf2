//! Block recovery as the NameNode sees it (E-18, Q38, T-L10, T-L12).

use crate::under_construction::Recovery;
use crate::{BlockManager, RecoveryError};
use alloc::vec::Vec;
use hadal_proto::datanode::{Action, RecoveryWork};
use hadal_types::{
    Block, BlockId, BlockState, GenerationStamp, ReplicaState, Tick, TxId, mix, partition_of,
};
use smallvec::SmallVec;

/// What a recovery begins with.
struct Plan {
    known: Block,
    candidates: Vec<u32>,
    tried: SmallVec<[u32; 3]>,
}

impl BlockManager {
    /// Whether [`Self::start_recovery`] would start one now: ask before a stamp is handed out for it.
    pub fn check_start(&mut self, now: Tick, block: BlockId) -> Result<(), RecoveryError> {
        self.advance(now);
        self.plan_recovery(block).map(|_| ())
    }

    /// Who may take part, and who was primary before.
    fn plan_recovery(&self, block: BlockId) -> Result<Plan, RecoveryError> {
        let key = mix(block);
        let partition = &self.partitions[partition_of(block)];
        let entry = partition
            .table
            .get(key)
            .ok_or(RecoveryError::UnknownBlock(block))?;
        if entry.is_complete() {
            return Err(RecoveryError::Complete(block));
        }
        let known = entry.block();
        let open = partition.open.get(&key);
        let running = open.and_then(|open| open.recovery.as_ref());
        if let Some(recovery) = running
            && self.now.ms_since(recovery.started) < self.config.recovery_timeout_ms
            // A dead primary reports nothing any more (Q38).
            && recovery.tried.last().is_some_and(|primary| self.nodes.node(*primary).alive)
        {
            return Err(RecoveryError::Running {
                block,
                running: recovery.id,
            });
        }
        let mut candidates: Vec<u32> = open
            .into_iter()
            .flat_map(|open| open.candidates(known.generation_stamp.0))
            .collect();
        candidates.extend(partition.live_replicas(key));
        candidates.sort_unstable();
        candidates.dedup();
        let had = !candidates.is_empty();
        candidates.retain(|storage| self.nodes.is_usable(*storage));
        if candidates.is_empty() {
            return Err(match had {
                true => RecoveryError::Away(block),
                false => RecoveryError::NoReplica(block),
            });
        }
        // After a failover nobody knows the pipeline, and a node that still has all that was flushed may be cut off (P4;
        // seed 758 of `cluster`, ten minutes). HDFS takes what there is at once.
        let wanted = match open.map(|open| open.expected.len()) {
            None | Some(0) => usize::from(entry.replication),
            Some(pipeline) => pipeline,
        };
        let restarted = |storage: &u32| {
            let reported = open.and_then(|open| open.find(*storage));
            reported.is_some_and(|replica| {
                let is_all = entry.is_final() && replica.block == known;
                replica.state == ReplicaState::Rwr && !is_all
            })
        };
        if candidates.len() < wanted
            && self.now.ms_since(self.active_since) < self.config.dead_interval_ms
            && candidates.iter().all(restarted)
        {
            return Err(RecoveryError::OnlyRestarted(block));
        }
        Ok(Plan {
            known,
            candidates,
            tried: running.map_or_else(SmallVec::new, |recovery| recovery.tried.clone()),
        })
    }

    /// Starts block recovery under `recovery_id` (E-18), the stamp edit `txid` handed out: a live primary that was not
    /// tried before, if there is one, gets RecoverBlock once `txid` is committed. `truncate_to` is the length wanted by
    /// a truncate. Refused while another one runs and has not timed out (T-L12).
    pub fn start_recovery(
        &mut self,
        now: Tick,
        txid: TxId,
        block: BlockId,
        recovery_id: GenerationStamp,
        truncate_to: Option<u64>,
    ) -> Result<(), RecoveryError> {
        self.advance(now);
        self.txid = self.txid.max(txid);
        let key = mix(block);
        let Plan {
            known,
            candidates,
            mut tried,
        } = self.plan_recovery(block)?;
        let primary = candidates
            .iter()
            .map(|storage| self.nodes.node_of(*storage))
            .min_by_key(|node| {
                let entry = self.nodes.node(*node);
                (
                    tried.contains(node),
                    entry.stale,
                    core::cmp::Reverse(entry.last_heartbeat),
                    *node,
                )
            })
            .ok_or(RecoveryError::NoReplica(block))?;
        if tried.contains(&primary) {
            // All were tried: start over.
            tried.clear();
        }
        tried.push(primary);
        let work = RecoveryWork {
            block: known,
            recovery_id,
            locations: self.nodes.targets(&candidates),
            truncate_to,
        };
        let (cause, started) = (self.txid, self.now);
        self.nodes.node_mut(primary).outbox.push(
            cause,
            Action::RecoverBlock {
                work: alloc::vec![work],
            },
        );
        self.with(block, |partition, _, _| {
            partition.open.entry(key).or_default().recovery = Some(Recovery {
                id: recovery_id,
                started,
                tried,
            });
            if let Some(entry) = partition.table.get_mut(key)
                && !entry.is_final()
            {
                entry.set_state(BlockState::UnderRecovery);
            }
        });
        Ok(())
    }

    /// Whether a CommitBlockSynchronization belongs to the recovery started last (T-L10). On a NameNode that started
    /// none (a failover came between) every result is refused: the next attempt succeeds (E-20, T-H4).
    pub fn check_recovery(
        &self,
        block: BlockId,
        recovery_id: GenerationStamp,
    ) -> Result<(), RecoveryError> {
        let key = mix(block);
        let partition = &self.partitions[partition_of(block)];
        let entry = partition
            .table
            .get(key)
            .ok_or(RecoveryError::UnknownBlock(block))?;
        if entry.is_complete() {
            return Err(RecoveryError::Complete(block));
        }
        let expected = partition
            .open
            .get(&key)
            .and_then(|open| open.recovery.as_ref())
            .map_or(GenerationStamp(0), |recovery| recovery.id);
        if expected == recovery_id && expected != GenerationStamp(0) {
            Ok(())
        } else {
            Err(RecoveryError::OtherRecovery {
                block,
                expected,
                got: recovery_id,
            })
        }
    }
}
