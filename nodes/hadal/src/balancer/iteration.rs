//! One iteration: asks for blocks, starts copies, waits for them.

use crate::admin::{Operator, unexpected};
use anyhow::{Result, bail};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hadal_balancer::{Candidate, Dispatch, Limits, Move, Task};
use hadal_client::{ClientError, FaultClass};
use hadal_proto::admin::{BlocksPage, DatanodeStatus, Request, Response};
use hadal_proto::client::ReplicaTarget;
use hadal_types::{BlockId, DatanodeUuid};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Blocks asked for at once.
const PAGE: u32 = 1_000;
/// A copy refused for want of room is tried again so often, after so long.
const BUSY_TRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// What an iteration did.
pub(super) struct Outcome {
    pub(super) moves: u64,
    pub(super) failed: u64,
    pub(super) bytes_moved: u64,
}

/// What is kept between iterations.
pub(super) struct Mover<'a> {
    operator: &'a Operator,
    /// Where the next page of each source's blocks begins.
    cursors: BTreeMap<DatanodeUuid, Option<u64>>,
    /// Blocks moved in the last iteration.
    moved: BTreeSet<BlockId>,
}

/// A DataNode as a target; which of its storages is its own choice.
fn target_of(node: &DatanodeStatus) -> ReplicaTarget {
    let good = node.storages.iter().find(|storage| !storage.failed);
    ReplicaTarget {
        datanode: node.uuid,
        storage: good.map(|storage| storage.storage).unwrap_or_default(),
        name: node.name.clone(),
        address: node.address.clone(),
        shards: node.shards,
        rack: node.rack.clone(),
    }
}

impl<'a> Mover<'a> {
    pub(super) fn new(operator: &'a Operator) -> Self {
        Self {
            operator,
            cursors: BTreeMap::new(),
            moved: BTreeSet::new(),
        }
    }

    /// Moves blocks for these tasks, until they are done, no block is left or the time is over.
    pub(super) async fn iterate(
        &mut self,
        tasks: &[Task],
        nodes: &[DatanodeStatus],
    ) -> Result<Outcome> {
        let settings = &self.operator.config.balancer;
        let limits = Limits {
            moves_per_node: settings.moves_per_datanode,
            moves_max: settings.moves_max,
        };
        let targets: BTreeMap<DatanodeUuid, ReplicaTarget> = nodes
            .iter()
            .map(|node| (node.uuid, target_of(node)))
            .collect();
        let racks = nodes.iter().map(|node| (node.uuid, node.rack.clone()));
        let mut racks: BTreeMap<DatanodeUuid, String> = racks.collect();
        let mut holders = targets.clone();
        // Blocks are also on DataNodes that take no part: their racks count.
        let (_, all) = self.operator.datanodes().await?;
        for node in &all {
            racks.entry(node.uuid).or_insert_with(|| node.rack.clone());
            holders.entry(node.uuid).or_insert_with(|| target_of(node));
        }
        let moved_before = std::mem::take(&mut self.moved);
        let mut dispatch = Dispatch::new(tasks, racks, moved_before.clone(), limits);
        let (mut pages, mut copies) = (FuturesUnordered::new(), FuturesUnordered::new());
        let over = tokio::time::sleep(Duration::from_millis(settings.max_iteration_time.0));
        let mut over = std::pin::pin!(over);
        let mut in_time = true;
        loop {
            while let Some(source) = dispatch.poll_source() {
                let after = self.cursors.get(&source).copied().flatten();
                pages.push(self.page(source, after));
            }
            while let Some(next) = dispatch.poll_move() {
                let (proxy, target) = (&holders[&next.proxy], &targets[&next.target]);
                copies.push(copy(self.operator, next, proxy, target));
            }
            if dispatch.is_finished() || pages.is_empty() && copies.is_empty() {
                break;
            }
            tokio::select! {
                Some(page) = pages.next(), if !pages.is_empty() => {
                    let (source, page): (DatanodeUuid, BlocksPage) = page?;
                    self.cursors.insert(source, page.next);
                    let blocks = page.blocks.iter().map(|held| Candidate {
                        block: held.block,
                        holders: held
                            .holders
                            .iter()
                            .filter_map(|at| page.holders.get(*at as usize))
                            .map(|holder| holder.datanode)
                            .filter(|holder| holders.contains_key(holder))
                            .collect(),
                    });
                    dispatch.handle_blocks(source, blocks, page.next.is_some());
                }
                Some((next, outcome)) = copies.next(), if !copies.is_empty() => {
                    if let Err(error) = &outcome {
                        let Move { block, .. } = next;
                        tracing::warn!("moving {block}: {error}");
                    }
                    dispatch.handle_done(next.block.id, outcome.is_ok());
                }
                () = &mut over, if in_time => {
                    in_time = false;
                    dispatch.stop();
                }
            }
        }
        let outcome = Outcome {
            moves: dispatch.moves,
            failed: dispatch.failed,
            bytes_moved: dispatch.bytes_moved,
        };
        self.moved = dispatch.into_moved();
        self.moved.retain(|block| !moved_before.contains(block));
        Ok(outcome)
    }

    /// The next blocks of a source.
    fn page(
        &self,
        source: DatanodeUuid,
        after: Option<u64>,
    ) -> impl Future<Output = Result<(DatanodeUuid, BlocksPage)>> + use<'a> {
        let operator = self.operator;
        let request = Request::GetBlocks {
            datanode: source,
            after,
            min_bytes: operator.config.balancer.min_block_size.0.max(1),
            limit: PAGE,
        };
        async move {
            match operator.ask_active(&request).await? {
                Response::Blocks { page } => Ok((source, page)),
                other => bail!(unexpected(&other)),
            }
        }
    }
}

async fn copy(
    operator: &Operator,
    next: Move,
    proxy: &ReplicaTarget,
    target: &ReplicaTarget,
) -> (Move, Result<(), ClientError>) {
    let mut tries = 0;
    loop {
        let copied = operator
            .dfs
            .replace_block(next.block, proxy, target, next.source);
        match copied.await {
            Err(error) if error.class() == Some(FaultClass::Busy) && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            outcome => return (next, outcome),
        }
    }
}
