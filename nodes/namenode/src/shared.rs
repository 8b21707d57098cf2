//! The shared-directory journal (seeds B and D; D-02, D-03; protocols.md section 1): one directory that all NameNodes see,
//! laid out like a JournalNode's. The active NameNode serves it to itself as a quorum of one; the others only read.
//!
//! What keeps a deposed writer out is the fencing method that `haadmin -failover` runs before it promotes. Beyond that,
//! an epoch in the directory is looked at before every batch, so that one that wakes late steps down by itself, and
//! `in_use.lock` keeps two on one host apart; neither is enough on a network file system.
//!
//! | name | holds |
//! |---|---|
//! | `in_use.lock` | locked by the writer |
//! | `promises` | a [`store_record::Record`] with the [`hadal_qjournal::acceptor::AcceptorRecord`]: identity and epoch |
//! | `committed` | a [`store_record::Record`] with the encoded [`CommitMark`] up to which others may read |
//! | `edits/` | the segments, see [`store_journal`] |

#[cfg(test)]
mod tests;
mod writing;

use crate::config::NamenodeConfig;
use futures_util::lock::Mutex;
use hadal_env::{Disk, Env};
use hadal_journalnode::{edits, edits_dir, journal_fault, promises, promises_path};
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{
    AWAIT_CAP_MS, BatchHead, Call, CommitMark, Edits, JournalState, LogDigest, Request, Response,
    Standing,
};
use hadal_proto::{Fault, FaultClass, decode};
use hadal_qjournal::acceptor::AcceptorRecord;
use hadal_types::{NamespaceInfo, Principal, Role, TxId};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use store_journal::{Follower, JournalError};
use store_record::{Contents, peek};
use writing::Writing;

/// What the directory is called where a JournalNode's id is asked for.
pub(crate) const NAME: &str = "shared-edits";
/// Between two looks of a standby for edits.
const LOOK_MS: u64 = 20;

/// A NameNode's view of the directory.
pub(crate) struct SharedDirectory<E: Env> {
    env: E,
    dir: PathBuf,
    principal: Principal,
    namespace_id: u64,
    /// While this NameNode is, or becomes, the writer.
    writing: RefCell<Option<Rc<Writing<E>>>>,
    /// One thing at a time is written.
    turn: Mutex<()>,
    follower: RefCell<Option<Follower<E::Disk>>>,
    /// Why the directory could not be read lately.
    trouble: RefCell<Option<String>>,
}

impl<E: Env> SharedDirectory<E> {
    /// `None` when the journal is a quorum of JournalNodes.
    pub(crate) fn of(env: &E, config: &NamenodeConfig) -> Option<Self> {
        let dir = config.shared_edits_dir.clone()?;
        let namespace_id = config.namesystem.info.namespace_id;
        Some(Self::new(env.clone(), dir, &config.name, namespace_id))
    }

    fn new(env: E, dir: PathBuf, name: &str, namespace_id: u64) -> Self {
        Self {
            env,
            dir,
            principal: Principal {
                role: Role::Namenode,
                name: name.to_owned(),
            },
            namespace_id,
            writing: RefCell::new(None),
            turn: Mutex::new(()),
            follower: RefCell::new(None),
            trouble: RefCell::new(None),
        }
    }

    /// Why a standby cannot read the directory at the moment.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Gives up writing: the lock goes.
    pub(crate) fn close(&self) {
        self.writing.borrow_mut().take();
    }

    /// Carries out one call of the writer or the tail.
    pub(crate) async fn call(&self, request: &Request) -> Result<Response, Fault> {
        match request.call {
            Call::GetState => {
                let state = self.state().await?;
                Ok(Response::State { state })
            }
            Call::AwaitCommitted { after, wait_ms, .. } => {
                let edits = self.await_committed(after, wait_ms).await?;
                Ok(Response::Edits { edits })
            }
            Call::NewEpoch { .. } => {
                let _turn = self.turn.lock().await;
                self.close();
                let writing = Rc::new(Writing::open(&self.env, &self.dir).await?);
                *self.writing.borrow_mut() = Some(Rc::clone(&writing));
                writing.call(&self.principal, request.clone()).await
            }
            _ => {
                let _turn = self.turn.lock().await;
                let writing = self.writer()?;
                writing.check_epoch().await?;
                writing.call(&self.principal, request.clone()).await
            }
        }
    }

    /// Takes one batch, or a mere commit mark; what there is to acknowledge.
    pub(crate) async fn append(
        &self,
        sequence: u64,
        head: &BatchHead,
        records: bytes::Bytes,
    ) -> Vec<Ack> {
        let _turn = self.turn.lock().await;
        let outcome = async {
            let writing = self.writer()?;
            writing.check_epoch().await?;
            writing.append(sequence, head, records).await
        };
        outcome.await.unwrap_or_else(|fault| {
            vec![Ack {
                sequence,
                offset: 0,
                fault: Some(fault),
                bad_node: 0,
                slow_nodes: 0,
            }]
        })
    }

    fn writer(&self) -> Result<Rc<Writing<E>>, Fault> {
        let writing = self.writing.borrow().clone();
        writing.ok_or_else(|| {
            let message = format!("{} is not open for writing", self.dir.display());
            Fault::new(FaultClass::OutOfSync, message)
        })
    }

    /// Identity and epoch, as whoever claims wants them.
    async fn state(&self) -> Result<JournalState, Fault> {
        let record = record(self.env.disk(), &self.dir)
            .await?
            .unwrap_or_default();
        let committed = mark(self.env.disk(), &self.dir).await?;
        let standing = match record.info {
            Some(_) => Standing::Voter,
            None => Standing::Unformatted,
        };
        Ok(JournalState {
            name: NAME.into(),
            standing,
            promised: record.promised,
            writer: record.writer,
            committed,
            last: committed.txid,
            incarnation: record.incarnation(),
            info: record.info,
        })
    }

    /// Committed edits behind `after`, as soon as there are any, an empty run after the wait.
    async fn await_committed(&self, after: TxId, wait_ms: u32) -> Result<Edits, Fault> {
        let wait_ms = u64::from(wait_ms.min(AWAIT_CAP_MS));
        let until = self.env.now().after_ms(wait_ms);
        loop {
            let read = self.committed_behind(after).await;
            *self.trouble.borrow_mut() = read
                .as_ref()
                .err()
                .map(|fault| format!("{} cannot be read: {}", self.dir.display(), fault.message));
            let (edits, committed) = read?;
            if let Some(edits) = edits {
                return Ok(edits);
            }
            let now = self.env.now();
            if now >= until {
                return Ok(Edits {
                    first: after.next(),
                    count: 0,
                    records: bytes::Bytes::new(),
                    digest_before: LogDigest::default(),
                    digest_end: LogDigest::default(),
                    committed,
                });
            }
            self.env.sleep_until(now.after_ms(LOOK_MS).min(until)).await;
        }
    }

    async fn committed_behind(&self, after: TxId) -> Result<(Option<Edits>, CommitMark), Fault> {
        let committed = mark(self.env.disk(), &self.dir).await?;
        if committed.txid <= after {
            return Ok((None, committed));
        }
        let follower = self.follower.borrow_mut().take();
        let mut follower = follower.unwrap_or_else(|| {
            Follower::new(
                self.env.disk().clone(),
                edits_dir(&self.dir),
                self.namespace_id,
            )
        });
        let batch = follower
            .read(after.next(), committed.txid)
            .await
            .map_err(|error| fault(&error))?;
        *self.follower.borrow_mut() = Some(follower);
        let edits = batch.map(|batch| edits(&batch, committed));
        Ok((edits, committed))
    }
}

/// Makes the directory the empty journal of a namespace.
///
/// # Errors
/// The directory holds another journal and `force` is off, is in use, or cannot be used.
pub(crate) async fn format<E: Env>(
    env: &E,
    dir: &Path,
    info: &NamespaceInfo,
    name: &str,
    force: bool,
) -> Result<(), Fault> {
    let writing = Writing::open(env, dir).await?;
    let principal = Principal {
        role: Role::Namenode,
        name: name.to_owned(),
    };
    let call = Call::Format {
        info: info.clone(),
        initial: true,
        force,
    };
    let request = Request {
        namespace_id: info.namespace_id,
        call,
    };
    writing.call(&principal, request).await?;
    writing.forget_mark().await
}

/// The runs of txids the directory holds, first and last, for who wants to know whether it can start from them.
pub(crate) async fn runs<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<(TxId, TxId)>, Fault> {
    let committed = mark(disk, dir).await?.txid;
    let listed = store_journal::list(disk, &edits_dir(dir)).await;
    let listed = listed.map_err(|error| disk_fault(&error))?;
    let run = |listed: store_journal::Listed| (listed.first, listed.last.unwrap_or(committed));
    Ok(listed.into_iter().map(run).collect())
}

/// The promises, read while another NameNode may write.
async fn record<D: Disk>(disk: &D, dir: &Path) -> Result<Option<AcceptorRecord>, Fault> {
    let contents = peek(disk, &promises_path(dir)).await;
    let contents = contents.map_err(|error| disk_fault(&error))?;
    promises(dir, contents).map_err(|error| Fault::new(FaultClass::Corrupt, error.to_string()))
}

fn mark_path(dir: &Path) -> PathBuf {
    dir.join("committed")
}

/// Up to where the log is known to be committed.
async fn mark<D: Disk>(disk: &D, dir: &Path) -> Result<CommitMark, Fault> {
    let contents = peek(disk, &mark_path(dir)).await;
    Ok(match contents.map_err(|error| disk_fault(&error))? {
        Contents::Present { payload, .. } => decode(bytes::Bytes::from(payload))
            .map_err(|error| Fault::new(FaultClass::Corrupt, error.to_string()))?,
        // Lower than it could be is harmless.
        Contents::Empty | Contents::Unreadable => CommitMark::default(),
    })
}

/// What concerns the file system may pass.
fn disk_fault(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultClass::Retry, error.to_string())
}

fn fault(error: &JournalError) -> Fault {
    match error {
        JournalError::Disk(error) => disk_fault(error),
        other => journal_fault(other),
    }
}
