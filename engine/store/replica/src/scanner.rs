//! The block scanner's hook: a whole replica against its checksums.

use crate::{ReplicaStore, StoreError, VerifyOutcome};
use hadal_env::{Disk, DiskOp};
use hadal_types::{BlockId, ReplicaState};
use std::rc::Rc;

impl<D: Disk> ReplicaStore<D> {
    /// Reads a FINALIZED replica and checks every chunk. A chunk that cannot be read counts as corrupt. A replica that
    /// is not FINALIZED, or changes while it is read, is [`VerifyOutcome::Gone`]: its next turn will come.
    pub async fn verify(&self, id: BlockId) -> Result<VerifyOutcome, StoreError> {
        let Ok(replica) = self.find(id) else {
            return Ok(VerifyOutcome::Gone);
        };
        let before = replica.info();
        if before.state != ReplicaState::Finalized {
            return Ok(VerifyOutcome::Gone);
        }
        let chunk = replica.geometry.bytes_per_checksum;
        let length = before.block.length;
        let mut reader = self
            .open_reader(id, before.block.generation_stamp, 0, length)
            .await?;
        let mut bytes = 0;
        let mut bad = None;
        loop {
            match reader.next_verified().await {
                Ok(Some(part)) => bytes += part.data.len() as u64,
                Ok(None) => break,
                Err(StoreError::Corrupt { .. }) => {
                    bad = Some(bytes / chunk as u64);
                    break;
                }
                Err(StoreError::Disk(error)) if error.op == DiskOp::Read => {
                    bad = Some(bytes / chunk as u64);
                    break;
                }
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
