//! The writer's side of the shared directory: a JournalNode's mind over a directory that nobody else may write.

use super::{NAME, disk_fault, fault, mark_path, record};
use bytes::Bytes;
use hadal_env::{Disk, DiskError, Env};
use hadal_journalnode::{Directory, loaded, log_digest, open_directory, store_record};
use hadal_proto::frame::Ack;
use hadal_proto::qjournal::{BatchHead, CommitMark, Request, Response};
use hadal_proto::{Fault, FaultClass, encode};
use hadal_qjournal::acceptor::{
    Acceptor, AcceptorConfig, Loaded, Output, StoreOp, StreamKey, Ticket,
};
use hadal_types::{Principal, Tick, TxId};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use store_journal::{End, Journal};
use store_record::Record;

/// Room for records a new segment starts with.
const SEGMENT_BYTES: u64 = 1 << 20;
/// While edits are written others learn this often how far they may read; at once when there is a pause.
const PUBLISH_MS: u64 = 50;
/// A fencing command may be done before the kernel has taken the locks of the process it killed: they are waited for.
const LOCK_WAIT_MS: u64 = 3_000;
/// Between two tries.
const LOCK_RETRY_MS: u64 = 50;

/// The directory, open for writing.
pub(super) struct Writing<E: Env> {
    env: E,
    dir: PathBuf,
    acceptor: RefCell<Acceptor>,
    directory: Directory<E::Disk>,
    committed: RefCell<Option<Record<E::Disk>>>,
    /// Why nothing is written any more.
    failed: RefCell<Option<String>>,
    /// The mark others know, and since when.
    published: Cell<(TxId, Tick)>,
    _lock: <E::Disk as Disk>::Lock,
}

/// Takes the lock. One that another process holds, and goes on holding, is an error.
async fn lock<E: Env>(env: &E, path: &Path) -> Result<<E::Disk as Disk>::Lock, DiskError> {
    let deadline = env.now().after_ms(LOCK_WAIT_MS);
    loop {
        match env.disk().lock(path).await {
            Err(error) if error.is_locked() && env.now() < deadline => {
                env.sleep_until(env.now().after_ms(LOCK_RETRY_MS)).await;
            }
            outcome => return outcome,
        }
    }
}

/// What came out of a turn.
#[derive(Default)]
struct Drained {
    replies: Vec<(Ticket, Result<Response, Fault>)>,
    acks: Vec<Ack>,
}

impl<E: Env> Writing<E> {
    /// Locks and opens the directory, created when missing. Whoever does that has seen to it that no other NameNode
    /// writes there.
    pub(super) async fn open(env: &E, dir: &Path) -> Result<Self, Fault> {
        let disk = env.disk();
        let failed = |error: hadal_env::DiskError| disk_fault(&error);
        disk.create_dir_all(dir).await.map_err(failed)?;
        let lock = lock(env, &dir.join("in_use.lock")).await.map_err(|error| {
            if !error.is_locked() {
                return disk_fault(&error);
            }
            let message = format!(
                "{} is locked by another NameNode: make that one standby, or fence it",
                dir.display()
            );
            Fault::new(FaultClass::Forbidden, message)
        })?;
        let refused =
            |error: hadal_journalnode::RunError| Fault::new(FaultClass::Corrupt, error.to_string());
        let mut opened = open_directory(disk, dir, SEGMENT_BYTES)
            .await
            .map_err(refused)?;
        let known = super::mark(disk, dir).await?;
        if let Some(journal) = opened.directory.journal() {
            journal.note_committed(known.txid);
            decide_tails(&journal, &mut opened.loaded).await?;
        }
        let path = mark_path(dir);
        let (mut committed, contents) = Record::open(disk, &path)
            .await
            .map_err(|error| disk_fault(&error))?;
        if contents == store_record::Contents::Unreadable {
            // It says less than the segments do; the next one is written soon.
            committed = Record::recreate(disk, &path)
                .await
                .map_err(|error| disk_fault(&error))?;
        }
        let config = AcceptorConfig::new(NAME.into(), Vec::new(), log_digest, env.random_u64());
        let acceptor = Acceptor::new(config, opened.loaded, env.now());
        let writing = Self {
            env: env.clone(),
            dir: dir.to_owned(),
            acceptor: RefCell::new(acceptor),
            directory: opened.directory,
            committed: RefCell::new(Some(committed)),
            failed: RefCell::new(None),
            published: Cell::new((known.txid, env.now())),
            _lock: lock,
        };
        // A new life is counted.
        writing.drain().await?;
        Ok(writing)
    }

    /// The epoch of the directory is still this writer's. Looked at before each write: what another NameNode claimed
    /// meanwhile is not written over.
    pub(super) async fn check_epoch(&self) -> Result<(), Fault> {
        let own = self.acceptor.borrow().state();
        let there = record(self.env.disk(), &self.dir)
            .await?
            .unwrap_or_default();
        if (there.uuid, there.promised) == (own.incarnation.uuid, own.promised) {
            return Ok(());
        }
        let message = format!(
            "{} is of epoch {} now, this NameNode writes in epoch {}",
            self.dir.display(),
            there.promised,
            own.promised
        );
        Err(Fault::new(FaultClass::Fenced, message).with_value(there.promised.0))
    }

    /// Carries out a call of the journal writer.
    pub(super) async fn call(&self, from: &Principal, request: Request) -> Result<Response, Fault> {
        let now = self.env.now();
        let ticket = self.acceptor.borrow_mut().handle_call(now, from, request);
        let drained = self.drain().await?;
        self.publish(true).await?;
        let mut replies = drained.replies.into_iter();
        let reply = replies.find_map(|(of, reply)| (of == ticket).then_some(reply));
        reply.unwrap_or_else(|| {
            let message = format!("{} gave no answer", self.dir.display());
            Err(Fault::new(FaultClass::Internal, message))
        })
    }

    /// Takes a batch.
    pub(super) async fn append(
        &self,
        sequence: u64,
        head: &BatchHead,
        records: Bytes,
    ) -> Result<Vec<Ack>, Fault> {
        let now = self.env.now();
        self.acceptor
            .borrow_mut()
            .handle_batch(now, StreamKey(0), sequence, head, records);
        let drained = self.drain().await?;
        self.publish(head.count == 0).await?;
        Ok(drained.acks)
    }

    /// A new journal has no marks of the old one.
    pub(super) async fn forget_mark(&self) -> Result<(), Fault> {
        let path = mark_path(&self.dir);
        let fresh = Record::recreate(self.env.disk(), &path).await;
        *self.committed.borrow_mut() = Some(fresh.map_err(|error| disk_fault(&error))?);
        Ok(())
    }

    /// Does what the core asks for until it is quiet.
    async fn drain(&self) -> Result<Drained, Fault> {
        let mut drained = Drained::default();
        loop {
            if let Some(reason) = &*self.failed.borrow() {
                let message = format!("{}: {reason}", self.dir.display());
                return Err(Fault::new(FaultClass::DiskFailed, message));
            }
            let output = self.acceptor.borrow_mut().poll_output();
            let Some(output) = output else {
                return Ok(drained);
            };
            match output {
                Output::Store { write, op } => {
                    let leaves = matches!(op, StoreOp::Finalize { .. } | StoreOp::Purge { .. });
                    let mut outcome = self.directory.perform(op).await;
                    if leaves && outcome.is_ok() {
                        outcome = self.directory.sweep().await;
                    }
                    let now = self.env.now();
                    let mut acceptor = self.acceptor.borrow_mut();
                    acceptor.handle_stored(now, write, outcome);
                }
                Output::Reply { ticket, outcome } => drained.replies.push((ticket, outcome)),
                Output::Ack { ack, .. } => drained.acks.push(ack),
                Output::Read {
                    ticket,
                    from,
                    upto,
                    max_bytes,
                    committed,
                    ..
                } => {
                    let read = self.read(from, upto, max_bytes, committed).await;
                    drained.replies.push((ticket, read));
                }
                // Whether it is durable is not known: this writer is done for (a failed fsync is final). The core says so
                // once and is silent from then on; everybody who asks is told.
                Output::Stop { reason } => *self.failed.borrow_mut() = Some(reason),
                Output::Fetch { .. } | Output::Ask { .. } | Output::Exchange { .. } => {
                    unreachable!("a quorum of one has no peers")
                }
            }
        }
    }

    async fn read(
        &self,
        from: TxId,
        upto: TxId,
        max_bytes: u32,
        committed: CommitMark,
    ) -> Result<Response, Fault> {
        let read = self.directory.read(from, upto, max_bytes, committed).await;
        let read = read.map_err(|error| fault(&error))?;
        let (_, edits) = read.ok_or_else(|| {
            let message = format!("txid {from} is not in {}", self.dir.display());
            Fault::new(FaultClass::NotFound, message)
        })?;
        Ok(Response::Edits { edits })
    }

    /// Lets the others read what is committed.
    async fn publish(&self, at_once: bool) -> Result<(), Fault> {
        let mark = self.acceptor.borrow().state().committed;
        let ((txid, at), now) = (self.published.get(), self.env.now());
        if mark.txid <= txid || (!at_once && now < at.after_ms(PUBLISH_MS)) {
            return Ok(());
        }
        let stored = store_record(&self.committed, &encode(&mark)).await;
        stored.map_err(|reason| Fault::new(FaultClass::DiskFailed, reason))?;
        self.published.set((mark.txid, now));
        Ok(())
    }
}

/// There is one copy, so what cannot be read of a tail is decided here and not by a vote: above the commit mark it is
/// dropped, as where all JournalNodes answered and none can read it (protocols.md section 1); at or below, edits are lost
/// and nobody starts from what is left unasked.
async fn decide_tails<D: Disk>(journal: &Journal<D>, found: &mut Loaded) -> Result<(), Fault> {
    for segment in &mut found.segments {
        let first = segment.state.first;
        let info = journal.scan(first).await.map_err(|error| fault(&error))?;
        let info = match info.end {
            Some(End::Doubtful(from)) if !info.finalised && info.digest_before.is_some() => {
                tracing::error!(
                    "segment {first} cannot be read from txid {from} on, behind what is known to be committed: it is cut there"
                );
                let cut = journal.cut(first, TxId(from.0 - 1)).await;
                cut.map_err(|error| fault(&error))?
            }
            Some(End::Doubtful(from) | End::Damaged(from)) => {
                let message = format!(
                    "segment {first} is damaged from txid {from} on, which is committed: restore the file from a copy of the directory"
                );
                return Err(Fault::new(FaultClass::Corrupt, message));
            }
            _ => info,
        };
        *segment = loaded(&info);
    }
    Ok(())
}
