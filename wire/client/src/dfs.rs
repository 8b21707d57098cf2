//! The file system: operations on paths.

use crate::background::{Background, OPEN_QUEUE};
use crate::error::ClientError;
use crate::input::DfsInputStream;
use crate::local::Refusals;
use crate::namenode::Namenodes;
use crate::options::{ClientOptions, CreateOptions};
use crate::output::DfsOutputStream;
use crate::peers::Peers;
use futures_channel::mpsc;
use hadal_env::{Expect, Seam};
use hadal_proto::client::{
    ContentSummary, FileStatus, FsStats, LocatedBlocks, OpenFile, Request, Response, ServerDefaults,
};
use hadal_proto::{Fault, FaultClass, transfer};
use hadal_types::{ClientId, HaState, InodeId, Role, TxId};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Entries asked for per page of a listing.
const LISTING_PAGE: u32 = 1000;
/// Leases are renewed at least this often while files are open.
const RENEWAL_MAX_MS: u64 = 30_000;

/// What all handles of one client share.
pub(crate) struct Shared<S: Seam> {
    pub(crate) seam: S,
    pub(crate) options: ClientOptions,
    pub(crate) namenodes: Namenodes<S>,
    pub(crate) peers: Peers<S>,
    /// DataNodes here that hand out no files.
    pub(crate) refusals: Refusals,
    defaults: OnceLock<ServerDefaults>,
    open_files: AtomicUsize,
    renewal_ms: AtomicU64,
}

impl<S: Seam> Shared<S> {
    pub(crate) fn open_files(&self) -> usize {
        self.open_files.load(Ordering::Relaxed)
    }

    pub(crate) fn renewal_period_ms(&self) -> u64 {
        self.renewal_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn file_opened(&self) {
        self.open_files.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn file_closed(&self) {
        self.open_files.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file system. Clones share connections, lease and call ids.
pub struct DistributedFileSystem<S: Seam> {
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Seam> Clone for DistributedFileSystem<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

pub(crate) fn unexpected(response: &Response) -> ClientError {
    ClientError::Protocol(format!("{} does not answer this call", response.name()))
}

/// Calls the NameNode and takes the answer of the one shape that fits.
macro_rules! call {
    ($self:ident, $request:expr, $pattern:pat => $value:expr) => {
        match $self.shared.namenodes.call($request).await? {
            $pattern => Ok($value),
            other => Err(unexpected(&other)),
        }
    };
}

pub(crate) use call;

impl<S: Seam> DistributedFileSystem<S> {
    /// A client on this seam, and the future that must run beside it.
    ///
    /// # Panics
    /// When no NameNode is named.
    pub fn new(seam: S, options: ClientOptions) -> (Self, Background<S>) {
        assert!(
            !options.namenodes.is_empty(),
            "a client needs the address of at least one NameNode"
        );
        let (opens, queue) = mpsc::channel(OPEN_QUEUE);
        let id = (u128::from(seam.random_u64()) << 64) | u128::from(seam.random_u64()) | 1;
        let shared = Arc::new(Shared {
            namenodes: Namenodes::new(seam.clone(), options.clone(), ClientId(id), opens.clone()),
            peers: Peers::new(seam.clone(), opens),
            refusals: Refusals::default(),
            seam: seam.clone(),
            options,
            defaults: OnceLock::new(),
            open_files: AtomicUsize::new(0),
            renewal_ms: AtomicU64::new(RENEWAL_MAX_MS),
        });
        let background = Background {
            seam,
            shared: Arc::downgrade(&shared),
            opens: queue,
        };
        (Self { shared }, background)
    }

    /// Closes the connections to all nodes, so that they need not wait for the idle time-out to know that this client
    /// is done. Files that are open for write stay open until their lease expires; a later call dials anew.
    pub fn disconnect(&self) {
        self.shared.namenodes.disconnect();
        self.shared.peers.disconnect();
    }

    /// This client's id, the holder of its leases.
    #[must_use]
    pub fn client_id(&self) -> ClientId {
        self.shared.namenodes.client_id()
    }

    /// Highest txid this client has seen in an answer.
    #[must_use]
    pub fn seen_txid(&self) -> TxId {
        self.shared.namenodes.seen()
    }

    /// Any single call, for tools and tests.
    ///
    /// # Errors
    /// [`ClientError`], after retries.
    pub async fn call(&self, request: Request) -> Result<Response, ClientError> {
        self.shared.namenodes.call(request).await
    }

    /// The cluster's defaults for new files; asked once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn server_defaults(&self) -> Result<ServerDefaults, ClientError> {
        if let Some(defaults) = self.shared.defaults.get() {
            return Ok(defaults.clone());
        }
        let defaults =
            call!(self, Request::GetServerDefaults, Response::Defaults { defaults } => defaults)?;
        let renewal = (defaults.lease_soft_limit_ms / 2).clamp(100, RENEWAL_MAX_MS);
        self.shared.renewal_ms.store(renewal, Ordering::Relaxed);
        Ok(self.shared.defaults.get_or_init(|| defaults).clone())
    }

    /// Status of a path, `None` when there is nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn try_file_status(&self, path: &str) -> Result<Option<FileStatus>, ClientError> {
        call!(self, Request::GetFileInfo { path: path.into() }, Response::FileInfo { status } => status)
    }

    /// Status of a path.
    ///
    /// # Errors
    /// [`ClientError`]; [`FaultClass::NotFound`] when there is nothing.
    pub async fn file_status(&self, path: &str) -> Result<FileStatus, ClientError> {
        self.try_file_status(path).await?.ok_or_else(|| {
            Fault::new(
                FaultClass::NotFound,
                format!("`{path}': No such file or directory"),
            )
            .into()
        })
    }

    /// Reads of this client from a standby or observer ([`ClientOptions::read_from`]) that begin from here on show
    /// everything that was acknowledged to any client before this call.
    ///
    /// # Errors
    /// [`ClientError`]; the active NameNode is asked.
    pub async fn msync(&self) -> Result<(), ClientError> {
        self.shared.namenodes.msync().await
    }

    /// One page of a directory behind the name `start_after` (empty for the first), and how many entries follow
    /// it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_page(
        &self,
        path: &str,
        start_after: &str,
    ) -> Result<(Vec<FileStatus>, u64), ClientError> {
        let request = Request::GetListing {
            path: path.into(),
            start_after: start_after.into(),
            limit: LISTING_PAGE,
        };
        call!(self, request, Response::Listing { entries, remaining } => (entries, remaining))
    }

    /// A whole directory in name order, or the file itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, path: &str) -> Result<Vec<FileStatus>, ClientError> {
        let (mut all, mut remaining) = self.list_page(path, "").await?;
        while remaining > 0 {
            let Some(last) = all.last() else { break };
            let after = last.name.clone();
            let (page, left) = self.list_page(path, &after).await?;
            if page.is_empty() {
                break;
            }
            all.extend(page);
            remaining = left;
        }
        Ok(all)
    }

    /// Counts and sizes below a path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn content_summary(&self, path: &str) -> Result<ContentSummary, ClientError> {
        let request = Request::GetContentSummary { path: path.into() };
        call!(self, request, Response::ContentSummary { summary } => summary)
    }

    /// Creates a directory, with those above it when `create_parent`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mkdirs(
        &self,
        path: &str,
        permission: u16,
        create_parent: bool,
    ) -> Result<bool, ClientError> {
        let request = Request::Mkdirs {
            path: path.into(),
            permission,
            create_parent,
        };
        call!(self, request, Response::Flag { value } => value)
    }

    /// Removes a path; `false` when there was nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, path: &str, recursive: bool) -> Result<bool, ClientError> {
        let request = Request::Delete {
            path: path.into(),
            recursive,
        };
        call!(self, request, Response::Flag { value } => value)
    }

    /// Renames; replaces an existing target only with `overwrite`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rename(&self, from: &str, to: &str, overwrite: bool) -> Result<(), ClientError> {
        let request = Request::Rename {
            from: from.into(),
            to: to.into(),
            overwrite,
        };
        call!(self, request, Response::Done | Response::Flag { .. } => ())
    }

    /// Sets permission bits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_permission(&self, path: &str, permission: u16) -> Result<(), ClientError> {
        call!(self, Request::SetPermission { path: path.into(), permission }, Response::Done => ())
    }

    /// Sets owner and group; `None` leaves it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_owner(
        &self,
        path: &str,
        owner: Option<&str>,
        group: Option<&str>,
    ) -> Result<(), ClientError> {
        let request = Request::SetOwner {
            path: path.into(),
            owner: owner.unwrap_or_default().into(),
            group: group.unwrap_or_default().into(),
        };
        call!(self, request, Response::Done => ())
    }

    /// Sets times in ms since 1970; `None` leaves it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_times(
        &self,
        path: &str,
        modified_ms: Option<u64>,
        accessed_ms: Option<u64>,
    ) -> Result<(), ClientError> {
        let request = Request::SetTimes {
            path: path.into(),
            modified_ms: modified_ms.unwrap_or(u64::MAX),
            accessed_ms: accessed_ms.unwrap_or(u64::MAX),
        };
        call!(self, request, Response::Done => ())
    }

    /// Sets a file's replication; `false` for a directory.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_replication(&self, path: &str, replication: u16) -> Result<bool, ClientError> {
        let request = Request::SetReplication {
            path: path.into(),
            replication,
        };
        call!(self, request, Response::Flag { value } => value)
    }

    /// Starts lease recovery; `true` once the file is closed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn recover_lease(&self, path: &str) -> Result<bool, ClientError> {
        call!(self, Request::RecoverLease { path: path.into() }, Response::Flag { value } => value)
    }

    /// Files open for write below `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_open_files(&self, path: &str) -> Result<Vec<OpenFile>, ClientError> {
        self.open_files_by(|after| Request::ListOpenFiles {
            after,
            path: path.into(),
        })
        .await
    }

    /// Those of them with a block that holds a decommission up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_files_blocking_decommission(
        &self,
        path: &str,
    ) -> Result<Vec<OpenFile>, ClientError> {
        self.open_files_by(|after| Request::ListFilesBlockingDecommission {
            after,
            path: path.into(),
        })
        .await
    }

    async fn open_files_by(
        &self,
        page: impl Fn(InodeId) -> Request,
    ) -> Result<Vec<OpenFile>, ClientError> {
        let mut all: Vec<OpenFile> = Vec::new();
        loop {
            let after = all.last().map_or(InodeId(0), |file| file.inode);
            let (files, more) =
                call!(self, page(after), Response::OpenFiles { files, more } => (files, more))?;
            let done = !more || files.is_empty();
            all.extend(files);
            if done {
                return Ok(all);
            }
        }
    }

    /// Blocks of a range of a file with their locations.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn locations(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<LocatedBlocks, ClientError> {
        let request = Request::GetBlockLocations {
            path: path.into(),
            offset,
            length,
            reader_host: self.shared.options.host.clone(),
        };
        call!(self, request, Response::Locations { locations } => locations)
    }

    /// The whole cluster in numbers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fs_stats(&self) -> Result<FsStats, ClientError> {
        call!(self, Request::GetFsStats, Response::FsStats { stats } => stats)
    }

    /// State of the NameNode that answers, and the name of the active one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn service_state(&self) -> Result<(HaState, String), ClientError> {
        call!(self, Request::GetServiceState, Response::ServiceState { state, active } => (state, active))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(&self, path: &str) -> Result<DfsInputStream<S>, ClientError> {
        DfsInputStream::open(self.clone(), path).await
    }

    /// Creates a file and opens it for writing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create(
        &self,
        path: &str,
        options: &CreateOptions,
    ) -> Result<DfsOutputStream<S>, ClientError> {
        DfsOutputStream::create(self.clone(), path, options).await
    }

    /// Checksum of a closed file: CRC32C over its blocks' checksums, which are CRC32Cs over their chunks'. Equal
    /// for equal content written with equal block and chunk sizes (as HDFS's MD5-of-MD5).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_checksum(&self, path: &str) -> Result<String, ClientError> {
        let located = self.locations(path, 0, u64::MAX).await?;
        let mut crc = 0;
        let mut per_crc = 0;
        for block in &located.blocks {
            let mut reason = "no replica".to_owned();
            let mut found = None;
            for node in &block.locations {
                let Some(address) = node.address_for(block.block.id) else {
                    continue;
                };
                let expect = Expect::node(Role::Datanode, node.name.clone());
                let request = transfer::Request::GetBlockChecksum {
                    pool: located.pool.clone(),
                    block: block.block,
                    token: block.token.clone(),
                };
                let answer = match self.shared.peers.transfer(address, &expect).await {
                    Ok(client) => client
                        .call(&request)
                        .await
                        .map_err(|error| error.to_string()),
                    Err(attempt) => Err(attempt.to_string()),
                };
                match answer {
                    Ok(transfer::Response::Checksum {
                        crc,
                        bytes_per_checksum,
                        ..
                    }) => {
                        found = Some((crc, bytes_per_checksum));
                        break;
                    }
                    Ok(other) => reason = format!("{} from {}", other.name(), node.name),
                    Err(error) => reason = format!("{error} from {}", node.name),
                }
            }
            let Some((block_crc, bytes_per_checksum)) = found else {
                return Err(ClientError::BlockMissing {
                    block: block.block,
                    path: path.into(),
                    reason,
                });
            };
            crc = crc32c::crc32c_append(crc, &block_crc.to_le_bytes());
            per_crc = bytes_per_checksum;
        }
        Ok(format!(
            "CRC32C-of-{}x{per_crc}CRC32C\t{crc:08x}",
            located.blocks.len()
        ))
    }
}
