//! One block on its way through a pipeline: what is in flight, what is acknowledged, and what to do when a
//! node fails (E-21).

use crate::packet::Packet;
use crate::replacement::{ReplaceOptions, SlowNodes};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::client::ReplicaTarget;
use hadal_proto::transfer::WriteStage;
use hadal_types::{Block, DatanodeUuid, GenerationStamp};
use thiserror::Error;

/// More recoveries than this for one packet end the write (T-P16, HDFS
/// `dfs.client.pipeline.recovery.max-retries`).
pub const RECOVERIES_MAX: u32 = 5;

/// Why a block stream is given up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PipelineError {
    /// No node is left.
    #[error("All datanodes of {block} are bad. Aborting...")]
    AllBad {
        /// Which block.
        block: Block,
    },
    /// The same packet failed too often.
    #[error(
        "failing write: tried pipeline recovery of {block} {RECOVERIES_MAX} times without success at offset {offset}"
    )]
    TooManyRecoveries {
        /// Which block.
        block: Block,
        /// First byte not acknowledged.
        offset: u64,
    },
    /// A failed node could not be replaced, and the policy demands it.
    #[error(
        "failed to replace a bad datanode of {block}: {reason}; {left} of {replication} are left. Add DataNodes, or set client.replace_datanode_policy or client.replace_datanode_best_effort"
    )]
    NoReplacement {
        /// Which block.
        block: Block,
        /// Nodes left.
        left: usize,
        /// Copies wanted.
        replication: u16,
        /// Why there is no other.
        reason: String,
    },
}

/// What the driver does after a failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// Nothing was acknowledged and no byte can be anywhere: abandon the block, ask for another one without the
    /// bad nodes, and send everything again.
    Abandon,
    /// Ask for a new stamp, set the remaining nodes up again at the acknowledged length, tell the NameNode, and
    /// send again what was not acknowledged.
    Continue,
}

/// The state of one block's stream. Packets move from *queued* to *sent* to gone (acknowledged).
#[derive(Debug)]
pub struct BlockStream {
    block: Block,
    /// Stamp of the last pipeline that was established: the least any replica has.
    settled: GenerationStamp,
    nodes: Vec<ReplicaTarget>,
    queued: VecDeque<Packet>,
    sent: VecDeque<Packet>,
    in_flight: usize,
    acked: u64,
    established: bool,
    /// Some pipeline of it was.
    was_established: bool,
    finishing: Option<u64>,
    finish_sent: bool,
    finished: bool,
    recoveries: u32,
    recoveries_at: u64,
    bad: Vec<DatanodeUuid>,
    /// How many of `bad` failed before the last byte that was acknowledged since.
    bad_before: usize,
    /// Reopened for append and never set up since: its replicas are FINALIZED.
    reopening: bool,
    /// A node joined that was not there in the beginning.
    joined: bool,
    /// A node that restarts and is waited for.
    awaited: Option<DatanodeUuid>,
    /// Somebody may rely on its bytes: it was reopened, or flushed.
    relied_on: bool,
    slow: SlowNodes,
    options: ReplaceOptions,
}

impl BlockStream {
    /// A fresh block and its pipeline.
    #[must_use]
    pub fn new(block: Block, nodes: Vec<ReplicaTarget>) -> Self {
        Self {
            block,
            settled: block.generation_stamp,
            nodes,
            queued: VecDeque::new(),
            sent: VecDeque::new(),
            in_flight: 0,
            acked: 0,
            established: false,
            was_established: false,
            finishing: None,
            finish_sent: false,
            finished: false,
            recoveries: 0,
            recoveries_at: 0,
            bad: Vec::new(),
            bad_before: 0,
            reopening: false,
            joined: false,
            awaited: None,
            relied_on: false,
            slow: SlowNodes::default(),
            options: ReplaceOptions::default(),
        }
    }

    /// How its failed nodes are replaced.
    #[must_use]
    pub fn with_options(self, options: ReplaceOptions) -> Self {
        Self { options, ..self }
    }

    /// A finalised block with the nodes that have it, opened again for append (F-10): the first thing to do with it is
    /// [`Recovery::Continue`].
    #[must_use]
    pub fn reopen(block: Block, nodes: Vec<ReplicaTarget>) -> Self {
        Self {
            acked: block.length,
            recoveries_at: block.length,
            reopening: true,
            relied_on: true,
            ..Self::new(block, nodes)
        }
    }

    /// The bytes acknowledged so far were flushed for readers.
    pub fn handle_flushed(&mut self) {
        self.relied_on |= self.acked > 0;
    }

    /// Whether another node should join before the stream goes on after a failure (E-21; T-P13).
    #[must_use]
    pub fn wants_replacement(&self, replication: u16) -> bool {
        let closing = self.is_closing();
        let begun = self.acked > 0 || !self.bad.is_empty();
        begun
            && !closing
            && self.awaited.is_none()
            && self
                .options
                .policy
                .wants(replication, self.nodes.len(), self.relied_on)
    }

    /// A node that holds the acknowledged bytes by now joins the end of the pipeline.
    pub fn handle_replacement(&mut self, node: ReplicaTarget) {
        self.nodes.push(node);
        self.joined = true;
    }

    /// An acknowledgement in which these nodes (a bit each) called themselves slow. The index of one that has done so
    /// too often: the caller treats it as failed (T-P12).
    pub fn handle_slow(&mut self, slow_nodes: u64) -> Option<usize> {
        let pipeline = self.nodes.iter().map(|node| node.datanode);
        self.slow
            .handle_ack(pipeline, slow_nodes, self.options.slow_acks_max)
    }

    /// Id and present stamp; the length is what is acknowledged.
    #[must_use]
    pub fn block(&self) -> Block {
        Block {
            length: self.acked,
            ..self.block
        }
    }

    /// The nodes still in the pipeline, in order.
    #[must_use]
    pub fn nodes(&self) -> &[ReplicaTarget] {
        &self.nodes
    }

    /// Nodes that failed on this block.
    #[must_use]
    pub fn bad_nodes(&self) -> &[DatanodeUuid] {
        &self.bad
    }

    /// There is no other node: those that failed long enough ago, with bytes acknowledged since, may have come back.
    /// Whether there were any.
    pub fn forgive(&mut self) -> bool {
        let forgiven = core::mem::take(&mut self.bad_before);
        self.bad.drain(..forgiven);
        forgiven > 0
    }

    /// Bytes acknowledged by every node of the pipeline.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes queued or sent and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Every node has finalised its replica.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Takes a packet for sending.
    pub fn push(&mut self, packet: Packet) {
        assert!(
            self.finishing.is_none(),
            "no packet follows the end of a block"
        );
        self.in_flight += packet.length;
        self.queued.push_back(packet);
    }

    /// Its end was asked for: no packet may follow.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.finishing.is_some()
    }

    /// The block ends at `length` bytes, all of which were pushed.
    pub fn finish(&mut self, length: u64) {
        self.finishing = Some(length);
    }

    /// The next packet to put on the stream; it counts as sent.
    pub fn poll_send(&mut self) -> Option<&Packet> {
        let packet = self.queued.pop_front()?;
        self.sent.push_back(packet);
        self.sent.back()
    }

    /// Whether the end-of-block frame is due now; it counts as sent.
    pub fn poll_finish(&mut self) -> Option<u64> {
        let length = self.finishing?;
        if self.finish_sent || self.finished || !self.queued.is_empty() {
            return None;
        }
        self.finish_sent = true;
        Some(length)
    }

    /// The pipeline reported that it is set up.
    pub fn handle_established(&mut self) {
        self.established = true;
        self.was_established = true;
    }

    /// Everything up to `offset` is acknowledged by every node; `finished` when the end-of-block frame is. `false` when that
    /// cannot be: bytes that were never given to it, or an end that is not the block's. The stream has failed then.
    #[must_use]
    pub fn handle_ack(&mut self, offset: u64, finished: bool) -> bool {
        let last = self.queued.back().or(self.sent.back());
        let known = last.map_or(self.acked, |packet| packet.end().max(self.acked));
        if offset > known {
            return false;
        }
        self.handle_established();
        if offset > self.acked {
            self.acked = offset;
            self.bad_before = self.bad.len();
        }
        while let Some(packet) = self.sent.front() {
            if packet.end() > self.acked {
                break;
            }
            self.in_flight -= packet.length;
            self.sent.pop_front();
        }
        if finished {
            if self.finishing != Some(self.acked) {
                return false;
            }
            self.finished = true;
        }
        true
    }

    /// The stream failed. `bad_node` is the pipeline index at fault, when known; an unknown one blames the first
    /// node, which is the only one this client talks to.
    ///
    /// # Errors
    /// [`PipelineError`] when the write cannot go on.
    pub fn handle_failure(&mut self, bad_node: Option<usize>) -> Result<Recovery, PipelineError> {
        let index = bad_node
            .filter(|index| *index < self.nodes.len())
            .unwrap_or(0);
        if index < self.nodes.len() {
            self.bad.push(self.nodes.remove(index).datanode);
        }
        if self.acked > self.recoveries_at {
            self.recoveries = 0;
        }
        self.recoveries_at = self.acked;
        self.recoveries += 1;
        if self.recoveries > RECOVERIES_MAX {
            return Err(PipelineError::TooManyRecoveries {
                block: self.block(),
                offset: self.acked,
            });
        }
        match self.start_again() {
            Recovery::Continue if self.nodes.is_empty() => Err(PipelineError::AllBad {
                block: self.block(),
            }),
            recovery => Ok(recovery),
        }
    }

    /// The caller left in the middle of something (its future was dropped), so that what is on the stream is not known
    /// (T-P20): the same nodes are set up again. Nobody is to blame, and it is no recovery of a packet.
    pub fn handle_interrupted(&mut self) -> Recovery {
        // It may have been in the middle of a recovery.
        self.established |= self.was_established;
        self.start_again()
    }

    /// A node of the pipeline announced its restart. It is waited for when it is the only one left, or on the writer's own
    /// `host` (HDFS's `shouldWaitForRestart`): then it stays in the pipeline. Otherwise the others go on without it. Neither
    /// counts as a recovery of a packet (T-P5, T-P6). `None`: it has nothing to wait for, and is to be treated as failed.
    pub fn handle_restarting(&mut self, bad_node: Option<usize>, host: &str) -> Option<Recovery> {
        let index = bad_node.filter(|index| *index < self.nodes.len())?;
        if self.reopening || !(self.established || self.was_established || self.acked > 0) {
            return None;
        }
        let node = &self.nodes[index];
        if self.nodes.len() == 1 || is_on(node, host) {
            self.awaited = Some(node.datanode);
        } else {
            self.bad.push(self.nodes.remove(index).datanode);
        }
        self.established = true;
        Some(self.start_again())
    }

    /// A node that restarts is waited for.
    #[must_use]
    pub fn awaits_restart(&self) -> bool {
        self.awaited.is_some()
    }

    /// The node that restarts did not come back in time: its index, to be treated as failed.
    pub fn handle_restart_overdue(&mut self) -> Option<usize> {
        let awaited = self.awaited.take()?;
        self.nodes.iter().position(|node| node.datanode == awaited)
    }

    fn start_again(&mut self) -> Recovery {
        // Un-acked packets go back to the head of the queue, in order (E-21).
        while let Some(packet) = self.sent.pop_back() {
            self.queued.push_front(packet);
        }
        self.finish_sent = false;
        if !self.established && self.acked == 0 && !self.reopening {
            return Recovery::Abandon;
        }
        self.established = false;
        Recovery::Continue
    }

    /// A recovered pipeline could not be set up: one more node is bad.
    ///
    /// # Errors
    /// As [`BlockStream::handle_failure`].
    pub fn handle_recovery_failure(
        &mut self,
        bad_node: Option<usize>,
    ) -> Result<Recovery, PipelineError> {
        self.established = true;
        self.handle_failure(bad_node)
    }

    /// The block as the last established pipeline knew it: what the NameNode still has on record.
    #[must_use]
    pub fn settled_block(&self) -> Block {
        Block {
            generation_stamp: self.settled,
            ..self.block()
        }
    }

    /// Everything is acknowledged but the end of the block: what failed is the close (E-21). No node joins for it, as
    /// the NameNode copies finished blocks by itself.
    fn is_closing(&self) -> bool {
        self.finishing == Some(self.acked) && !self.reopening
    }

    /// The stage to set a recovered pipeline up with. A recovery that failed half way has raised the stamp of some
    /// replicas already: they are between the settled stamp and the new one.
    #[must_use]
    pub fn recovery_stage(&self) -> WriteStage {
        if self.is_closing() {
            return WriteStage::CloseRecovery {
                old: self.settled,
                length: self.acked,
            };
        }
        // A node that joined has an open replica, and so may others have once a set-up for append was tried.
        if self.reopening {
            let old = self.settled;
            return match self.recoveries == 0 && !self.joined {
                true => WriteStage::Append { old },
                false => WriteStage::AppendRecovery { old },
            };
        }
        WriteStage::StreamingRecovery {
            old: self.settled,
            acked: self.acked,
        }
    }

    /// The recovered pipeline is established and the NameNode knows it. One that was closing has closed with that.
    pub fn handle_recovered(&mut self) {
        self.finished |= self.is_closing();
        self.settled = self.block.generation_stamp;
        self.reopening = false;
        self.awaited = None;
    }

    /// The block goes on under a new stamp.
    pub fn handle_new_stamp(&mut self, stamp: GenerationStamp) {
        assert!(stamp > self.block.generation_stamp, "stamps only grow");
        self.block.generation_stamp = stamp;
    }

    /// Another block takes over everything queued (after [`Recovery::Abandon`]).
    pub fn handle_replaced(&mut self, block: Block, nodes: Vec<ReplicaTarget>) {
        assert_eq!(
            self.acked, 0,
            "only a block without acknowledged bytes is replaced"
        );
        self.block = block;
        self.settled = block.generation_stamp;
        self.nodes = nodes;
        self.awaited = None;
        self.established = false;
        self.was_established = false;
        self.finish_sent = false;
    }
}

/// Whether a DataNode runs on this host.
fn is_on(node: &ReplicaTarget, host: &str) -> bool {
    let named = node.address.rsplit_once(':').map_or("", |(named, _)| named);
    !host.is_empty() && named.trim_matches(['[', ']']) == host
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replacement::ReplacePolicy;
    use alloc::vec;
    use bytes::Bytes;
    use hadal_types::{BlockId, StorageUuid};

    fn node(number: u128) -> ReplicaTarget {
        ReplicaTarget {
            datanode: DatanodeUuid(number),
            storage: StorageUuid(number),
            name: String::new(),
            address: String::new(),
            shards: 1,
            rack: String::new(),
        }
    }

    fn stream() -> BlockStream {
        let block = Block {
            id: BlockId(7),
            generation_stamp: GenerationStamp(1000),
            length: 0,
        };
        BlockStream::new(block, vec![node(1), node(2), node(3)])
    }

    fn packet(offset: u64) -> Packet {
        Packet {
            offset,
            pieces: vec![Bytes::from_static(b"0123")],
            length: 4,
            flags: 0,
        }
    }

    fn drain(stream: &mut BlockStream) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Some(packet) = stream.poll_send() {
            offsets.push(packet.offset);
        }
        offsets
    }

    #[test]
    fn unacked_packets_are_sent_again_in_order_after_a_failure_e21() {
        let mut stream = stream();
        for offset in [0, 4, 8] {
            stream.push(packet(offset));
        }
        assert_eq!(drain(&mut stream), [0, 4, 8]);
        assert!(stream.handle_ack(4, false));
        stream.push(packet(12));
        assert_eq!(stream.handle_failure(Some(1)), Ok(Recovery::Continue));
        assert_eq!(
            stream
                .nodes()
                .iter()
                .map(|n| n.datanode.0)
                .collect::<Vec<_>>(),
            [1, 3]
        );
        assert_eq!(stream.bad_nodes(), [DatanodeUuid(2)]);
        stream.handle_new_stamp(GenerationStamp(1001));
        assert_eq!(drain(&mut stream), [4, 8, 12]);
        stream.finish(16);
        assert_eq!(stream.poll_finish(), Some(16));
        assert_eq!(stream.poll_finish(), None);
        assert!(stream.handle_ack(16, true));
        assert!(stream.is_finished());
        assert_eq!(stream.in_flight(), 0);
    }

    #[test]
    fn an_acknowledgement_that_cannot_be_is_a_failure() {
        let mut stream = stream();
        stream.push(packet(0));
        assert_eq!(drain(&mut stream), [0]);
        assert!(!stream.handle_ack(5, false), "never sent");
        assert_eq!(stream.acked(), 0);
        assert!(!stream.handle_ack(4, true), "no end was asked for");
        stream.push(packet(4));
        stream.finish(8);
        assert_eq!(drain(&mut stream), [4]);
        assert!(!stream.handle_ack(4, true), "not to its end");
        assert!(!stream.is_finished());
        assert!(stream.handle_ack(8, true));
    }

    #[test]
    fn a_recovery_that_failed_half_way_starts_from_the_settled_stamp() {
        let mut stream = stream();
        stream.handle_established();
        assert_eq!(stream.handle_failure(Some(0)), Ok(Recovery::Continue));
        stream.handle_new_stamp(GenerationStamp(1001));
        assert_eq!(
            stream.handle_recovery_failure(Some(0)),
            Ok(Recovery::Continue)
        );
        stream.handle_new_stamp(GenerationStamp(1002));
        let old = GenerationStamp(1000);
        assert_eq!(
            stream.recovery_stage(),
            WriteStage::StreamingRecovery { old, acked: 0 }
        );
        assert_eq!(stream.settled_block().generation_stamp, old);
        stream.handle_recovered();
        assert_eq!(
            stream.settled_block().generation_stamp,
            GenerationStamp(1002)
        );
    }

    #[test]
    fn a_block_nobody_accepted_is_abandoned_e21() {
        let mut stream = stream();
        stream.push(packet(0));
        drain(&mut stream);
        assert_eq!(stream.handle_failure(None), Ok(Recovery::Abandon));
        assert_eq!(stream.bad_nodes(), [DatanodeUuid(1)]);
        let block = Block {
            id: BlockId(8),
            generation_stamp: GenerationStamp(1001),
            length: 0,
        };
        stream.handle_replaced(block, vec![node(2)]);
        assert_eq!(drain(&mut stream), [0]);
    }

    #[test]
    fn more_than_five_recoveries_of_one_packet_fail_the_write_t_p16() {
        let mut stream = BlockStream::new(Block::default(), (0..20).map(node).collect());
        stream.push(packet(0));
        stream.push(packet(4));
        drain(&mut stream);
        assert!(stream.handle_ack(4, false));
        for _ in 0..RECOVERIES_MAX {
            assert_eq!(stream.handle_failure(None), Ok(Recovery::Continue));
            stream.handle_established();
        }
        assert!(matches!(
            stream.handle_failure(None),
            Err(PipelineError::TooManyRecoveries { .. })
        ));
    }

    #[test]
    fn progress_resets_the_recovery_count() {
        let mut stream = BlockStream::new(Block::default(), (0..40).map(node).collect());
        for round in 0..20u64 {
            stream.push(packet(round * 4));
            drain(&mut stream);
            assert!(stream.handle_ack(round * 4 + 4, false));
            assert_eq!(stream.handle_failure(None), Ok(Recovery::Continue));
        }
    }

    #[test]
    fn an_appended_block_goes_on_from_its_length_f10() {
        let block = Block {
            id: BlockId(7),
            generation_stamp: GenerationStamp(1000),
            length: 6,
        };
        let mut stream = BlockStream::reopen(block, vec![node(1), node(2), node(3)]);
        let old = GenerationStamp(1000);
        stream.handle_new_stamp(GenerationStamp(1001));
        assert_eq!(stream.recovery_stage(), WriteStage::Append { old });
        assert_eq!(stream.settled_block(), block);
        // The set-up fails: never abandoned, as the block holds bytes of the file.
        assert_eq!(
            stream.handle_recovery_failure(Some(1)),
            Ok(Recovery::Continue)
        );
        stream.handle_new_stamp(GenerationStamp(1002));
        assert_eq!(stream.recovery_stage(), WriteStage::AppendRecovery { old });
        stream.handle_recovered();
        stream.handle_established();
        let stage = WriteStage::StreamingRecovery {
            old: GenerationStamp(1002),
            acked: 6,
        };
        assert_eq!(stream.recovery_stage(), stage);
        // The bytes of the chunk it ended in go first, with what follows them.
        stream.push(packet(4));
        assert_eq!(drain(&mut stream), [4]);
        assert!(stream.handle_ack(8, false));
        assert_eq!((stream.acked(), stream.in_flight()), (8, 0));
    }

    #[test]
    fn a_node_that_joins_an_append_has_an_open_replica_already() {
        let mut stream = BlockStream::reopen(Block::default(), vec![node(1)]);
        stream.handle_replacement(node(2));
        let old = GenerationStamp(0);
        assert_eq!(stream.recovery_stage(), WriteStage::AppendRecovery { old });
    }

    #[test]
    fn an_empty_appended_block_is_not_abandoned() {
        let mut stream = BlockStream::reopen(Block::default(), vec![node(1), node(2)]);
        assert_eq!(stream.handle_failure(None), Ok(Recovery::Continue));
    }

    #[test]
    fn replacements_are_wanted_by_policy_but_not_while_closing_t_p13() {
        let mut stream = stream();
        assert!(!stream.wants_replacement(3), "nothing failed");
        stream.push(packet(0));
        drain(&mut stream);
        assert!(stream.handle_ack(4, false));
        assert_eq!(stream.handle_failure(Some(2)), Ok(Recovery::Continue));
        assert!(!stream.wants_replacement(3), "two of three go on");
        stream.handle_flushed();
        assert!(stream.wants_replacement(3), "flushed bytes");
        stream.handle_replacement(node(4));
        assert!(!stream.wants_replacement(3));
        assert_eq!(stream.handle_failure(Some(0)), Ok(Recovery::Continue));
        stream.finish(4);
        assert!(!stream.wants_replacement(3), "closing");
    }

    #[test]
    fn t_p8_a_node_is_replaced_before_a_byte_was_acknowledged() {
        let options = ReplaceOptions {
            policy: ReplacePolicy::Always,
            ..ReplaceOptions::default()
        };
        let mut stream = stream().with_options(options);
        stream.handle_established();
        stream.push(packet(0));
        drain(&mut stream);
        assert_eq!(stream.handle_failure(Some(1)), Ok(Recovery::Continue));
        assert!(stream.wants_replacement(3));
        stream.handle_replacement(node(9));
        assert_eq!(drain(&mut stream), [0]);
    }

    /// Nodes that failed are asked again only when there is no other, and never the one that failed just now.
    #[test]
    fn nodes_that_failed_before_the_last_progress_can_be_forgiven_e21() {
        let mut stream = stream();
        stream.push(packet(0));
        stream.push(packet(4));
        drain(&mut stream);
        stream.handle_established();
        assert_eq!(stream.handle_failure(Some(0)), Ok(Recovery::Continue));
        assert!(!stream.forgive(), "nothing was acknowledged since");
        drain(&mut stream);
        assert!(stream.handle_ack(4, false));
        assert_eq!(stream.handle_failure(Some(0)), Ok(Recovery::Continue));
        assert_eq!(stream.bad_nodes(), [DatanodeUuid(1), DatanodeUuid(2)]);
        assert!(stream.forgive());
        assert_eq!(stream.bad_nodes(), [DatanodeUuid(2)]);
        assert!(!stream.forgive());
        drain(&mut stream);
        assert!(stream.handle_ack(4, false));
        assert!(!stream.forgive(), "no byte more is acknowledged");
    }

    /// T-P20: nobody is blamed for a caller that left, as often as it likes.
    #[test]
    fn an_interrupted_stream_starts_again_with_the_same_nodes_t_p20() {
        let mut stream = stream();
        stream.push(packet(0));
        drain(&mut stream);
        assert_eq!(stream.handle_interrupted(), Recovery::Abandon);
        let block = stream.block();
        stream.handle_replaced(block, vec![node(1), node(2), node(3)]);
        stream.handle_established();
        for _ in 0..2 * RECOVERIES_MAX {
            assert_eq!(drain(&mut stream), [0]);
            assert_eq!(stream.handle_interrupted(), Recovery::Continue);
            assert_eq!((stream.nodes().len(), stream.bad_nodes().len()), (3, 0));
            stream.handle_established();
        }
    }

    /// T-P5, T-P6: the only node left and one on the writer's host are waited for, others left out; as often as it
    /// happens.
    #[test]
    fn restarting_nodes_are_waited_for_or_left_out_without_blame_t_p5_t_p6() {
        let mut stream = stream();
        stream.push(packet(0));
        drain(&mut stream);
        assert_eq!(stream.handle_restarting(Some(1), ""), None, "never set up");
        stream.handle_established();
        assert_eq!(
            stream.handle_restarting(Some(1), "10.0.0.9"),
            Some(Recovery::Continue)
        );
        assert_eq!((stream.nodes().len(), stream.awaits_restart()), (2, false));
        stream.nodes[1].address = "10.0.0.9:9866".into();
        for _ in 0..2 * RECOVERIES_MAX {
            assert_eq!(
                stream.handle_restarting(Some(1), "10.0.0.9"),
                Some(Recovery::Continue)
            );
            assert!(stream.awaits_restart() && !stream.wants_replacement(3));
            assert_eq!(stream.nodes().len(), 2);
            assert_eq!(drain(&mut stream), [0]);
            stream.handle_recovered();
            assert!(!stream.awaits_restart());
            stream.handle_established();
        }
        assert_eq!(stream.handle_failure(Some(0)), Ok(Recovery::Continue));
        assert_eq!(
            stream.handle_restarting(Some(0), ""),
            Some(Recovery::Continue),
            "the only one left"
        );
        let overdue = stream.handle_restart_overdue();
        assert_eq!(overdue, Some(0));
        assert!(matches!(
            stream.handle_recovery_failure(overdue),
            Err(PipelineError::AllBad { .. })
        ));
    }

    /// E-21: what fails once everything but the end is acknowledged is the close; done again, it ends the block.
    #[test]
    fn a_failed_close_is_recovered_as_a_close_e21() {
        let mut stream = stream();
        stream.push(packet(0));
        drain(&mut stream);
        stream.finish(4);
        assert_eq!(stream.poll_finish(), Some(4));
        assert_eq!(stream.handle_failure(Some(2)), Ok(Recovery::Abandon));
        let block = stream.block();
        stream.handle_replaced(block, vec![node(1), node(2), node(3)]);
        assert_eq!(drain(&mut stream), [0]);
        assert_eq!(stream.poll_finish(), Some(4));
        assert!(stream.handle_ack(4, false));
        assert_eq!(stream.handle_failure(Some(2)), Ok(Recovery::Continue));
        stream.handle_new_stamp(GenerationStamp(1001));
        let (old, length) = (GenerationStamp(1000), 4);
        let close = WriteStage::CloseRecovery { old, length };
        assert_eq!(stream.recovery_stage(), close);
        assert_eq!(
            stream.handle_recovery_failure(Some(0)),
            Ok(Recovery::Continue)
        );
        stream.handle_new_stamp(GenerationStamp(1002));
        assert_eq!(
            stream.recovery_stage(),
            close,
            "from the settled stamp still"
        );
        assert!(!stream.is_finished());
        stream.handle_recovered();
        assert!(stream.is_finished());
        assert_eq!(stream.poll_finish(), None);
        assert_eq!(stream.block().generation_stamp, GenerationStamp(1002));
    }

    /// Bytes are missing still: the pipeline streams again before it closes.
    #[test]
    fn a_close_with_bytes_missing_is_recovered_by_streaming_e21() {
        let mut stream = stream();
        stream.handle_established();
        stream.push(packet(0));
        drain(&mut stream);
        stream.finish(4);
        assert_eq!(stream.handle_failure(Some(1)), Ok(Recovery::Continue));
        stream.handle_new_stamp(GenerationStamp(1001));
        let (old, acked) = (GenerationStamp(1000), 0);
        let streaming = WriteStage::StreamingRecovery { old, acked };
        assert_eq!(stream.recovery_stage(), streaming);
        stream.handle_recovered();
        assert!(!stream.is_finished());
        assert_eq!(drain(&mut stream), [0]);
        assert_eq!(stream.poll_finish(), Some(4));
    }

    #[test]
    fn all_nodes_bad_aborts() {
        let mut stream = stream();
        stream.handle_established();
        assert_eq!(stream.handle_failure(None), Ok(Recovery::Continue));
        assert_eq!(stream.handle_recovery_failure(None), Ok(Recovery::Continue));
        assert!(matches!(
            stream.handle_recovery_failure(None),
            Err(PipelineError::AllBad { .. })
        ));
    }
}
