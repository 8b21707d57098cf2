//! The block scanner's hook: a whole replica against its checksums.

use crate::{ReplicaInfo, ReplicaStore, StoreError, VerifyOutcome};
use hadal_env::{Disk, DiskOp};
use hadal_types::{BlockId, ReplicaState, StorageUuid};
use std::rc::Rc;

impl<D: Disk> ReplicaStore<D> {
    /// Whether a storage is here and has not failed. Unlike [`ReplicaStore::volumes`] this costs nothing.
    #[must_use]
    pub fn is_usable(&self, storage: StorageUuid) -> bool {
        let mut volumes = self.inner.volumes.iter();
        volumes.any(|volume| volume.storage == storage && !volume.is_failed())
    }

    /// The FINALIZED replica of a storage with the lowest `mix(id)` above `after`.
    #[must_use]
    pub fn next_finalized(&self, storage: StorageUuid, after: Option<u64>) -> Option<ReplicaInfo> {
        self.forget_failed();
        let map = self.inner.map.borrow();
        let mut behind = map.iter_after(after);
        behind
            .find(|replica| {
                replica.volume.storage == storage && replica.state() == ReplicaState::Finalized
            })
            .map(|replica| replica.info())
    }

    /// Reads a FINALIZED replica and checks every chunk. A chunk that cannot be read counts as corrupt. A replica that
    /// is not FINALIZED, or changes while it is read, is [`VerifyOutcome::Gone`]: its next turn will come.
    pub async fn verify(&self, id: BlockId) -> Result<VerifyOutcome, StoreError> {
        self.verify_paced(id, async |_| {}).await
    }

    /// As [`ReplicaStore::verify`]; `pace` is told the bytes of every part read, and awaited before the next.
    pub async fn verify_paced(
        &self,
        id: BlockId,
        mut pace: impl AsyncFnMut(u64),
    ) -> Result<VerifyOutcome, StoreError> {
        let Ok(replica) = self.find(id) else {
            return Ok(VerifyOutcome::Gone);
        };
        let before = replica.info();
        if before.state != ReplicaState::Finalized {
            return Ok(VerifyOutcome::Gone);
        }
        let chunk = replica.geometry.bytes_per_checksum;
        let length = before.block.length;
        let stamp = before.block.generation_stamp;
        let mut reader = match self.open_reader(id, stamp, 0, length).await {
            Ok(reader) => Some(reader),
            // Its file is gone.
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut bytes = 0;
        let mut bad = reader.is_none().then_some(0);
        while let Some(reader) = &mut reader {
            match reader.next_verified().await {
                Ok(Some(part)) => {
                    let read = part.data.len() as u64;
                    drop(part);
                    bytes += read;
                    pace(read).await;
                }
                Ok(None) => break,
                Err(StoreError::Corrupt { .. }) => {
                    bad = Some(bytes / chunk as u64);
                    break;
                }
                Err(StoreError::Disk(error)) if error.op == DiskOp::Read => {
                    bad = Some(bytes / chunk as u64);
                    break;
                }
                Err(StoreError::OutOfRange { .. }) => return Ok(VerifyOutcome::Gone),
                Err(error) => return Err(error),
            }
        }
        let same =
            self.find(id).is_ok_and(|now| Rc::ptr_eq(&now, &replica)) && replica.info() == before;
        Ok(match bad {
            _ if !same => VerifyOutcome::Gone,
            Some(chunk) => VerifyOutcome::Corrupt { chunk },
            None => VerifyOutcome::Ok { bytes },
        })
    }
}
