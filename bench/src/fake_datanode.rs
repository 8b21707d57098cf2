//! DataNodes without disks: they say to a NameNode's core what real ones would.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hadal_proto::datanode::{
    BlockReport, DigestAsk, DigestReport, DigestRound, REPORT_PART_MAX, Registration,
    ReportEntries, Request, Response, StorageReport,
};
use hadal_proto::encode;
use hadal_types::{
    Block, BlockId, CURRENT_LAYOUT, DatanodeUuid, DigestKey, DigestTree, Epoch, GenerationStamp,
    NamespaceInfo, StorageUuid, digest_leaf_keys, mix,
};

/// Bytes of one part of a full report: as many replicas as one call takes.
const PART_BYTES: usize = REPORT_PART_MAX * ReportEntries::ENTRY_LEN;
const DISK_BYTES: u64 = 1 << 50;

/// One DataNode with one storage of FINALIZED replicas.
#[derive(Clone)]
pub struct FakeDatanode {
    /// Its number, from 0.
    number: usize,
    /// Packed and sorted as reports are.
    entries: Bytes,
    tree: DigestTree,
    report_id: u64,
    /// What it acknowledges.
    pub acknowledged: Epoch,
}

/// Bytes of the calls of one report, and of their answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// To the NameNode.
    pub sent: usize,
    /// From it.
    pub received: usize,
    /// Calls.
    pub calls: usize,
}

impl Traffic {
    /// Both ways.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sent + self.received
    }

    /// Adds what another report cost.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.calls += other.calls;
    }
}

impl FakeDatanode {
    /// A DataNode of that namespace that has these replicas.
    #[must_use]
    pub fn new(number: usize, info: &NamespaceInfo, mut blocks: Vec<Block>) -> Self {
        blocks.sort_unstable_by_key(|block| mix(block.id));
        let mut tree = DigestTree::new(DigestKey::new(info));
        let mut entries = Vec::with_capacity(blocks.len() * ReportEntries::ENTRY_LEN);
        for block in &blocks {
            tree.insert(block);
            ReportEntries::push(&mut entries, block);
        }
        Self {
            number,
            entries: entries.into(),
            tree,
            report_id: 0,
            acknowledged: Epoch(0),
        }
    }

    /// Another DataNode with the same replicas.
    #[must_use]
    pub fn twin(&self, number: usize) -> Self {
        Self {
            number,
            ..self.clone()
        }
    }

    /// Its name, as in its certificate.
    #[must_use]
    pub fn name(&self) -> String {
        format!("dn{}", self.number)
    }

    /// Who it is.
    #[must_use]
    pub fn uuid(&self) -> DatanodeUuid {
        DatanodeUuid(100 + self.number as u128)
    }

    /// Its storage.
    #[must_use]
    pub fn storage(&self) -> StorageUuid {
        StorageUuid(1_000_000 + self.number as u128)
    }

    /// Replicas it has.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.entries.len() / ReportEntries::ENTRY_LEN
    }

    /// Loses every replica of a block for which this holds, and tells nobody.
    pub fn lose(&mut self, is_lost: impl Fn(&Block) -> bool) {
        let all = self.entries.chunks_exact(ReportEntries::ENTRY_LEN);
        let (lost, kept): (Vec<_>, Vec<_>) = all.map(block_at).partition(|block| is_lost(block));
        let mut entries = Vec::with_capacity(self.entries.len());
        for block in &kept {
            ReportEntries::push(&mut entries, block);
        }
        lost.iter().for_each(|block| self.tree.remove(block));
        self.entries = entries.into();
    }

    /// Its first call.
    #[must_use]
    pub fn registration(&self, info: &NamespaceInfo) -> Request {
        let address = format!("10.0.{}.{}:9866", self.number / 256, self.number % 256);
        Request::Register {
            registration: Registration {
                uuid: self.uuid(),
                name: self.name(),
                address,
                http_address: String::new(),
                shards: 1,
                rack: "/default-rack".into(),
                layout: CURRENT_LAYOUT,
                info: info.clone(),
                software: String::new(),
                storages: vec![StorageReport {
                    storage: self.storage(),
                    capacity: DISK_BYTES,
                    remaining: DISK_BYTES,
                    ..StorageReport::default()
                }],
            },
        }
    }

    /// A full report, one call per part, each encoded as it crosses the network.
    #[must_use]
    pub fn full_report(&mut self) -> Vec<Bytes> {
        self.report_id += 1;
        self.parts()
    }

    fn parts(&self) -> Vec<Bytes> {
        let count = self.entries.len().div_ceil(PART_BYTES).max(1);
        let part = |part: usize| {
            let from = part * PART_BYTES;
            let to = self.entries.len().min(from + PART_BYTES);
            encode(&Request::BlockReport {
                report: BlockReport {
                    uuid: self.uuid(),
                    storage: self.storage(),
                    report_id: self.report_id,
                    part: part as u32,
                    parts: count as u32,
                    includes: 0,
                    acknowledged: self.acknowledged,
                    finalized: self.entries.slice(from..to),
                    open: Vec::new(),
                },
            })
        };
        (0..count).map(part).collect()
    }

    /// A report by digest, as far as it goes; where a full one is asked for, that. `send` takes an encoded call and gives the
    /// answer.
    ///
    /// # Errors
    /// Those of `send`, and an answer no NameNode gives.
    pub fn digest_report(
        &mut self,
        mut send: impl FnMut(Bytes) -> Result<Response>,
    ) -> Result<Traffic> {
        self.report_id += 1;
        let mut traffic = Traffic::default();
        let mut ask = None;
        loop {
            let mut call = |bytes: Bytes| -> Result<Response> {
                traffic.sent += bytes.len();
                traffic.calls += 1;
                let answer = send(bytes)?;
                traffic.received += encode(&answer).len();
                Ok(answer)
            };
            let answer = call(encode(&self.round(ask.as_ref())))?;
            let Response::Digest { ask: next, .. } = answer else {
                bail!("a digest was answered by {answer:?}");
            };
            match next {
                None => return Ok(traffic),
                Some(DigestAsk::Full) => {
                    for part in self.parts() {
                        call(part)?;
                    }
                    return Ok(traffic);
                }
                next => ask = next,
            }
        }
    }

    fn round(&self, ask: Option<&DigestAsk>) -> Request {
        let round = match ask {
            None => DigestRound::Root {
                replicas: self.tree.replicas(),
                digest: self.tree.root(),
            },
            Some(DigestAsk::Nodes) => DigestRound::Nodes {
                digests: self.tree.nodes().to_vec(),
            },
            Some(DigestAsk::Leaves { of }) => DigestRound::Leaves {
                of: of.clone(),
                digests: of
                    .iter()
                    .flat_map(|node| self.tree.leaves(usize::from(*node)))
                    .collect(),
            },
            Some(DigestAsk::Replicas { leaves }) => DigestRound::Replicas {
                leaves: leaves.clone(),
                finalized: self.in_leaves(leaves),
            },
            Some(DigestAsk::Full) => unreachable!("answered by a full report"),
        };
        Request::DigestReport {
            report: DigestReport {
                uuid: self.uuid(),
                storage: self.storage(),
                report_id: self.report_id,
                includes: 0,
                acknowledged: self.acknowledged,
                round,
                open: Vec::new(),
            },
        }
    }

    fn in_leaves(&self, leaves: &[u16]) -> Bytes {
        let mut out = Vec::new();
        for leaf in leaves {
            let (first, last) = digest_leaf_keys(usize::from(*leaf));
            let from = self.below(first);
            let to = last
                .checked_add(1)
                .map_or(self.replicas(), |next| self.below(next));
            let length = ReportEntries::ENTRY_LEN;
            out.extend_from_slice(&self.entries[from * length..to * length]);
        }
        out.into()
    }

    /// How many replicas have a key below `key`.
    fn below(&self, key: u64) -> usize {
        let (mut low, mut high) = (0, self.replicas());
        while low < high {
            let middle = low + (high - low) / 2;
            let at = middle * ReportEntries::ENTRY_LEN;
            if mix(block_at(&self.entries[at..]).id) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn block_at(entry: &[u8]) -> Block {
    let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    Block {
        id: BlockId(word(0)),
        generation_stamp: GenerationStamp(word(8)),
        length: word(16),
    }
}

/// The namespace they all are of.
#[must_use]
pub fn namespace() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 1,
        ..NamespaceInfo::default()
    }
}

/// Which of `datanodes` DataNodes hold block `number`: `replication` different ones, evenly and without a pattern.
///
/// # Errors
/// When there are not that many.
pub fn homes(number: u64, datanodes: usize, replication: usize) -> Result<Vec<usize>> {
    ensure!(
        replication <= datanodes,
        "{replication} replicas need as many DataNodes, not {datanodes}"
    );
    let mut random = mix(BlockId(number.wrapping_add(1)));
    let mut chosen = Vec::with_capacity(replication);
    while chosen.len() < replication {
        random = mix(BlockId(random.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let datanode = usize::try_from(random >> 32).context("32 bits")? % datanodes;
        if !chosen.contains(&datanode) {
            chosen.push(datanode);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_different_and_even() {
        let mut counts = [0usize; 30];
        for number in 0..30_000 {
            let homes = homes(number, 30, 3).unwrap();
            assert!(homes[0] != homes[1] && homes[1] != homes[2] && homes[0] != homes[2]);
            homes.iter().for_each(|home| counts[*home] += 1);
        }
        assert!(
            counts.iter().all(|count| (2_700..3_300).contains(count)),
            "{counts:?}"
        );
        assert!(homes(1, 2, 3).is_err());
    }

    #[test]
    fn a_report_over_one_part_is_cut_and_adds_up() {
        let blocks = (0..(REPORT_PART_MAX * 2 + 7) as u64).map(|number| Block {
            id: BlockId(1 + number),
            generation_stamp: GenerationStamp(1),
            length: 1,
        });
        let mut datanode = FakeDatanode::new(0, &namespace(), blocks.collect());
        assert_eq!(datanode.full_report().len(), 3);
        datanode.lose(|block| block.id.0 % 2 == 0);
        assert_eq!(datanode.replicas(), REPORT_PART_MAX + 4);
        let all: Vec<u16> = (0..hadal_types::DIGEST_LEAVES as u16).collect();
        assert_eq!(datanode.in_leaves(&all), datanode.entries);
    }
}
