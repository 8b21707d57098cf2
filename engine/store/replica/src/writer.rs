//! Writing one open replica.

use crate::body::Body;
use crate::map::Replica;
use crate::operations::give_up;
use crate::{ReplicaInfo, ReplicaStore, StoreError};
use bytes::Bytes;
use futures_util::lock::MutexGuard;
use hadal_env::Disk;
use hadal_types::{Block, ReplicaState};
use std::rc::Rc;

/// The one writer of an open replica. A recovery, a take-over by another pipeline or a deletion stops it: its
/// next call answers [`StoreError::Fenced`].
///
/// It holds one aligned buffer of at most `group_bytes` while bytes are gathered (until [`ReplicaWriter::rest`]), and up to
/// `writes_in_flight` more. Dropping it leaves the replica as it is, with its buffer; call [`ReplicaWriter::park`] when the
/// connection is lost.
pub struct ReplicaWriter<D: Disk> {
    store: ReplicaStore<D>,
    replica: Rc<Replica<D>>,
    token: u64,
}

type Held<'a, D> = MutexGuard<'a, Option<Box<Body<D>>>>;

impl<D: Disk> ReplicaWriter<D> {
    pub(crate) fn new(store: ReplicaStore<D>, replica: Rc<Replica<D>>, token: u64) -> Self {
        Self {
            store,
            replica,
            token,
        }
    }

    async fn hold(&self) -> Result<Held<'_, D>, StoreError> {
        let held = self.replica.body.lock().await;
        self.replica.volume.alive()?;
        if !self.is_current() || held.is_none() {
            return Err(StoreError::Fenced {
                id: self.replica.id,
            });
        }
        Ok(held)
    }

    /// Whether it still is the replica's writer: no recovery, take-over or deletion has stopped it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let meta = self.replica.meta.borrow();
        !meta.gone && meta.writer == self.token
    }

    /// What is known of the replica.
    #[must_use]
    pub fn info(&self) -> ReplicaInfo {
        self.replica.info()
    }

    /// Takes one packet, in any number of slices. `checksums` holds a little-endian CRC32C for every chunk the packet
    /// touches. Bytes are verified while they are copied into the aligned buffer; on
    /// [`StoreError::ChecksumMismatch`] the chunks before the bad one were taken.
    ///
    /// `offset` is the number of bytes received so far, or the start of a chunk at or below it: bytes known already (a
    /// partial chunk sent again after a flush, or whole packets sent again after a pipeline recovery) are verified and
    /// skipped. A packet that starts inside a chunk (append) has a first checksum over its own bytes only.
    ///
    /// Waits only for a buffer, or for the oldest write when enough are in flight.
    pub async fn write(
        &mut self,
        offset: u64,
        data: &[Bytes],
        checksums: &[u8],
    ) -> Result<(), StoreError> {
        let mut held = self.hold().await?;
        held.as_mut()
            .expect("held")
            .write(&self.replica, offset, data, checksums)
            .await
    }

    /// hflush: the kernel has completed the write of every byte received; they survive the death of this process.
    /// Returns how many. (A small TEMPORARY replica promises nothing and stays in memory.)
    pub async fn flush(&mut self) -> Result<u64, StoreError> {
        let mut held = self.hold().await?;
        let body = held.as_mut().expect("held");
        body.flush(&self.replica).await?;
        Ok(body.received())
    }

    /// hsync: as [`ReplicaWriter::flush`], and on the device.
    pub async fn sync(&mut self) -> Result<u64, StoreError> {
        let mut held = self.hold().await?;
        let body = held.as_mut().expect("held");
        body.sync(&self.replica).await?;
        Ok(body.received())
    }

    /// The caller has nothing for a while: what was received is flushed, and the buffers go back. They are taken again with
    /// the next bytes.
    pub async fn rest(&mut self) -> Result<(), StoreError> {
        let mut held = self.hold().await?;
        held.as_mut().expect("held").rest(&self.replica).await
    }

    /// Every node downstream has acknowledged this many bytes (the last node of a pipeline: what it received).
    /// Readers see them once they are on disk; a pipeline recovery keeps them. Never goes back.
    pub fn set_visible_length(&self, length: u64) {
        let mut meta = self.replica.meta.borrow_mut();
        if meta.writer == self.token {
            meta.acked = meta.acked.max(length.min(meta.received));
        }
    }

    /// Freezes the replica: FINALIZED. With `durable` (the default of the product) it is on the device at
    /// return; otherwise a restart keeps it FINALIZED only if all of it verifies.
    pub async fn finish(self, durable: bool) -> Result<Block, StoreError> {
        let mut held = self.hold().await?;
        let stamp = self.replica.stamp();
        let body = held.as_mut().expect("held");
        if let Err(error) = body.finish(&self.replica, stamp, durable).await {
            give_up(&self.replica, &mut held).await;
            self.replica.take_over();
            return Err(error);
        }
        *held = None;
        self.replica.take_over();
        Ok(self.replica.block())
    }

    /// The connection is lost: what was received is flushed, the buffer given back, and an RBW waits for recovery. A
    /// TEMPORARY replica is deleted (E-12).
    pub async fn park(self) -> Result<(), StoreError> {
        let mut held = self.hold().await?;
        if self.replica.meta.borrow().state == ReplicaState::Temporary {
            drop(held);
            let deleted = self.store.delete_replica(&self.replica).await?;
            return self.store.collect(deleted).await;
        }
        let flushed = held.as_mut().expect("held").flush(&self.replica).await;
        match flushed {
            Ok(()) => *held = None,
            Err(_) => give_up(&self.replica, &mut held).await,
        }
        self.replica.take_over();
        flushed
    }
}
