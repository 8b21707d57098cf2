//! A digest of the whole namespace, to compare active and standby at equal txid (Q41, T-C2).
//!
//! It is the sum modulo 2^128 of a keyed hash of each inode (with its open file's holder) and of the id
//! counters, so it does not depend on the order of anything, on owner numbers, or on how the tree came to be.
//! The hash is for finding bugs and damage, not for resisting somebody who crafts collisions.

use crate::state::View;
use crate::tree::{Entry, Tree};
use alloc::vec::Vec;
use hadal_types::ClientId;

const KEYS: [u64; 4] = [
    0x2d35_8dcc_aa6c_78a5,
    0x8bb8_4b93_962e_acc9,
    0x4b33_a62e_d433_d4a3,
    0x4d5a_2da5_1de1_aa47,
];

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// 128 bits of `bytes` under the fixed key: two lanes of folded multiplication, finished against each other.
fn hash(bytes: &[u8]) -> u128 {
    let mut low = KEYS[0] ^ bytes.len() as u64;
    let mut high = KEYS[1];
    for chunk in bytes.chunks(16) {
        let mut block = [0; 16];
        block[..chunk.len()].copy_from_slice(chunk);
        let (a, b) = block.split_at(8);
        let a = u64::from_le_bytes(a.try_into().expect("eight bytes"));
        let b = u64::from_le_bytes(b.try_into().expect("eight bytes"));
        let mixed = fold(a ^ KEYS[2] ^ low, b ^ KEYS[3] ^ high.rotate_left(23));
        low = fold(low ^ b, KEYS[1] ^ mixed) ^ a;
        high = high.rotate_left(17).wrapping_add(mixed) ^ fold(b ^ KEYS[0], mixed | 1);
    }
    let a = fold(low ^ KEYS[2], high ^ KEYS[0]);
    let b = fold(high ^ KEYS[3], low.rotate_left(32) ^ KEYS[1]);
    u128::from(a ^ low) << 64 | u128::from(b ^ high)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn inode(out: &mut Vec<u8>, tree: &Tree, entry: Entry<'_>, holder: Option<ClientId>) {
    let inode = entry.inode;
    let (owner, group) = tree.owner(inode);
    let mut word = |value: u64| out.extend_from_slice(&value.to_le_bytes());
    word(entry.id.0);
    word(inode.parent());
    word(inode.modified_ms());
    word(inode.accessed_ms());
    word(u64::from(inode.permission()));
    match inode.file() {
        None => word(u64::MAX),
        Some(file) => {
            word(file.block_size);
            word(u64::from(file.replication) << 1 | u64::from(file.is_open));
            word(file.blocks.len() as u64);
            for block in file.blocks.iter() {
                word(block.id.0);
                word(block.generation_stamp.0);
                word(block.length);
            }
        }
    }
    out.extend_from_slice(&holder.unwrap_or_default().0.to_le_bytes());
    text(out, entry.name);
    text(out, owner);
    text(out, group);
}

impl View {
    /// The digest of inodes, leases and id counters; equal for equal namespaces at equal txid. Walks the tree.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        let mut bytes = Vec::with_capacity(256);
        let counters = self.counters;
        for value in [
            counters.inode.0,
            counters.block.0,
            counters.generation_stamp.0,
        ] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let mut sum = hash(&bytes);
        for entry in self.tree.entries() {
            bytes.clear();
            let holder = self.open.get(entry.id.0).copied();
            inode(&mut bytes, &self.tree, entry, holder);
            sum = sum.wrapping_add(hash(&bytes));
        }
        sum.to_le_bytes()
    }

    /// The digest of the retry cache, its order and its clock included (T-H27).
    #[must_use]
    pub fn retry_digest(&self) -> [u8; 16] {
        let mut bytes = Vec::with_capacity(256);
        let clock = self.retry.clock;
        bytes.extend_from_slice(&clock.now_ms.to_le_bytes());
        bytes.extend_from_slice(&clock.last_edit_ms.unwrap_or(u64::MAX).to_le_bytes());
        let mut sum = hash(&bytes);
        for entry in self.retry.iter() {
            bytes.clear();
            bytes.extend_from_slice(&sum.to_le_bytes());
            crate::image::records::put_retry(&mut bytes, entry);
            sum = hash(&bytes);
        }
        sum.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn hash_tells_small_differences_apart() {
        let mut seen = BTreeSet::new();
        for length in 0..64usize {
            let mut bytes = alloc::vec![0u8; length];
            assert!(seen.insert(hash(&bytes)), "zeros of length {length}");
            for bit in 0..length * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(hash(&bytes)), "bit {bit} of {length} bytes");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let halves: BTreeSet<u64> = seen.iter().map(|hash| *hash as u64).collect();
        assert_eq!(halves.len(), seen.len());
        let halves: BTreeSet<u64> = seen.iter().map(|hash| (*hash >> 64) as u64).collect();
        assert_eq!(halves.len(), seen.len());
    }
}
