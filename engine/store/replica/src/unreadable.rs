//! Sectors that cannot be read when a store is opened: each takes the replica it belongs to, many of them the volume.

use crate::StoreError;
use hadal_env::DiskOp;
use std::cell::Cell;

/// Replicas of one volume that may be unreadable at a start. More is a disk that fails, not a few bad sectors.
pub(crate) const UNREADABLE_MAX: u32 = 16;

/// How often what cannot be read is tried. One try of a replica is a handful of reads.
const ATTEMPTS: u32 = 8;

/// What the operating system says of a file it cannot read from the device (`EIO`).
const IO_ERROR: i32 = 5;

/// The unreadable replicas of one volume, counted while it is opened.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    replicas: Cell<u32>,
}

impl Unreadable {
    /// Whether the error is about the one file or slot it was met at: a read failed, or the device cannot give the file.
    pub(crate) fn is_local(error: &StoreError) -> bool {
        match error {
            StoreError::Disk(error) if error.op == DiskOp::Read => true,
            StoreError::Disk(error) if error.op == DiskOp::Open => {
                error.source.raw_os_error() == Some(IO_ERROR)
            }
            _ => false,
        }
    }

    /// Gives one replica up for this error.
    ///
    /// # Errors
    /// The error itself when it is about more than that replica, or there were too many.
    pub(crate) fn forgive(&self, error: StoreError) -> Result<(), StoreError> {
        if !Self::is_local(&error) || self.replicas.get() == UNREADABLE_MAX {
            return Err(error);
        }
        self.replicas.set(self.replicas.get() + 1);
        Ok(())
    }

    /// What `attempt` gives, tried again when it met an unreadable sector: a read that fails now and then says little, and
    /// the replica may be the last one. `None`: the replica is given up.
    pub(crate) async fn insist<T, F>(
        &self,
        attempt: impl Fn() -> F,
    ) -> Result<Option<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut outcome = attempt().await;
        for _ in 1..ATTEMPTS {
            if !outcome.as_ref().is_err_and(Self::is_local) {
                break;
            }
            outcome = attempt().await;
        }
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.forgive(error).map(|()| None),
        }
    }
}
