//! The operations that open, take over and close replicas: the operation x state matrix of behaviour 6.9.

use crate::body::Body;
use crate::map::Replica;
use crate::{RecoveryInfo, ReplicaStore, ReplicaWriter, StoreError};
use futures_util::lock::MutexGuard;
use hadal_env::Disk;
use hadal_types::{Block, BlockId, GenerationStamp, ReplicaState};
use std::rc::Rc;

type Held<'a, D> = MutexGuard<'a, Option<Box<Body<D>>>>;

/// The replica's stamp must lie between what the request names and the stamp it brings (E-17).
fn check_stamp<D: Disk>(
    replica: &Replica<D>,
    least: GenerationStamp,
    most: GenerationStamp,
) -> Result<(), StoreError> {
    let here = replica.stamp();
    if here < least {
        return Err(StoreError::StaleStamp {
            id: replica.id,
            here,
            wanted: least,
        });
    }
    if here > most {
        return Err(StoreError::StaleStamp {
            id: replica.id,
            here,
            wanted: most,
        });
    }
    Ok(())
}

fn check_length<D: Disk>(replica: &Replica<D>, wanted: u64) -> Result<(), StoreError> {
    let here = replica.meta.borrow().received;
    if here != wanted {
        return Err(StoreError::WrongLength {
            id: replica.id,
            here,
            wanted,
        });
    }
    Ok(())
}

/// Ends a writer whose disk failed it, mostly because it was full: its buffers go back. What is on disk is sound; the
/// rest is lost, and nobody was told of it.
pub(crate) async fn give_up<D: Disk>(replica: &Replica<D>, held: &mut Held<'_, D>) {
    if let Some(body) = held.as_mut() {
        // The writes that still run own buffers; how they end changes nothing.
        let _ = body.drain(replica).await;
    }
    **held = None;
    let mut meta = replica.meta.borrow_mut();
    meta.received = meta.on_disk;
    meta.acked = meta.acked.min(meta.on_disk);
}

impl<D: Disk> ReplicaStore<D> {
    async fn take<'a>(&self, replica: &'a Rc<Replica<D>>) -> Result<Held<'a, D>, StoreError> {
        let mut held = replica.body.lock().await;
        replica.here()?;
        if held.as_ref().is_some_and(|body| body.broken) {
            give_up(replica, &mut held).await;
            replica.volume.alive()?;
        }
        Ok(held)
    }

    /// Flushes an open replica while its writer goes on, so that what it acknowledged can be read: for a copy of it. Any
    /// other replica is left alone.
    pub async fn flush_open(&self, id: BlockId) -> Result<(), StoreError> {
        let replica = self.find(id)?;
        let mut held = self.take(&replica).await?;
        match held.as_mut() {
            Some(body) if replica.state() == ReplicaState::Rbw => body.flush(&replica).await,
            _ => Ok(()),
        }
    }

    fn writer(&self, replica: &Rc<Replica<D>>) -> ReplicaWriter<D> {
        let token = replica.take_over();
        ReplicaWriter::new(self.clone(), replica.clone(), token)
    }

    /// Takes an append from a FINALIZED replica of exactly this stamp and length: RBW with `new_stamp`, durable at
    /// return. `expected_length` is how long it may get; without that much room nothing changes (T-R2).
    pub async fn append(
        &self,
        block: Block,
        new_stamp: GenerationStamp,
        expected_length: u64,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        let replica = self.find(block.id)?;
        let mut held = self.take(&replica).await?;
        let state = replica.state();
        if state != ReplicaState::Finalized {
            return Err(StoreError::Unfinalized {
                id: block.id,
                state,
            });
        }
        self.reopen(&replica, &mut held, block, new_stamp, expected_length)
            .await
    }

    async fn reopen(
        &self,
        replica: &Rc<Replica<D>>,
        held: &mut Held<'_, D>,
        block: Block,
        new_stamp: GenerationStamp,
        expected_length: u64,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        if new_stamp <= block.generation_stamp {
            return Err(StoreError::StaleStamp {
                id: block.id,
                here: block.generation_stamp,
                wanted: new_stamp,
            });
        }
        check_stamp(replica, block.generation_stamp, block.generation_stamp)?;
        check_length(replica, block.length)?;
        let max = self.inner.options.block_bytes_max;
        if expected_length > max {
            return Err(StoreError::TooLong {
                id: block.id,
                length: expected_length,
                max,
            });
        }
        let more = expected_length.saturating_sub(block.length);
        replica.volume.refresh_space().await?;
        if replica.volume.remaining() < more {
            return Err(StoreError::OutOfSpace { wanted: more });
        }
        let mut body = Box::new(Body::load(replica, block.length).await?);
        body.restate(replica, new_stamp).await?;
        {
            let mut meta = replica.meta.borrow_mut();
            meta.acked = block.length;
            meta.reservation += more;
        }
        replica.volume.reserve(more);
        **held = Some(body);
        Ok(self.writer(replica))
    }

    /// The body of an open replica: the one in memory, or one loaded from disk.
    async fn open_body<'a>(
        &self,
        replica: &Replica<D>,
        held: &'a mut Held<'_, D>,
    ) -> Result<&'a mut Body<D>, StoreError> {
        if held.is_none() {
            let on_disk = replica.meta.borrow().on_disk;
            **held = Some(Box::new(Body::load(replica, on_disk).await?));
        }
        Ok(held.as_mut().expect("just put there"))
    }

    /// Makes an open replica exactly `length` bytes long.
    async fn cut<'a>(
        &self,
        replica: &Replica<D>,
        held: &'a mut Held<'_, D>,
        length: u64,
    ) -> Result<&'a mut Body<D>, StoreError> {
        let body = self.open_body(replica, held).await?;
        body.drain(replica).await?;
        if length < body.received() && !body.cut_in_memory(replica, length) {
            body.flush(replica).await?;
            **held = Some(Box::new(Body::load(replica, length).await?));
        }
        let mut meta = replica.meta.borrow_mut();
        meta.received = length;
        meta.durable = meta.durable.min(length);
        drop(meta);
        Ok(held.as_mut().expect("opened above"))
    }

    /// Pipeline recovery takes an RBW over from its writer: raises its stamp (durable at return) and cuts it to the
    /// bytes acknowledged downstream, of which there must be at least `min`; more than `max` received is refused.
    pub async fn recover_rbw(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        new_stamp: GenerationStamp,
        min: u64,
        max: u64,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        let replica = self.find(id)?;
        let mut held = self.take(&replica).await?;
        let state = replica.state();
        if state != ReplicaState::Rbw {
            return Err(StoreError::NotRbw { id, state });
        }
        check_stamp(&replica, stamp, new_stamp)?;
        let (acked, received) = {
            let meta = replica.meta.borrow();
            (meta.acked, meta.received)
        };
        if acked < min {
            return Err(StoreError::WrongLength {
                id,
                here: acked,
                wanted: min,
            });
        }
        if received > max {
            return Err(StoreError::WrongLength {
                id,
                here: received,
                wanted: max,
            });
        }
        let writer = self.writer(&replica);
        self.cut(&replica, &mut held, acked)
            .await?
            .restate(&replica, new_stamp)
            .await?;
        Ok(writer)
    }

    /// After a restart that was announced an RWR of this stamp that has at least `acked` bytes is the RBW it was before
    /// (HDFS's restart metadata), of which readers see `acked`; whether it could be.
    pub fn resume(&self, id: BlockId, stamp: GenerationStamp, acked: u64) -> bool {
        let Ok(replica) = self.find(id) else {
            return false;
        };
        let mut meta = replica.meta.borrow_mut();
        let fits = meta.state == ReplicaState::Rwr
            && meta.recovery.is_none()
            && meta.stamp == stamp
            && meta.received >= acked;
        if fits {
            meta.state = ReplicaState::Rbw;
            meta.acked = acked;
        }
        fits
    }

    fn check_recover(
        &self,
        replica: &Replica<D>,
        block: Block,
        new_stamp: GenerationStamp,
    ) -> Result<(), StoreError> {
        let state = replica.state();
        if !matches!(state, ReplicaState::Finalized | ReplicaState::Rbw) {
            return Err(StoreError::UnfinalizedNonRbw {
                id: block.id,
                state,
            });
        }
        check_stamp(replica, block.generation_stamp, new_stamp)?;
        check_length(replica, block.length)
    }

    /// An append whose first set-up may or may not have got here is set up again: from FINALIZED as
    /// [`ReplicaStore::append`], from RBW with a new stamp.
    pub async fn recover_append(
        &self,
        block: Block,
        new_stamp: GenerationStamp,
        expected_length: u64,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        let replica = self.find(block.id)?;
        let mut held = self.take(&replica).await?;
        self.check_recover(&replica, block, new_stamp)?;
        if replica.state() == ReplicaState::Finalized {
            let block = Block {
                generation_stamp: replica.stamp(),
                ..block
            };
            return self
                .reopen(&replica, &mut held, block, new_stamp, expected_length)
                .await;
        }
        let writer = self.writer(&replica);
        self.open_body(&replica, &mut held)
            .await?
            .restate(&replica, new_stamp)
            .await?;
        Ok(writer)
    }

    /// A close that failed half-way is done again: FINALIZED with `new_stamp`, durable at return.
    pub async fn recover_close(
        &self,
        block: Block,
        new_stamp: GenerationStamp,
    ) -> Result<Block, StoreError> {
        let replica = self.find(block.id)?;
        let mut held = self.take(&replica).await?;
        self.check_recover(&replica, block, new_stamp)?;
        replica.take_over();
        self.open_body(&replica, &mut held)
            .await?
            .finish(&replica, new_stamp, true)
            .await?;
        *held = None;
        Ok(replica.block())
    }

    /// A TEMPORARY copy that joins a pipeline becomes RBW with `visible` readable bytes, durable at return. Its
    /// writer is replaced by the one returned.
    pub async fn convert_temporary(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        visible: u64,
    ) -> Result<ReplicaWriter<D>, StoreError> {
        let replica = self.find(id)?;
        let mut held = self.take(&replica).await?;
        let state = replica.state();
        if state != ReplicaState::Temporary {
            return Err(StoreError::NotTemporary { id, state });
        }
        check_stamp(&replica, stamp, stamp)?;
        let received = replica.meta.borrow().received;
        if received < visible {
            return Err(StoreError::WrongLength {
                id,
                here: received,
                wanted: visible,
            });
        }
        let writer = self.writer(&replica);
        let body = self.open_body(&replica, &mut held).await?;
        body.drain(&replica).await?;
        {
            let mut meta = replica.meta.borrow_mut();
            meta.state = ReplicaState::Rbw;
            meta.acked = visible;
        }
        if body.file.is_some() {
            body.restate(&replica, stamp).await?;
        }
        body.sync(&replica).await?;
        Ok(writer)
    }

    /// Raises the stamp of a FINALIZED or RBW replica whose stamp is `stamp`, durable at return; the data stays. The
    /// writer of an RBW goes on.
    pub async fn bump_generation_stamp(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        new_stamp: GenerationStamp,
    ) -> Result<(), StoreError> {
        let replica = self.find(id)?;
        let mut held = self.take(&replica).await?;
        let state = replica.state();
        if !matches!(state, ReplicaState::Finalized | ReplicaState::Rbw) {
            return Err(StoreError::UnfinalizedNonRbw { id, state });
        }
        check_stamp(&replica, stamp, stamp)?;
        if new_stamp < stamp {
            return Err(StoreError::StaleStamp {
                id,
                here: stamp,
                wanted: new_stamp,
            });
        }
        let parked = held.is_none();
        let body = self.open_body(&replica, &mut held).await?;
        if state == ReplicaState::Finalized {
            body.finish(&replica, new_stamp, true).await?;
        } else {
            body.restate(&replica, new_stamp).await?;
        }
        if parked {
            *held = None;
        }
        Ok(())
    }

    /// Begins block recovery (E-18, E-19): stops a writer, flushes what it received, and puts the replica under
    /// recovery (RUR), keeping its original state (T-R5). One whose bytes do not match their checksums takes no part, or it
    /// would outweigh a good one in a lesser state (T-L21). A higher id pre-empts a running recovery. `None`: no such
    /// replica. Recovery ids are not kept over a restart; its primary then begins again.
    pub async fn init_recovery(
        &self,
        id: BlockId,
        stamp: GenerationStamp,
        recovery_id: GenerationStamp,
    ) -> Result<Option<RecoveryInfo>, StoreError> {
        let Ok(replica) = self.find(id) else {
            return Ok(None);
        };
        let mut held = match self.take(&replica).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let (state, running) = {
            let meta = replica.meta.borrow();
            (meta.state, meta.recovery)
        };
        if state == ReplicaState::Temporary {
            return Err(StoreError::NotRecoverable { id });
        }
        if let Some(running) = running.filter(|running| *running >= recovery_id) {
            return Err(StoreError::RecoveryInProgress {
                id,
                running,
                asked: recovery_id,
            });
        }
        let here = replica.stamp();
        if here < stamp {
            return Err(StoreError::StaleStamp {
                id,
                here,
                wanted: stamp,
            });
        }
        if here >= recovery_id {
            return Err(StoreError::StaleStamp {
                id,
                here,
                wanted: recovery_id,
            });
        }
        replica.take_over();
        if let Some(body) = held.as_mut()
            && let Err(error) = body.flush(&replica).await
        {
            // Without room for all of it, what is on disk takes part.
            let _ = body.drain(&replica).await;
            replica.volume.alive()?;
            if !matches!(error, StoreError::OutOfSpace { .. }) {
                return Err(error);
            }
        }
        *held = None;
        let block = {
            let mut meta = replica.meta.borrow_mut();
            meta.recovery = Some(recovery_id);
            meta.received = meta.on_disk;
            Block {
                id,
                generation_stamp: meta.stamp,
                length: meta.on_disk,
            }
        };
        drop(held);
        self.check_frozen(replica).await?;
        Ok(Some(RecoveryInfo {
            block,
            original_state: state,
        }))
    }

    /// Ends block recovery `recovery_id`: FINALIZED with the recovery id as stamp and cut to `new_length`, durable at
    /// return. `old_length` must be what the replica said at the start (T-R7).
    pub async fn update_recovered(
        &self,
        id: BlockId,
        recovery_id: GenerationStamp,
        old_length: u64,
        new_length: u64,
    ) -> Result<Block, StoreError> {
        let replica = self.find(id)?;
        let mut held = self.take(&replica).await?;
        let (state, on_disk, running) = {
            let meta = replica.meta.borrow();
            (meta.state, meta.on_disk, meta.recovery)
        };
        let running = running.ok_or(StoreError::NotUnderRecovery { id, state })?;
        if running != recovery_id {
            return Err(StoreError::WrongRecovery {
                id,
                running,
                asked: recovery_id,
            });
        }
        if on_disk != old_length {
            return Err(StoreError::WrongLength {
                id,
                here: on_disk,
                wanted: old_length,
            });
        }
        if new_length > on_disk {
            return Err(StoreError::WrongLength {
                id,
                here: on_disk,
                wanted: new_length,
            });
        }
        let mut body = Box::new(Body::load(&replica, new_length).await?);
        {
            let mut meta = replica.meta.borrow_mut();
            meta.durable = meta.durable.min(new_length);
        }
        body.finish(&replica, recovery_id, true).await?;
        *held = None;
        Ok(replica.block())
    }

    /// Bytes a reader may see now (F-08): of an RBW those on disk and acknowledged downstream. A replica with a stamp
    /// below `stamp` missed a pipeline recovery and is not asked (E-17).
    pub fn visible_length(&self, id: BlockId, stamp: GenerationStamp) -> Result<u64, StoreError> {
        let replica = self.find(id)?;
        check_stamp(&replica, stamp, GenerationStamp(u64::MAX))?;
        let state = replica.meta.borrow().state;
        if matches!(state, ReplicaState::Temporary | ReplicaState::Rwr) {
            return Err(StoreError::NotReadable {
                id,
                state: replica.state(),
            });
        }
        Ok(replica.visible())
    }
}
