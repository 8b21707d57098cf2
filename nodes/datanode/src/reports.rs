//! What a DataNode tells of its storages: full reports, and the rounds of digest reports (A-31, protocols.md section 4).
//!
//! Deletions that were accepted and not carried out yet are told as done: a report under a new claim must not vouch for
//! replicas that an order of the old one is about to remove (F-02).

use crate::node::Node;
use hadal_env::Env;
use hadal_proto::datanode::{
    BlockReport, DatanodeProtocol, DigestAsk, DigestReport, DigestRound, OpenReplica,
    REPORT_PART_MAX, ReportEntries, Request,
};
use hadal_proto::{Fault, FaultClass};
use hadal_quic::{CallClient, CallError};
use hadal_types::{Block, ReplicaState, StorageUuid, digest_leaf_keys};
use std::rc::Rc;
use store_replica::ReplicaStore;

/// A round of a digest report.
pub(crate) enum Round {
    /// What is to be sent.
    Tell(DigestReport),
    /// One leaf alone is too much for a call: a full report instead.
    Full,
}

/// RBW, RWR and RUR replicas of a storage. That one under recovery was RWR is told (HDFS tells of the state before the
/// recovery, whatever it was): it may lack bytes that another one has.
fn open_replicas<E: Env>(store: &ReplicaStore<E::Disk>, storage: StorageUuid) -> Vec<OpenReplica> {
    store
        .open_replicas(storage)
        .into_iter()
        .filter(|replica| replica.state != ReplicaState::Temporary)
        .map(|replica| OpenReplica {
            block: replica.block,
            state: match replica.original_state {
                ReplicaState::Rwr => ReplicaState::Rwr,
                _ => replica.state,
            },
        })
        .collect()
}

/// What the NameNode asked for, as it is now.
pub(crate) fn round<E: Env>(
    node: &Rc<Node<E>>,
    storage: StorageUuid,
    report_id: u64,
    includes: u64,
    ask: Option<&DigestAsk>,
) -> Result<Round, Fault> {
    let store = node.store()?;
    let mut open = Vec::new();
    let round = match ask {
        Some(DigestAsk::Full) => return Ok(Round::Full),
        Some(DigestAsk::Replicas { leaves }) => {
            let mut told = Vec::new();
            let mut packed = Vec::new();
            for leaf in leaves {
                let (first, last) = digest_leaf_keys(usize::from(*leaf));
                let mut here = store.finalized_in(storage, first..=last);
                here.retain(|block| !node.is_doomed(block));
                if packed.len() / ReportEntries::ENTRY_LEN + here.len() > REPORT_PART_MAX {
                    break;
                }
                here.iter()
                    .for_each(|block| ReportEntries::push(&mut packed, block));
                told.push(*leaf);
            }
            if told.is_empty() {
                return Ok(Round::Full);
            }
            if told.len() == leaves.len() {
                open = open_replicas::<E>(&store, storage);
            }
            DigestRound::Replicas {
                leaves: told,
                finalized: packed.into(),
            }
        }
        ask => {
            let doomed = doomed(node, &store, storage);
            let told = store.with_digest(storage, |tree| {
                let spared;
                let tree = if doomed.is_empty() {
                    tree
                } else {
                    let mut copy = tree.clone();
                    doomed.iter().for_each(|block| copy.remove(block));
                    spared = copy;
                    &spared
                };
                match ask {
                    Some(DigestAsk::Nodes) => DigestRound::Nodes {
                        digests: tree.nodes().to_vec(),
                    },
                    Some(DigestAsk::Leaves { of }) => DigestRound::Leaves {
                        of: of.clone(),
                        digests: of
                            .iter()
                            .flat_map(|node| tree.leaves(usize::from(*node)))
                            .collect(),
                    },
                    _ => DigestRound::Root {
                        replicas: tree.replicas(),
                        digest: tree.root(),
                    },
                }
            });
            if ask.is_none() {
                open = open_replicas::<E>(&store, storage);
            }
            told.ok_or_else(|| {
                Fault::new(FaultClass::Retry, format!("storage {storage} has failed"))
            })?
        }
    };
    let acknowledged = node.service.borrow().acknowledged();
    Ok(Round::Tell(DigestReport {
        uuid: node.uuid,
        storage,
        report_id,
        includes,
        acknowledged,
        round,
        open,
    }))
}

/// FINALIZED replicas of a storage whose deletion was accepted.
fn doomed<E: Env>(
    node: &Node<E>,
    store: &ReplicaStore<E::Disk>,
    storage: StorageUuid,
) -> Vec<Block> {
    let ids = node.doomed.borrow();
    ids.keys()
        .filter_map(|id| store.get(*id))
        .filter(|replica| {
            replica.storage == storage
                && replica.state == ReplicaState::Finalized
                && node.is_doomed(&replica.block)
        })
        .map(|replica| replica.block)
        .collect()
}

/// Sends everything a storage holds.
pub(crate) async fn full<E: Env>(
    node: &Rc<Node<E>>,
    client: &CallClient<DatanodeProtocol>,
    storage: StorageUuid,
    report_id: u64,
    includes: u64,
) -> Result<(), CallError> {
    let store = node.store().map_err(CallError::Fault)?;
    let begun = node.env.now();
    let mut finalized = store.finalized(storage);
    finalized.retain(|block| !node.is_doomed(block));
    let open = open_replicas::<E>(&store, storage);
    let parts = finalized.len().div_ceil(REPORT_PART_MAX).max(1);
    let acknowledged = node.service.borrow().acknowledged();
    let made = node.env.now();
    let mut rest = finalized.as_slice();
    for part in 0..parts {
        let (now, later) = rest.split_at(rest.len().min(REPORT_PART_MAX));
        rest = later;
        let mut packed = Vec::with_capacity(now.len() * ReportEntries::ENTRY_LEN);
        now.iter()
            .for_each(|block| ReportEntries::push(&mut packed, block));
        let report = BlockReport {
            uuid: node.uuid,
            storage,
            report_id,
            part: part as u32,
            parts: parts as u32,
            includes,
            acknowledged,
            finalized: packed.into(),
            open: if part + 1 == parts {
                open.clone()
            } else {
                Vec::new()
            },
        };
        client.call(&Request::BlockReport { report }).await?;
    }
    tracing::info!(
        "full report of {storage}: {} replicas in {parts} parts, {} ms to make, {} ms to send and be taken",
        finalized.len(),
        made.ms_since(begun),
        node.env.now().ms_since(made)
    );
    Ok(())
}
