//! A journal on a disk in memory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use hadal_env::Disk;
use hadal_types::{Epoch, TxId};
use std::future::Future;
use std::path::{Path, PathBuf};
use store_journal::{Batch, Digest, EMPTY_DIGEST, Journal, JournalError, Options, Start, Tail};
use store_record::testing::MemDisk;

pub const DIRECTORY: &str = "/jn/edits";
pub const NAMESPACE: u64 = 77;
/// Small steps, so that tests grow segments soon.
pub const OPTIONS: Options = Options {
    namespace_id: NAMESPACE,
    initial_bytes: 4096,
    zero_ahead_bytes: 4096,
};

pub type MemJournal = Journal<MemDisk>;

pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

pub fn in_progress(first: u64) -> PathBuf {
    path(&format!("edits_inprogress_{first:020}"))
}

pub fn finalised(first: u64, last: u64) -> PathBuf {
    path(&format!("edits_{first:020}-{last:020}"))
}

pub fn new_disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.run(disk.create_dir_all(Path::new(DIRECTORY)))
        .unwrap()
        .unwrap();
    disk
}

/// Runs a future that must not crash.
pub fn run<T>(disk: &MemDisk, future: impl Future<Output = T>) -> T {
    disk.run(future).expect("no crash was asked for")
}

pub async fn try_open(disk: &MemDisk, committed: u64) -> Result<MemJournal, JournalError> {
    Journal::open(disk, Path::new(DIRECTORY), OPTIONS, TxId(committed)).await
}

pub fn open(disk: &MemDisk) -> MemJournal {
    open_committed(disk, 0)
}

pub fn open_committed(disk: &MemDisk, committed: u64) -> MemJournal {
    run(disk, try_open(disk, committed)).expect("opens")
}

/// What record `txid` of `epoch` holds: the length varies, and the content is its own.
pub fn payload(epoch: u64, txid: u64) -> Vec<u8> {
    let length = 20 + (txid * 37 + epoch * 11) % 90;
    (0..length)
        .map(|i| u8::try_from((txid * 31 + epoch * 101 + i * 7) % 251 + 1).unwrap())
        .collect()
}

/// Records `first..=last` of one epoch, behind a log with that digest.
pub fn batch(epoch: u64, first: u64, last: u64, before: Digest) -> Batch {
    Batch::frame(
        Epoch(epoch),
        TxId(first),
        before,
        (first..=last).map(|txid| payload(epoch, txid)),
    )
    .unwrap()
}

/// Digest behind `1..=last` of one epoch.
pub fn digest(epoch: u64, last: u64) -> Digest {
    if last == 0 {
        EMPTY_DIGEST
    } else {
        batch(epoch, 1, last, EMPTY_DIGEST).digest()
    }
}

pub fn tail(journal: &MemJournal) -> Tail {
    journal.tail().expect("a segment is open")
}

pub async fn start(journal: &MemJournal, epoch: u64, first: u64) -> Result<Tail, JournalError> {
    let before = if first == 1 {
        EMPTY_DIGEST
    } else {
        journal.digest_at(TxId(first - 1)).await?
    };
    journal
        .start_segment(TxId(first), Epoch(epoch), before, Start::Fresh)
        .await
}

/// Appends `first..=last` as one batch.
pub async fn append(
    journal: &MemJournal,
    epoch: u64,
    first: u64,
    last: u64,
) -> Result<(), JournalError> {
    let before = journal.tail().ok_or(JournalError::NoOpenSegment)?.digest;
    let appended = journal.append(batch(epoch, first, last, before)).await?;
    assert_eq!(appended.last, TxId(last));
    Ok(())
}

/// A whole segment: start, one batch, finalise.
pub async fn segment(journal: &MemJournal, epoch: u64, first: u64, last: u64) {
    start(journal, epoch, first).await.unwrap();
    append(journal, epoch, first, last).await.unwrap();
    journal
        .finalise(TxId(first), TxId(last), Some(tail_digest(journal, last)))
        .await
        .unwrap();
}

fn tail_digest(journal: &MemJournal, last: u64) -> Digest {
    let tail = tail(journal);
    assert_eq!(tail.durable, TxId(last));
    tail.durable_digest
}

/// Reads `from..` in small chunks until there is no more; `(epoch, txid)` of each record, whose payload is checked.
pub async fn read_all(
    journal: &MemJournal,
    from: u64,
    up_to: u64,
) -> Result<Vec<(u64, u64)>, JournalError> {
    let mut found = Vec::new();
    let mut next = TxId(from);
    while let Some(chunk) = journal.read(next, TxId(up_to), 300).await? {
        assert_eq!(chunk.batch.first(), next);
        for record in chunk.batch.records() {
            assert_eq!(
                record.payload,
                payload(record.epoch.0, record.txid.0),
                "wrong bytes served for {}",
                record.txid
            );
            found.push((record.epoch.0, record.txid.0));
        }
        next = chunk.batch.last().next();
    }
    Ok(found)
}

pub fn txids(found: &[(u64, u64)]) -> Vec<u64> {
    found.iter().map(|(_, txid)| *txid).collect()
}

pub fn flip(disk: &MemDisk, path: &Path, bit: usize) {
    let mut bytes = disk.content(path);
    bytes[bit / 8] ^= 1 << (bit % 8);
    disk.set_content(path, bytes);
}
