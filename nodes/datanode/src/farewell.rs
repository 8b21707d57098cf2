//! Writers that must go on without this DataNode: for a while, while it restarts, or for good (E-21, T-P5..T-P7;
//! HDFS's out-of-band acknowledgements, `evictWriters` and restart metadata).

use crate::node::Node;
use hadal_daemon::Notify;
use hadal_env::{Disk, Env};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use store_record::{Contents, Record, RecordError, peek};
use store_replica::ReplicaStore;

/// Writers have so long to be told before the process ends (HDFS `dfs.datanode.oob.timeout-ms`).
const WRITERS_MS: u64 = 1_500;
/// How often it is looked whether they have been.
const LOOK_MS: u64 = 20;
/// What was said has so long to leave this machine.
const LAST_WORDS_MS: u64 = 300;
/// Open replicas remembered per data directory: as many as a record holds. Others are RWR after the restart.
const REMEMBERED_MAX: usize = 160;
/// Bytes of one of them.
const ENTRY_LEN: usize = 24;
/// The record in each data directory.
const RECORD: &str = "restarting";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    Restart,
    Shutdown,
}

/// Whether this DataNode is leaving, and who must hear of it.
pub(crate) struct Farewell {
    leaving: Cell<Leaving>,
    said: Notify,
    writers: Cell<u32>,
}

impl Farewell {
    pub(crate) fn new() -> Self {
        Self {
            leaving: Cell::new(Leaving::No),
            said: Notify::new(),
            writers: Cell::new(0),
        }
    }

    /// A mark of this moment, for [`Self::said`].
    pub(crate) fn mark(&self) -> u64 {
        self.said.mark()
    }

    /// Resolves once writers that began before `mark` must go.
    pub(crate) async fn said(&self, mark: u64) {
        self.said.changed(mark).await;
    }

    /// Everybody who writes through this node now has to go on without it.
    pub(crate) fn evict(&self) {
        self.said.notify();
    }

    /// What a writer is told.
    pub(crate) fn fault(&self, name: &str) -> Fault {
        match self.leaving.get() {
            Leaving::No => Fault::new(FaultClass::Retry, format!("{name} evicts its writers")),
            Leaving::Restart => Fault::new(
                FaultClass::Restarting,
                format!("{name} restarts and will be back soon"),
            ),
            Leaving::Shutdown => Fault::new(FaultClass::Retry, format!("{name} shuts down")),
        }
    }

    /// Whether nobody may begin anything here.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get() != Leaving::No
    }
}

/// Counts one writer for as long as it lives, which is until it has heard the last word.
pub(crate) struct WriterCount<E: Env>(Rc<Node<E>>);

impl<E: Env> Drop for WriterCount<E> {
    fn drop(&mut self) {
        let writers = &self.0.farewell.writers;
        writers.set(writers.get() - 1);
    }
}

/// What was open when a process ended that was to come back: `expires` in ms since 1970, then 24 bytes each, all
/// little-endian: block id u64, generation stamp u64, bytes acknowledged u64.
fn encode(expires_ms: u64, open: &[Block]) -> Vec<u8> {
    let mut payload = expires_ms.to_le_bytes().to_vec();
    for block in open {
        for word in [block.id.0, block.generation_stamp.0, block.length] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
    }
    payload
}

/// `None`: nothing is remembered, or it makes no sense.
fn decode(payload: &[u8]) -> Option<(u64, Vec<Block>)> {
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
    let (expires, open) = payload.split_at_checked(8)?;
    let open = open.chunks(ENTRY_LEN).map(|entry| {
        Some(Block {
            id: BlockId(word(entry.get(..8)?)?),
            generation_stamp: GenerationStamp(word(entry.get(8..16)?)?),
            length: word(entry.get(16..24)?)?,
        })
    });
    Some((word(expires)?, open.collect::<Option<_>>()?))
}

async fn remember<D: Disk>(disk: &D, dir: &Path, payload: &[u8]) -> Result<(), RecordError> {
    let path = dir.join(RECORD);
    let (mut record, contents) = Record::open(disk, &path).await?;
    if contents == Contents::Unreadable {
        record = Record::recreate(disk, &path).await?;
    }
    record.store(payload).await
}

/// Takes what is remembered, once.
async fn recall<D: Disk>(disk: &D, dir: &Path) -> Result<Option<(u64, Vec<Block>)>, RecordError> {
    let Contents::Present { payload, .. } = peek(disk, &dir.join(RECORD)).await? else {
        return Ok(None);
    };
    let Some(found) = decode(&payload) else {
        return Ok(None);
    };
    remember(disk, dir, &[]).await?;
    Ok(Some(found))
}

impl<E: Env> Node<E> {
    pub(crate) fn count_writer(self: &Rc<Self>) -> WriterCount<E> {
        let writers = &self.farewell.writers;
        writers.set(writers.get() + 1);
        WriterCount(Rc::clone(self))
    }

    /// `dfsadmin -shutdownDatanode`: tells the writers, then ends the process with exit code 0.
    pub(crate) fn shut_down(self: &Rc<Self>, for_upgrade: bool) -> Result<(), Fault> {
        if self.farewell.is_leaving() {
            let message = format!("{} is shutting down already", self.config.name);
            return Err(Fault::new(FaultClass::InvalidArgument, message));
        }
        let leaving = if for_upgrade {
            Leaving::Restart
        } else {
            Leaving::Shutdown
        };
        self.farewell.leaving.set(leaving);
        self.farewell.said.notify();
        self.env
            .spawn("datanode farewell", leave(Rc::clone(self), for_upgrade));
        Ok(())
    }

    /// What was open when the process before this one announced its restart goes on as it was, if that was not long ago.
    pub(crate) async fn resume_open(&self, store: &ReplicaStore<E::Disk>) {
        for dir in self.dirs() {
            let (expires_ms, open) = match recall(self.env.disk(), dir).await {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!("what was open in {} is not known: {error}", dir.display());
                    continue;
                }
            };
            if self.env.wall_ms() >= expires_ms {
                tracing::info!("the restart took too long for what was open to go on");
                continue;
            }
            for block in open {
                if !store.resume(block.id, block.generation_stamp, block.length) {
                    tracing::info!("{block} does not go on: its replica is another by now");
                }
            }
        }
    }
}

async fn leave<E: Env>(node: Rc<Node<E>>, for_upgrade: bool) {
    let over = node.env.now().after_ms(WRITERS_MS);
    while node.farewell.writers.get() > 0 && node.env.now() < over {
        let next = node.env.now().after_ms(LOOK_MS);
        node.env.sleep_until(next).await;
    }
    if for_upgrade && let Ok(store) = node.store() {
        let expires_ms = node.env.wall_ms() + node.config.restart_replica_expiration_ms;
        for volume in store.volumes() {
            let open = store.open_replicas(volume.storage).into_iter();
            let open: Vec<Block> = open
                .filter(|replica| replica.state == ReplicaState::Rbw)
                .map(|replica| Block {
                    length: replica.bytes_acked,
                    ..replica.block
                })
                .take(REMEMBERED_MAX)
                .collect();
            // The volume is the directory's `current`.
            let Some(dir) = volume.dir.parent().filter(|_| !open.is_empty()) else {
                continue;
            };
            let payload = encode(expires_ms, &open);
            if let Err(error) = remember(node.env.disk(), dir, &payload).await {
                tracing::warn!("what is open in {} is forgotten: {error}", dir.display());
            }
        }
    }
    let said = node.env.now().after_ms(LAST_WORDS_MS);
    node.env.sleep_until(said).await;
    let reason = if for_upgrade {
        "shut down for an upgrade"
    } else {
        "shut down"
    };
    node.env.stop(0, reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_open_survives_its_bytes() {
        let block = |id| Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(id + 1),
            length: id * 7,
        };
        let open: Vec<Block> = (0..REMEMBERED_MAX as u64).map(block).collect();
        let payload = encode(12_345, &open);
        assert!(payload.len() <= store_record::PAYLOAD_MAX);
        assert_eq!(decode(&payload), Some((12_345, open)));
        assert_eq!(decode(&payload[..payload.len() - 1]), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&encode(9, &[])), Some((9, Vec::new())));
    }
}
