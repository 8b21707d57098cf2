//! Closed files opened again, cut and joined, and files whose writer is gone (F-10, E-06).

use crate::dfs::{DistributedFileSystem, call, unexpected};
use crate::error::ClientError;
use crate::options::AppendOptions;
use crate::output::DfsOutputStream;
use hadal_env::Seam;
use hadal_proto::client::{Request, Response};

/// First wait between two questions whether a file is closed by now.
const WAIT_MIN_MS: u64 = 20;
/// Longest wait between two of them.
const WAIT_MAX_MS: u64 = 1_000;

impl<S: Seam> DistributedFileSystem<S> {
    /// Opens a closed file for writing at its end.
    ///
    /// # Errors
    /// [`ClientError`]; [`crate::FaultClass::AlreadyBeingCreated`] while another writer has it open.
    pub async fn append(
        &self,
        path: &str,
        options: &AppendOptions,
    ) -> Result<DfsOutputStream<S>, ClientError> {
        DfsOutputStream::append(self.clone(), path, options).await
    }

    /// Cuts a closed file to `length` bytes. `false` when its last block is being recovered to its new length: until
    /// [`is_file_closed`](Self::is_file_closed) the file cannot be changed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn truncate(&self, path: &str, length: u64) -> Result<bool, ClientError> {
        let request = Request::Truncate {
            path: path.into(),
            length,
        };
        call!(self, request, Response::Flag { value } => value)
    }

    /// As [`truncate`](Self::truncate), and waits up to `limit_ms` for the recovery; `false` when it takes longer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn truncate_and_wait(
        &self,
        path: &str,
        length: u64,
        limit_ms: u64,
    ) -> Result<bool, ClientError> {
        Ok(self.truncate(path, length).await? || self.wait_until_closed(path, limit_ms).await?)
    }

    /// Moves the blocks of `sources`, in order, behind those of `target` and removes the sources.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn concat(&self, target: &str, sources: &[String]) -> Result<(), ClientError> {
        let request = Request::Concat {
            target: target.into(),
            sources: sources.to_vec(),
        };
        call!(self, request, Response::Done => ())
    }

    /// Whether nobody has the file open for writing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn is_file_closed(&self, path: &str) -> Result<bool, ClientError> {
        call!(self, Request::IsFileClosed { path: path.into() }, Response::Flag { value } => value)
    }

    /// Takes a file from its writer and waits up to `limit_ms` until it is closed; `false` when it takes longer. The
    /// length is then what the writer had flushed, at least (E-06, E-19).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn recover_lease_and_wait(
        &self,
        path: &str,
        limit_ms: u64,
    ) -> Result<bool, ClientError> {
        Ok(self.recover_lease(path).await? || self.wait_until_closed(path, limit_ms).await?)
    }

    async fn wait_until_closed(&self, path: &str, limit_ms: u64) -> Result<bool, ClientError> {
        let seam = &self.shared.seam;
        let deadline = seam.now().after_ms(limit_ms);
        let mut wait_ms = WAIT_MIN_MS;
        while seam.now() < deadline {
            seam.sleep_until(seam.now().after_ms(wait_ms).min(deadline))
                .await;
            if self.is_file_closed(path).await? {
                return Ok(true);
            }
            wait_ms = (wait_ms * 2).min(WAIT_MAX_MS);
        }
        Ok(false)
    }
}
