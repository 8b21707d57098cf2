//! What operators ask of a NameNode.

use super::unsupported;
use crate::namesystem::Namesystem;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use hadal_proto::admin::{
    DatanodeStatus, NamenodeStats, NodeStatus, Request, Response, SafeModeAction,
};
use hadal_proto::client::FsStats;
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{BlockState, Role, Tick};

impl Namesystem {
    pub(crate) fn admin_call(
        &mut self,
        now: Tick,
        wall_ms: u64,
        request: Request,
    ) -> Result<Response, Fault> {
        match request {
            Request::GetStatus => Ok(Response::Status {
                status: NodeStatus {
                    name: self.config.name.clone(),
                    role: Role::Namenode.to_string(),
                    state: self.ha,
                    safe_mode: self.blocks.in_safe_mode(),
                    info: self.config.info.clone(),
                    software: self.config.software.clone(),
                },
            }),
            Request::SafeMode { action } => {
                match action {
                    SafeModeAction::Get => {}
                    SafeModeAction::Enter => self.blocks.enter_safe_mode(now),
                    SafeModeAction::Leave => self.blocks.leave_safe_mode(now),
                }
                Ok(Response::SafeMode {
                    on: self.blocks.in_safe_mode(),
                    message: self.blocks.safe_mode_message(),
                })
            }
            Request::RollEdits => {
                self.require_active()?;
                Ok(Response::AtTxid {
                    txid: self.roll_edits(wall_ms),
                })
            }
            Request::DatanodeReport => Ok(Response::Datanodes {
                stats: self.current_fs_stats(),
                nodes: self.datanode_report(now),
            }),
            Request::NamenodeStats => Ok(Response::NamenodeStats {
                stats: self.namenode_stats(),
            }),
            Request::SetBalancerBandwidth { bytes_per_s } => {
                self.require_active()?;
                if bytes_per_s == 0 {
                    let message = "the balancing bandwidth is 0 bytes per second: give at least 1";
                    return Err(Fault::new(FaultClass::InvalidArgument, message));
                }
                self.blocks.set_balancer_bandwidth(bytes_per_s);
                Ok(Response::Done)
            }
            Request::GetBlocks {
                datanode,
                after,
                min_bytes,
                limit,
            } => {
                self.require_active()?;
                let page = self
                    .blocks
                    .movable_blocks(datanode, after, min_bytes, limit as usize);
                let page = page.ok_or_else(|| {
                    let message = format!("no live DataNode has the identity {datanode}");
                    Fault::new(FaultClass::NotFound, message)
                })?;
                Ok(Response::Blocks { page })
            }
            Request::NamespaceDigest => {
                let view = self.view();
                Ok(Response::Digest {
                    txid: view.txid(),
                    digest: view.digest(),
                })
            }
            Request::SaveNamespace
            | Request::RefreshNodes
            | Request::Transition { .. }
            | Request::Failover { .. }
            | Request::CheckHealth => Err(unsupported(request.name())),
            Request::JournalStats
            | Request::Replicas { .. }
            | Request::TriggerBlockReport
            | Request::TriggerHeartbeat
            | Request::RefreshNamenodes
            | Request::GetBalancerBandwidth
            | Request::ShutdownDatanode { .. }
            | Request::EvictWriters => Err(Fault::new(
                FaultClass::Unsupported,
                format!("{} is not for a NameNode", request.name()),
            )),
        }
    }

    /// DataNodes in detail; of those that leave and cannot yet, which files hold them up.
    fn datanode_report(&self, now: Tick) -> Vec<DatanodeStatus> {
        let mut nodes = self.blocks.datanode_report(now);
        for node in &mut nodes {
            for held in self.blocks.held_up(node.uuid) {
                let stored = held.stored;
                let path = self.state.tree.path_of(stored.inode);
                let open = match stored.state {
                    BlockState::Complete => "",
                    _ => ", open for write",
                };
                node.held_up.push(format!(
                    "{path} ({}: {} of {} replicas on DataNodes that stay{open})",
                    stored.block, held.staying, held.needed
                ));
            }
        }
        nodes
    }

    /// Ends the segment with an `EndSegment` edit and starts the next; returns its first txid. Active only.
    pub fn roll_edits(&mut self, wall_ms: u64) -> hadal_types::TxId {
        self.own_edit(wall_ms, EditOp::EndSegment);
        let next = self.applied().next();
        self.barrier.roll(next);
        self.own_edit(wall_ms, EditOp::StartSegment);
        next
    }

    /// Capacity and counts of the whole cluster.
    pub(super) fn current_fs_stats(&self) -> FsStats {
        let counts = self.state.tree.counts;
        FsStats {
            inodes: counts.directories + counts.files,
            blocks: counts.blocks,
            tree_bytes: self.state.tree.heap_bytes_about(self.state.counters.inode),
            ..self.blocks.fs_stats()
        }
    }

    /// `debug nn-stats`; the driver adds what only it knows (`journal_lag`).
    #[must_use]
    pub fn namenode_stats(&self) -> NamenodeStats {
        let counts = self.state.tree.counts;
        let mut stats = NamenodeStats::default();
        self.blocks.fill_namenode_stats(&mut stats);
        stats.state = self.ha.to_string();
        stats.epoch = self.epoch;
        stats.inodes = counts.directories + counts.files;
        stats.open_files = self.state.leases.count();
        stats.last_written = self.applied();
        stats.last_applied = self.applied();
        stats.committed = self.committed();
        stats.last_checkpoint = self.last_checkpoint;
        stats
    }
}
