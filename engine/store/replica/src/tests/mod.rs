//! The store on a disk that fails and crashes.

mod crash;
mod directory;
mod flow;
mod matrix;
mod restart;
mod rot;
mod unreadable;

use crate::testing::{Rng, TestDisk};
use crate::{
    CreateSpec, ReplicaStore, ReplicaWriter, StartupReport, StoreError, StoreIdentity,
    StoreOptions, VolumeSpec,
};
use bytes::Bytes;
use hadal_types::{
    Block, BlockId, ClusterId, DatanodeUuid, GenerationStamp, NamespaceInfo, ReplicaState,
    StorageUuid,
};
use store_record::checksum::crc32c;

type Store = ReplicaStore<TestDisk>;
type Writer = ReplicaWriter<TestDisk>;

/// Everything small, so that few bytes reach every case.
fn small() -> StoreOptions {
    StoreOptions {
        group_bytes: 16 << 10,
        small_bytes: 16 << 10,
        extent_bytes: 48 << 10,
        allocate_step: 32 << 10,
        ..StoreOptions::default()
    }
}

/// Every replica in a file of its own.
fn files_only() -> StoreOptions {
    StoreOptions {
        small_bytes: 0,
        ..small()
    }
}

fn identity() -> StoreIdentity {
    let namespace = NamespaceInfo {
        namespace_id: 7,
        cluster_id: ClusterId("CID-t".to_owned()),
        ..NamespaceInfo::default()
    };
    StoreIdentity {
        datanode: DatanodeUuid(9),
        namespace,
    }
}

fn volume(number: u128) -> VolumeSpec {
    VolumeSpec {
        dir: format!("/d{number}").into(),
        storage_if_new: StorageUuid(number),
    }
}

async fn open(disk: &TestDisk, options: StoreOptions) -> (Store, StartupReport) {
    ReplicaStore::open(disk.clone(), vec![volume(1)], identity(), options)
        .await
        .expect("opens")
}

fn id(n: u64) -> BlockId {
    BlockId(n)
}

fn gs(n: u64) -> GenerationStamp {
    GenerationStamp(n)
}

fn block(n: u64, stamp: u64, length: u64) -> Block {
    Block {
        id: id(n),
        generation_stamp: gs(stamp),
        length,
    }
}

fn chunk(bytes_per_checksum: u32) -> CreateSpec {
    CreateSpec {
        bytes_per_checksum,
        ..CreateSpec::default()
    }
}

/// Bytes that differ everywhere and between seeds.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng(seed.wrapping_mul(77));
    let mut bytes: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|_| rng.next().to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

fn checksums(data: &[u8], offset: u64, chunk: usize) -> Vec<u8> {
    let first = (chunk - offset as usize % chunk).min(data.len());
    let (head, rest) = data.split_at(first);
    let mut pieces: Vec<&[u8]> = Vec::new();
    pieces.extend((!head.is_empty()).then_some(head));
    pieces.extend(rest.chunks(chunk));
    pieces
        .iter()
        .flat_map(|piece| crc32c(piece).to_le_bytes())
        .collect()
}

/// In slices of odd sizes.
fn slices(data: &[u8]) -> Vec<Bytes> {
    data.chunks(1431).map(Bytes::copy_from_slice).collect()
}

/// Sends `data[from..to]` as a client does: packets start on a chunk boundary, known bytes are sent again.
async fn send(writer: &mut Writer, data: &[u8], from: usize, to: usize) -> Result<(), StoreError> {
    let chunk = writer.info().bytes_per_checksum as usize;
    let mut at = from / chunk * chunk;
    while at < to {
        let end = (at + 5 * chunk).min(to);
        let piece = &data[at..end];
        writer
            .write(
                at as u64,
                &slices(piece),
                &checksums(piece, at as u64, chunk),
            )
            .await?;
        at = end;
    }
    writer.set_visible_length(to as u64);
    Ok(())
}

/// Reads as a client does: every chunk against its checksum.
async fn read(store: &Store, n: u64, offset: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut reader = store
        .open_reader(id(n), gs(0), offset, length)
        .await
        .map_err(|e| e.to_string())?;
    let chunk = reader.bytes_per_checksum() as usize;
    let range = reader.range();
    let mut bytes = Vec::new();
    while let Some(part) = reader.next().await.map_err(|e| e.to_string())? {
        if part.offset != range.start + bytes.len() as u64 {
            return Err(format!(
                "part at {} after {} bytes",
                part.offset,
                bytes.len()
            ));
        }
        if checksums(&part.data, 0, chunk) != part.checksums {
            return Err(format!("checksum mismatch at {}", part.offset));
        }
        bytes.extend_from_slice(&part.data);
    }
    if bytes.len() as u64 != range.end - range.start {
        return Err("short".to_owned());
    }
    if length > 0 {
        bytes.drain(..(offset - range.start) as usize);
    }
    bytes.truncate(length as usize);
    Ok(bytes)
}

async fn read_all(store: &Store, n: u64) -> Result<Vec<u8>, String> {
    let length = store.get(id(n)).ok_or("absent")?.visible_length;
    read(store, n, 0, length).await
}

/// Writes and finishes a replica.
async fn put(store: &Store, n: u64, stamp: u64, data: &[u8], spec: CreateSpec) -> Block {
    let mut writer = store
        .create_rbw(id(n), gs(stamp), spec)
        .await
        .expect("creates");
    send(&mut writer, data, 0, data.len()).await.expect("sends");
    writer.finish(true).await.expect("finishes")
}

fn state(store: &Store, n: u64) -> Option<ReplicaState> {
    store.get(id(n)).map(|info| info.state)
}

/// The bytes of a replica in whatever state: what an RWR holds is read after recovering it as it is.
async fn read_recovered(store: &Store, n: u64) -> Result<Vec<u8>, String> {
    let info = store.get(id(n)).ok_or("absent")?;
    if info.state == ReplicaState::Rwr {
        let recovery = GenerationStamp(info.block.generation_stamp.0 + 1000);
        let found = store
            .init_recovery(id(n), gs(0), recovery)
            .await
            .map_err(|e| e.to_string())?
            .expect("here");
        let length = found.block.length;
        store
            .update_recovered(id(n), recovery, length, length)
            .await
            .map_err(|e| e.to_string())?;
    }
    read_all(store, n).await
}
