//! Where new replicas go and in which order readers try them (rack awareness as HDFS's default policy).

use crate::{BlockManager, NotEnoughTargets, PlacementRequest};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use hadal_proto::client::{BlockToken, LocatedBlock, ReplicaTarget};
use hadal_types::{BlockId, DatanodeUuid, StorageUuid, mix};

/// Random tries before all nodes of a scope are looked at in turn.
const TRIES: usize = 8;

/// Where to look for the next node.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    These(&'a [u32]),
    Rack(u32),
    NotRack(u32),
    Any,
}

/// How choosy to be.
#[derive(Clone, Copy, Debug)]
struct Taste {
    /// Neither stale nor busier than most.
    healthy: bool,
    /// Replicas per rack.
    rack_max: usize,
}

/// What has been chosen so far.
#[derive(Debug)]
struct Choice<'a> {
    /// Nodes with a replica, old ones first.
    nodes: Vec<u32>,
    storages: Vec<u32>,
    excluded: &'a [u32],
    bytes: u64,
}

impl BlockManager {
    /// DataNodes for a new block, a replacement in a pipeline or a copy, in pipeline order (each next one near the one
    /// before). Writer-local first when a DataNode runs on the writer's host, the second on another rack, the third
    /// on the second's rack, then anywhere; at most two per rack while the racks allow it. Stale and busy DataNodes
    /// only when no others are left. May return fewer than `count`; never none.
    pub fn choose_targets(
        &mut self,
        request: &PlacementRequest<'_>,
    ) -> Result<Vec<ReplicaTarget>, NotEnoughTargets> {
        let find = |nodes: &[DatanodeUuid]| -> Vec<u32> {
            nodes
                .iter()
                .filter_map(|uuid| self.nodes.find(*uuid))
                .collect()
        };
        let (existing, excluded) = (find(request.existing), find(request.exclude));
        let writers = self.nodes.on_host(request.writer_host);
        let storages = self.place(
            request.count,
            request.block_size,
            &writers,
            &existing,
            &excluded,
        );
        let found = existing.len() + storages.len();
        let needed = usize::from(self.config.min_replication);
        if storages.is_empty() || found < needed {
            return Err(NotEnoughTargets {
                found,
                needed,
                live: self.nodes.alive.len(),
                excluded: excluded.len(),
            });
        }
        for storage in &storages {
            self.nodes.note_scheduled(*storage, request.block_size);
        }
        Ok(self.nodes.targets(&storages))
    }

    /// The placement itself: storage indices.
    pub(crate) fn place(
        &mut self,
        count: usize,
        bytes: u64,
        writers: &[u32],
        existing: &[u32],
        excluded: &[u32],
    ) -> Vec<u32> {
        let mut choice = Choice {
            nodes: existing.to_vec(),
            storages: Vec::new(),
            excluded,
            bytes,
        };
        let racks = self.nodes.rack_nodes.iter();
        let racks = racks.filter(|nodes| !nodes.is_empty()).count();
        let rack_max = if racks > 1 {
            (existing.len() + count).div_ceil(racks).max(2)
        } else {
            usize::MAX
        };
        let tastes = [
            Taste {
                healthy: true,
                rack_max,
            },
            Taste {
                healthy: false,
                rack_max,
            },
            Taste {
                healthy: false,
                rack_max: usize::MAX,
            },
        ];
        for _ in 0..count.min(self.nodes.alive.len()) {
            let rack = |at: usize| self.nodes.node(choice.nodes[at]).rack;
            let scopes = match choice.nodes.len() {
                0 => match writers.first() {
                    Some(writer) => [
                        Scope::These(writers),
                        Scope::Rack(self.nodes.node(*writer).rack),
                    ],
                    None => [Scope::Any, Scope::Any],
                },
                1 => [Scope::NotRack(rack(0)), Scope::Any],
                2 if rack(0) == rack(1) => [Scope::NotRack(rack(0)), Scope::Any],
                // A new block's third replica joins the second; a lost one comes back near the first.
                2 if existing.is_empty() => [Scope::Rack(rack(1)), Scope::Any],
                2 => [Scope::Rack(rack(0)), Scope::Any],
                _ => [Scope::Any, Scope::Any],
            };
            let found = tastes.iter().find_map(|taste| {
                [scopes[0], scopes[1], Scope::Any]
                    .into_iter()
                    .find_map(|scope| self.pick(scope, *taste, &choice))
            });
            let Some((node, storage)) = found else {
                break;
            };
            choice.nodes.push(node);
            choice.storages.push(storage);
        }
        self.in_pipeline_order(writers, choice.storages)
    }

    /// A random acceptable node of a scope with a storage of it.
    fn pick(&self, scope: Scope<'_>, taste: Taste, choice: &Choice<'_>) -> Option<(u32, u32)> {
        let (nodes, avoid): (&[u32], Option<u32>) = match scope {
            Scope::These(nodes) => (nodes, None),
            Scope::Rack(rack) => (&self.nodes.rack_nodes[rack as usize], None),
            Scope::NotRack(rack) => (&self.nodes.alive, Some(rack)),
            Scope::Any => (&self.nodes.alive, None),
        };
        if nodes.is_empty() {
            return None;
        }
        let mut random = self.random.borrow_mut();
        let start = random.below(nodes.len());
        let tries: [usize; TRIES] = core::array::from_fn(|_| random.below(nodes.len()));
        let turn = (0..nodes.len()).map(|at| (start + at) % nodes.len());
        tries.into_iter().chain(turn).find_map(|at| {
            let node = nodes[at];
            if Some(self.nodes.node(node).rack) == avoid {
                return None;
            }
            let storage = self.acceptable(node, taste, choice, start)?;
            Some((node, storage))
        })
    }

    /// A storage of this node, if it can take the block.
    fn acceptable(&self, node: u32, taste: Taste, choice: &Choice<'_>, turn: usize) -> Option<u32> {
        let entry = self.nodes.node(node);
        if !entry.alive
            || entry.is_leaving()
            || choice.nodes.contains(&node)
            || choice.excluded.contains(&node)
        {
            return None;
        }
        if taste.healthy
            && (entry.stale
                || f64::from(entry.streams) + 1.0
                    > self.config.load_factor * (self.average_streams + 1.0))
        {
            return None;
        }
        let on_rack = choice
            .nodes
            .iter()
            .filter(|other| self.nodes.node(**other).rack == entry.rack)
            .count();
        if on_rack >= taste.rack_max {
            return None;
        }
        let needed = choice
            .bytes
            .saturating_mul(self.config.min_free_blocks.max(1));
        (0..entry.storages.len())
            .map(|at| entry.storages[(turn + at) % entry.storages.len()])
            .find(|storage| {
                let storage = self.nodes.storage(*storage);
                !storage.gone && storage.free() >= needed
            })
    }

    /// Each next node as near as possible to the one before, starting at the writer.
    fn in_pipeline_order(&self, writers: &[u32], mut storages: Vec<u32>) -> Vec<u32> {
        let mut ordered = Vec::with_capacity(storages.len());
        let mut from = writers.first().copied();
        while !storages.is_empty() {
            let at = match from {
                Some(from) => (0..storages.len())
                    .min_by_key(|at| {
                        let node = self.nodes.node_of(storages[*at]);
                        if writers.contains(&node) && ordered.is_empty() {
                            0
                        } else {
                            1 + u8::from(self.nodes.node(node).rack != self.nodes.node(from).rack)
                        }
                    })
                    .unwrap_or(0),
                None => 0,
            };
            let storage = storages.remove(at);
            from = Some(self.nodes.node_of(storage));
            ordered.push(storage);
        }
        ordered
    }

    /// A block with its readable replicas, nearest to `reader_host` first (same host, same rack, others at random;
    /// stale DataNodes behind, decommissioned ones last). Of an open block the pipeline; when all replicas are corrupt those, with `corrupt` set.
    /// `offset` is 0 and the token empty: the caller's to fill.
    #[must_use]
    pub fn locate(&self, block: BlockId, reader_host: &str) -> Option<LocatedBlock> {
        let key = mix(block);
        let partition = &self.partitions[hadal_types::partition_of(block)];
        let entry = partition.table.get(key)?;
        let usable = |storages: Vec<u32>| -> Vec<u32> {
            storages
                .into_iter()
                .filter(|storage| self.nodes.is_usable(*storage))
                .collect()
        };
        let corrupt: Vec<u32> = partition
            .corrupt
            .get(&key)
            .into_iter()
            .flatten()
            .map(|replica| replica.storage)
            .collect();
        let mut storages = if entry.is_final() {
            let live = usable(partition.live_replicas(key));
            if live.is_empty() {
                // An excess replica is whole until it is deleted.
                usable(partition.table.replicas(key))
            } else {
                live
            }
        } else {
            Vec::new()
        };
        if storages.is_empty()
            && let Some(open) = partition.open.get(&key)
        {
            let expected = usable(open.expected.to_vec());
            storages = if expected.is_empty() {
                usable(open.candidates(entry.stamp()).to_vec())
            } else {
                expected
            };
        }
        let corrupt_replicas = u16::try_from(corrupt.len()).unwrap_or(u16::MAX);
        let all_corrupt = storages.is_empty() && !corrupt.is_empty();
        if all_corrupt {
            storages = usable(corrupt);
        }
        let readers = self.nodes.on_host(reader_host);
        let rack = readers.first().map(|node| self.nodes.node(*node).rack);
        self.random.borrow_mut().shuffle(&mut storages);
        storages.sort_by_key(|storage| {
            let node = self.nodes.node_of(*storage);
            let entry = self.nodes.node(node);
            let distance = match rack {
                _ if readers.contains(&node) => 0,
                Some(rack) if rack == entry.rack => 1,
                _ => 2u8,
            };
            (entry.is_leaving(), entry.stale, distance)
        });
        Some(LocatedBlock {
            block: entry.block(),
            offset: 0,
            locations: self.nodes.targets(&storages),
            corrupt: all_corrupt,
            under_construction: !entry.is_final(),
            corrupt_replicas,
            token: BlockToken::default(),
        })
    }

    /// A block whose removal is not committed yet, with the replicas that wait to be deleted; in no order. `None` when
    /// nothing of it is left.
    #[must_use]
    pub fn locate_removed(&self, block: BlockId) -> Option<LocatedBlock> {
        let doomed: Vec<_> = self
            .nodes
            .nodes
            .iter()
            .filter_map(|node| node.deletions.get(mix(block)))
            .filter(|deletion| self.nodes.is_usable(deletion.storage))
            .collect();
        let storages: Vec<u32> = doomed.iter().map(|deletion| deletion.storage).collect();
        Some(LocatedBlock {
            block: doomed.first()?.block,
            offset: 0,
            locations: self.nodes.targets(&storages),
            corrupt: false,
            under_construction: false,
            corrupt_replicas: 0,
            token: BlockToken::default(),
        })
    }

    /// The pipeline of an open block (after AddBlock's choice, UpdatePipeline, or a block recovery's result). Not
    /// journaled: another NameNode learns it from reports. Unknown storages are left out.
    pub fn set_pipeline(&mut self, block: BlockId, targets: &[ReplicaTarget]) {
        let storages: smallvec::SmallVec<[u32; 3]> = targets
            .iter()
            .filter_map(|target| self.nodes.storage_of(target.datanode, target.storage))
            .collect();
        self.with(block, |partition, _, _| {
            if let Some(open) = partition.open.get_mut(&mix(block)) {
                open.expected = storages;
            }
        });
    }

    /// Storages as targets with their current addresses; unknown ones are left out.
    #[must_use]
    pub fn targets_of(&self, nodes: &[(DatanodeUuid, StorageUuid)]) -> Vec<ReplicaTarget> {
        nodes
            .iter()
            .filter_map(|(datanode, storage)| self.nodes.storage_of(*datanode, *storage))
            .map(|storage| self.nodes.target(storage))
            .collect()
    }

    /// How replicas of a block spread: replicas per rack, for `fsck`.
    #[must_use]
    pub fn racks_of(&self, block: BlockId) -> BTreeMap<alloc::string::String, usize> {
        let mut racks = BTreeMap::new();
        let partition = &self.partitions[hadal_types::partition_of(block)];
        for storage in partition.live_replicas(mix(block)) {
            let rack = &self.nodes.racks[self.nodes.rack_of(storage) as usize];
            *racks.entry(rack.clone()).or_default() += 1;
        }
        racks
    }
}
