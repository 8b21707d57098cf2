//! The nouns of HDFS as types: identifiers, stamps, states and the identity of a namespace.
//!
//! Every other crate of Hadal builds on this one, so it depends on nothing and does nothing
//! but name things, order them and print them.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod block;
mod digest;
mod identity;
mod ids;
mod packed;
mod state;
mod tick;

pub use block::{Block, PARTITION_COUNT, chunk_salt, mix, partition_of, shard_of, unmix};
pub use digest::{
    DIGEST_FAN_OUT, DIGEST_LEAF_BITS, DIGEST_LEAVES, Digest, DigestKey, DigestTree, digest_leaf,
    digest_leaf_keys,
};
pub use identity::{
    BlockPoolId, CURRENT_LAYOUT, ClusterId, LayoutVersion, NamespaceInfo, Principal, Role,
};
pub use ids::{
    BlockId, CallId, ClientId, DatanodeUuid, Epoch, GenerationStamp, InodeId, StorageUuid, TxId,
};
pub use packed::U48;
pub use state::{BlockState, HaState, ReplicaState};
pub use tick::Tick;
