//! Digests of sets of replicas (protocols.md section 4): what makes a block report of an unchanged storage one hash.
//!
//! The digest of a set is the sum modulo 2^128 of a keyed hash of `{block id, generation stamp, length}` over its
//! members, so that adding or removing one costs one hash, in any order. A storage's FINALIZED replicas are split by the
//! leading bits of [`mix`] into [`DIGEST_LEAVES`] leaves; a node above them is the sum of its [`DIGEST_FAN_OUT`] children:
//! root, [`DIGEST_FAN_OUT`] nodes, leaves. This module is the format: both ends compute what is written here.

use crate::{Block, BlockId, NamespaceInfo, mix};
use alloc::boxed::Box;
use core::fmt;

/// Leading bits of the key that name a leaf.
pub const DIGEST_LEAF_BITS: u32 = 12;
/// Leaves of a tree; a storage of 10 M replicas has about 2 400 in each.
pub const DIGEST_LEAVES: usize = 1 << DIGEST_LEAF_BITS;
/// Children of the root, and leaves below each of them.
pub const DIGEST_FAN_OUT: usize = 64;

const _: () = assert!(DIGEST_FAN_OUT * DIGEST_FAN_OUT == DIGEST_LEAVES);

/// Which leaf a block belongs to, by its key [`mix`]`(id)`.
#[must_use]
pub const fn digest_leaf(key: u64) -> usize {
    (key >> (64 - DIGEST_LEAF_BITS)) as usize
}

/// The first and the last key of a leaf.
#[must_use]
pub const fn digest_leaf_keys(leaf: usize) -> (u64, u64) {
    let first = (leaf as u64) << (64 - DIGEST_LEAF_BITS);
    (first, first | (u64::MAX >> DIGEST_LEAF_BITS))
}

/// The digest of a set of replicas; the empty set's is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl Digest {
    /// Bytes on the wire: little-endian.
    pub const LEN: usize = 16;

    /// Adds a member, or the members of another set.
    pub fn add(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }

    /// Takes a member, or the members of another set, away.
    pub fn subtract(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

impl core::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let mut sum = Self::default();
        all.for_each(|digest| sum.add(digest));
        sum
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The key of the hash: fixed per block pool, so that digests of two clusters never agree by chance. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DigestKey(u64, u64);

impl DigestKey {
    /// The key of a block pool: two runs of the finaliser over the namespace id and the bytes of the pool's name.
    #[must_use]
    pub fn new(info: &NamespaceInfo) -> Self {
        let run = |seed: u64| {
            let bytes = info.block_pool_id.0.bytes();
            bytes.fold(finalize(seed ^ info.namespace_id), |sum, byte| {
                finalize(sum ^ u64::from(byte))
            })
        };
        Self(run(0x6a09_e667_f3bc_c908), run(0xbb67_ae85_84ca_a73b))
    }

    /// The digest of one replica. Per half of the result: key, id, stamp and length, each mixed in by exclusive or and
    /// a bijective 64-bit finaliser. The first key makes the high half.
    #[must_use]
    pub const fn hash(&self, block: &Block) -> Digest {
        let high = half(self.0, block);
        let low = half(self.1, block);
        Digest(((high as u128) << 64) | low as u128)
    }
}

const fn half(key: u64, block: &Block) -> u64 {
    let sum = finalize(key ^ block.id.0);
    let sum = finalize(sum ^ block.generation_stamp.0);
    finalize(sum ^ block.length)
}

/// Stafford's variant 13 of MurmurHash3's finaliser.
const fn finalize(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The tree of one storage as its DataNode keeps it. Only leaves are kept: the sums above them cost microseconds, and
/// are asked for once per report. 64 KiB once there is a replica.
#[derive(Clone, Debug)]
pub struct DigestTree {
    key: DigestKey,
    leaves: Option<Box<[Digest; DIGEST_LEAVES]>>,
    replicas: u64,
}

impl DigestTree {
    /// The tree of an empty storage.
    #[must_use]
    pub const fn new(key: DigestKey) -> Self {
        Self {
            key,
            leaves: None,
            replicas: 0,
        }
    }

    /// A replica became FINALIZED, or was found so.
    pub fn insert(&mut self, block: &Block) {
        let digest = self.key.hash(block);
        self.leaf_mut(block.id).add(digest);
        self.replicas += 1;
    }

    /// A FINALIZED replica is gone, or is not FINALIZED any more.
    pub fn remove(&mut self, block: &Block) {
        let digest = self.key.hash(block);
        self.leaf_mut(block.id).subtract(digest);
        self.replicas -= 1;
    }

    fn leaf_mut(&mut self, id: BlockId) -> &mut Digest {
        let leaves = self
            .leaves
            .get_or_insert_with(|| Box::new([Digest::default(); DIGEST_LEAVES]));
        &mut leaves[digest_leaf(mix(id))]
    }

    /// FINALIZED replicas in it.
    #[must_use]
    pub const fn replicas(&self) -> u64 {
        self.replicas
    }

    fn all(&self) -> &[Digest] {
        self.leaves.as_ref().map_or(&[], |leaves| &leaves[..])
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.all().iter().copied().sum()
    }

    /// The children of the root, in order.
    #[must_use]
    pub fn nodes(&self) -> [Digest; DIGEST_FAN_OUT] {
        let mut nodes = [Digest::default(); DIGEST_FAN_OUT];
        for (node, leaves) in nodes.iter_mut().zip(self.all().chunks(DIGEST_FAN_OUT)) {
            *node = leaves.iter().copied().sum();
        }
        nodes
    }

    /// The leaves below a child of the root, in order; zeros for one that does not exist.
    #[must_use]
    pub fn leaves(&self, node: usize) -> [Digest; DIGEST_FAN_OUT] {
        let mut leaves = [Digest::default(); DIGEST_FAN_OUT];
        if let Some(found) = self.all().chunks(DIGEST_FAN_OUT).nth(node) {
            leaves.copy_from_slice(found);
        }
        leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockPoolId, GenerationStamp};
    use alloc::vec::Vec;

    fn key() -> DigestKey {
        DigestKey::new(&NamespaceInfo {
            namespace_id: 7,
            block_pool_id: BlockPoolId("BP-a".into()),
            ..NamespaceInfo::default()
        })
    }

    fn block(id: u64, stamp: u64, length: u64) -> Block {
        Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(stamp),
            length,
        }
    }

    /// The format: a change of any of these numbers is another protocol version.
    #[test]
    fn the_hash_is_what_it_always_was() {
        let digest = key().hash(&block(1_073_741_824, 1001, 134_217_728));
        assert_eq!(
            digest,
            Digest(0x8695_cec2_7b5e_f716_d42e_59fa_0068_4776),
            "{digest:?}"
        );
    }

    #[test]
    fn every_field_and_the_pool_count() {
        let a = block(5, 6, 7);
        let mut seen: Vec<Digest> = [a, block(6, 6, 7), block(5, 7, 7), block(5, 6, 8)]
            .iter()
            .chain([block(6, 5, 7), block(5, 7, 6)].iter())
            .map(|block| key().hash(block))
            .collect();
        let other = DigestKey::new(&NamespaceInfo {
            namespace_id: 7,
            block_pool_id: BlockPoolId("BP-b".into()),
            ..NamespaceInfo::default()
        });
        seen.push(other.hash(&a));
        for (at, digest) in seen.iter().enumerate() {
            assert!(!seen[..at].contains(digest) && digest.0 != 0);
        }
    }

    #[test]
    fn order_does_not_matter_and_what_goes_leaves_nothing() {
        let blocks: Vec<Block> = (0..5_000).map(|id| block(id, id % 9, id * 3)).collect();
        let (mut forward, mut backward) = (DigestTree::new(key()), DigestTree::new(key()));
        blocks.iter().for_each(|block| forward.insert(block));
        blocks.iter().rev().for_each(|block| backward.insert(block));
        assert_eq!(forward.root(), backward.root());
        assert_eq!(forward.replicas(), 5_000);
        let nodes = forward.nodes();
        assert_eq!(nodes.iter().copied().sum::<Digest>(), forward.root());
        for (at, node) in nodes.iter().enumerate() {
            assert_eq!(forward.leaves(at).iter().copied().sum::<Digest>(), *node);
        }
        backward.remove(&blocks[77]);
        let differing: Vec<usize> = (0..DIGEST_FAN_OUT)
            .filter(|node| backward.nodes()[*node] != nodes[*node])
            .collect();
        let leaf = digest_leaf(mix(blocks[77].id));
        assert_eq!(differing, [leaf / DIGEST_FAN_OUT]);
        let (first, last) = digest_leaf_keys(leaf);
        assert!((first..=last).contains(&mix(blocks[77].id)));
        blocks.iter().for_each(|block| forward.remove(block));
        assert_eq!((forward.root(), forward.replicas()), (Digest::default(), 0));
        assert_eq!(DigestTree::new(key()).leaves(3), forward.leaves(3));
    }
}
