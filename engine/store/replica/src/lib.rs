//! The DataNode's replica store (signatures; the bodies follow).
#![forbid(unsafe_code)]
mod error;
mod info;
mod options;

pub use error::StoreError;
pub use info::{
    CorruptReplica, Deleted, ReadPart, RecoveryInfo, ReplicaInfo, StartupReport, StoreCounters,
    VerifyOutcome, VolumeStatus,
};
pub use options::{CreateSpec, StoreIdentity, StoreOptions, VolumeSpec};

use bytes::Bytes;
use hadal_env::Disk;
use hadal_types::{Block, BlockId, DatanodeUuid, GenerationStamp, StorageUuid};
use std::marker::PhantomData;
use std::path::Path;
type R<T> = Result<T, StoreError>;

/// Replica store of one shard. Clones share it. Not `Send`.
#[derive(Clone)]
pub struct ReplicaStore<D: Disk>(PhantomData<D>);
/// See [`ReplicaStore::open_reader`].
pub struct ReplicaReader<D: Disk>(PhantomData<D>);
/// See [`ReplicaStore::create_rbw`].
pub struct ReplicaWriter<D: Disk>(PhantomData<D>);

/// The DataNode and storage uuid a directory already has (before the NameNode is known), `None` when it is not formatted.
pub async fn read_identity<D: Disk>(
    _disk: &D,
    _dir: &Path,
) -> R<Option<(DatanodeUuid, StorageUuid)>> {
    Err(StoreError::NoVolume)
}

#[allow(missing_docs, clippy::unused_async)]
impl<D: Disk> ReplicaStore<D> {
    /// Opens (formats when empty) the volumes and recovers. Unusable volumes are in the report; error only when none is usable.
    pub async fn open(
        _disk: D,
        _volumes: Vec<VolumeSpec>,
        _identity: StoreIdentity,
        _options: StoreOptions,
    ) -> R<(Self, StartupReport)> {
        Err(StoreError::NoVolume)
    }
    pub fn get(&self, _id: BlockId) -> Option<ReplicaInfo> {
        None
    }
    /// FINALIZED replicas of a storage, sorted by `mix(id)`.
    pub fn finalized(&self, _storage: StorageUuid) -> Vec<Block> {
        Vec::new()
    }
    /// Replicas of a storage in every other state (TEMPORARY too), sorted by `mix(id)`.
    pub fn open_replicas(&self, _storage: StorageUuid) -> Vec<ReplicaInfo> {
        Vec::new()
    }
    pub fn volumes(&self) -> Vec<VolumeStatus> {
        Vec::new()
    }
    /// Asks the file systems for their free room; call before each heartbeat.
    pub async fn refresh_space(&self) {}
    pub fn counters(&self) -> StoreCounters {
        StoreCounters::default()
    }
    pub async fn create_rbw(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _spec: CreateSpec,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    pub async fn create_temporary(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _spec: CreateSpec,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    /// TEMPORARY copy (pipeline replacement) becomes RBW with this visible length.
    pub async fn convert_temporary(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _visible: u64,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    /// `block` = id, present gs and expected length. Durable at return (gs, RBW).
    pub async fn append(
        &self,
        _block: Block,
        _new_gs: GenerationStamp,
        _expected_length: u64,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    /// Takes an RBW over from its writer: acked in min..; cut to acked; gs raised.
    pub async fn recover_rbw(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _new_gs: GenerationStamp,
        _min: u64,
        _max: u64,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    pub async fn recover_append(
        &self,
        _block: Block,
        _new_gs: GenerationStamp,
        _expected_length: u64,
    ) -> R<ReplicaWriter<D>> {
        Err(StoreError::NoVolume)
    }
    pub async fn recover_close(&self, _block: Block, _new_gs: GenerationStamp) -> R<Block> {
        Err(StoreError::NoVolume)
    }
    pub async fn bump_generation_stamp(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _new_gs: GenerationStamp,
    ) -> R<()> {
        Err(StoreError::NoVolume)
    }
    /// Accepted = durably detached and out of the map at return. Never touches an instance of a newer gs than `gs`.
    pub async fn delete(&self, _id: BlockId, _gs: GenerationStamp) -> R<Deleted> {
        Err(StoreError::NoVolume)
    }
    /// Frees the bytes of a deletion.
    pub async fn collect(&self, _deleted: Deleted) -> R<()> {
        Err(StoreError::NoVolume)
    }
    /// `None`: no such replica. Stops a writer, flushes what it received.
    pub async fn init_recovery(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _recovery_id: GenerationStamp,
    ) -> R<Option<RecoveryInfo>> {
        Err(StoreError::NoVolume)
    }
    /// FINALIZED with the recovery id as new stamp and `new_length`, durable at return.
    pub async fn update_recovered(
        &self,
        _id: BlockId,
        _recovery_id: GenerationStamp,
        _old_length: u64,
        _new_length: u64,
    ) -> R<Block> {
        Err(StoreError::NoVolume)
    }
    /// Bytes `offset..offset+length` (any offset) widened to whole chunks.
    pub async fn open_reader(
        &self,
        _id: BlockId,
        _gs: GenerationStamp,
        _offset: u64,
        _length: u64,
    ) -> R<ReplicaReader<D>> {
        Err(StoreError::NoVolume)
    }
    pub fn visible_length(&self, _id: BlockId) -> R<u64> {
        Err(StoreError::NoVolume)
    }
    pub async fn verify(&self, _id: BlockId) -> R<VerifyOutcome> {
        Err(StoreError::NoVolume)
    }
}

#[allow(missing_docs, clippy::unused_async)]
impl<D: Disk> ReplicaReader<D> {
    /// The next part in order, `None` at the end. Reads one ahead.
    pub async fn next(&mut self) -> R<Option<ReadPart>> {
        Ok(None)
    }
}

#[allow(missing_docs, clippy::unused_async)]
impl<D: Disk> ReplicaWriter<D> {
    pub fn info(&self) -> ReplicaInfo {
        unreachable!()
    }
    /// One packet at `offset` (= received length; or a chunk start at or below it: known bytes are checked and skipped) in any number
    /// of slices; `checksums` = little-endian u32 per chunk touched. Verifies while copying.
    pub async fn write(&mut self, _offset: u64, _data: &[Bytes], _checksums: &[u8]) -> R<()> {
        Ok(())
    }
    /// hflush: returns bytes on disk.
    pub async fn flush(&mut self) -> R<u64> {
        Ok(0)
    }
    /// hsync.
    pub async fn sync(&mut self) -> R<u64> {
        Ok(0)
    }
    /// Bytes acknowledged downstream: what readers may see.
    pub fn set_visible_length(&self, _length: u64) {}
    /// FINALIZED; with `durable` on disk at return.
    pub async fn finish(self, _durable: bool) -> R<Block> {
        Err(StoreError::NoVolume)
    }
    /// Connection lost: flushes and leaves the replica RBW for recovery (TEMPORARY: deletes it).
    pub async fn park(self) -> R<()> {
        Ok(())
    }
}
