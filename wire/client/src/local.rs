//! Short-circuit reads: finished replicas of DataNodes on this host are read from their files.
//!
//! Whatever goes wrong on this way, checksums that do not match included, is no verdict on a replica: the same bytes
//! are then asked for over the network, of the same DataNode first, and what comes from there counts (protocols.md
//! section 5).
//!
//! What no reader on this host opened lately is read past the page cache, at the device's speed; the rest through it
//! ([`LocalPace`], [`LocalReplica::cached`]).

use crate::dfs::Shared;
use crate::error::Attempt;
use crate::timeout::until;
use bytes::Bytes;
use hadal_datastream::LocalPace;
use hadal_env::{Expect, LocalFile, Reading, Seam};
use hadal_proto::FaultClass;
use hadal_proto::client::{LocatedBlock, ReplicaTarget};
use hadal_proto::transfer::{LocalReplica, Request, Response};
use hadal_types::{BlockId, BlockPoolId, DatanodeUuid, Role, Tick, chunk_salt};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Shorter reads are not worth two more round trips; small replicas have no file of their own anyway.
const WORTH_BYTES: u64 = 1 << 20;
/// A DataNode that hands out no files is not asked again for this long.
const REFUSED_MS: u64 = 600_000;
/// DataNodes remembered; the oldest knowledge goes when there are more.
const REFUSED_MAX: usize = 1_024;
/// Bytes of a tail record before its data, and before its checksums.
const TAIL_PAGE: usize = 4096;
const TAIL_CHECKSUMS: usize = 64;
/// The most a group's data or head, or a tail, may take: what is held at once is bounded by it.
const PART_MAX: u64 = 16 << 20;

/// DataNodes on this host that hand out no files, and until when they are left alone.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<SocketAddr, Tick>>);

impl Refusals {
    fn stand(&self, now: Tick, address: SocketAddr) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&address).is_some_and(|until| now < *until)
    }

    fn add(&self, now: Tick, address: SocketAddr) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= REFUSED_MAX {
            refused.retain(|_, until| now < *until);
        }
        if refused.len() < REFUSED_MAX {
            refused.insert(address, now.after_ms(REFUSED_MS));
        }
    }
}

/// What one input stream knows of local files.
#[derive(Default)]
pub(crate) struct LocalReads {
    open: Option<Replica>,
    /// A block that is read over the network, as the short way failed.
    failed: Option<BlockId>,
    /// Whose file it was: to be asked first.
    doubted: Option<DatanodeUuid>,
    /// Bytes read this way.
    pub(crate) bytes: u64,
}

impl LocalReads {
    /// Which of the block's locations gave a file that could not be read. Says it once.
    pub(crate) fn doubted(&mut self, block: &LocatedBlock) -> Option<usize> {
        let doubted = self.doubted.take()?;
        let mut nodes = block.locations.iter();
        nodes.position(|node| node.datanode == doubted)
    }

    /// The bytes at `position` of the file, up to the end of a part, and the chunk size; `None` when they must come over
    /// the network.
    pub(crate) async fn read<S: Seam>(
        &mut self,
        shared: &Shared<S>,
        pool: &BlockPoolId,
        block: &LocatedBlock,
        position: u64,
    ) -> Option<(Bytes, u32)> {
        let id = block.block.id;
        if !shared.options.local_reads || block.under_construction || self.failed == Some(id) {
            return None;
        }
        let at = position - block.offset;
        if self.open.as_ref().is_none_or(|open| !open.is_of(block)) {
            self.open = None;
            if block.block.length - at < WORTH_BYTES {
                return None;
            }
            self.open = open(shared, pool, block).await;
        }
        let Some(replica) = self.open.as_mut() else {
            self.failed = Some(id);
            return None;
        };
        let deadline = shared.seam.now().after_ms(shared.options.stream_timeout_ms);
        let read = until(&shared.seam, deadline, replica.read(at)).await;
        match read.unwrap_or_else(|| Err("no data in time".into())) {
            Ok(bytes) => {
                self.bytes += bytes.len() as u64;
                Some((bytes, replica.layout.bytes_per_checksum))
            }
            Err(error) => {
                tracing::debug!("{}: reading its file: {error}", block.block);
                self.doubted = self.open.take().map(|replica| replica.datanode);
                self.failed = Some(id);
                None
            }
        }
    }
}

async fn open<S: Seam>(
    shared: &Shared<S>,
    pool: &BlockPoolId,
    block: &LocatedBlock,
) -> Option<Replica> {
    for node in &block.locations {
        let Some(address) = node.address_for(block.block.id) else {
            continue;
        };
        if !shared.seam.is_here(address.ip()) || shared.refusals.stand(shared.seam.now(), address) {
            continue;
        }
        let deadline = shared.seam.now().after_ms(shared.options.stream_timeout_ms);
        let asked = ask(shared, pool, block, node, address);
        match until(&shared.seam, deadline, asked).await {
            Some(Ok(replica)) => return Some(replica),
            Some(Err(reason)) => tracing::debug!("{} on {}: {reason}", block.block, node.name),
            None => tracing::debug!("{} on {}: no answer", block.block, node.name),
        }
    }
    None
}

async fn ask<S: Seam>(
    shared: &Shared<S>,
    pool: &BlockPoolId,
    block: &LocatedBlock,
    node: &ReplicaTarget,
    address: SocketAddr,
) -> Result<Replica, String> {
    let expect = Expect::node(Role::Datanode, node.name.clone());
    let request = Request::OpenLocal {
        pool: pool.clone(),
        block: block.block,
        token: block.token.clone(),
    };
    let asked = async {
        let client = shared.peers.transfer(address, &expect).await?;
        Ok::<_, Attempt>(client.call(&request).await?)
    };
    let layout = match asked.await {
        Ok(Response::Local { local }) => local,
        Ok(other) => return Err(format!("answered with {}", other.name())),
        Err(attempt) => {
            if let Attempt::Fault(fault) = &attempt
                && fault.class == FaultClass::Unsupported
            {
                shared.refusals.add(shared.seam.now(), address);
            }
            return Err(attempt.to_string());
        }
    };
    check(&layout, block)?;
    match shared.seam.open_local(&layout.socket, layout.ticket).await {
        Ok(file) => Ok(Replica::new(
            file,
            node.datanode,
            layout,
            block.block.length,
        )),
        Err(error) => {
            // The address is ours and the socket is not: another network namespace, or no rights.
            shared.refusals.add(shared.seam.now(), address);
            Err(error)
        }
    }
}

/// What a DataNode says of a file must hang together before it is computed with.
fn check(layout: &LocalReplica, block: &LocatedBlock) -> Result<(), String> {
    let chunk = u64::from(layout.bytes_per_checksum);
    let (group, head) = (u64::from(layout.group), u64::from(layout.head));
    let length = layout.block.length;
    let fits = (64..=65_536).contains(&chunk)
        && (chunk..=PART_MAX).contains(&group)
        && group.is_multiple_of(chunk)
        && (group / chunk * 4..=PART_MAX).contains(&head)
        && layout.whole.is_multiple_of(chunk)
        && layout.whole <= length
        && length - layout.whole <= PART_MAX
        && (length - layout.whole).div_ceil(chunk) as usize * 4 <= TAIL_PAGE - TAIL_CHECKSUMS
        && layout.first_group <= 1 << 40
        && layout.tail <= 1 << 40
        && length <= 1 << 50;
    if !fits {
        return Err(format!("a layout that cannot be: {layout:?}"));
    }
    if layout.block.id != block.block.id
        || layout.block.generation_stamp < block.block.generation_stamp
        || length < block.block.length
    {
        return Err(format!("its file holds {}", layout.block));
    }
    Ok(())
}

/// A replica's file.
struct Replica {
    file: Arc<dyn LocalFile>,
    datanode: DatanodeUuid,
    layout: LocalReplica,
    /// Bytes of the block to be seen.
    end: u64,
    pace: LocalPace,
    /// Parts in order, each behind the one before.
    ahead: VecDeque<Part>,
}

/// A run of chunks that is being read.
struct Part {
    /// Bytes of the block, from a chunk's start to a chunk's end or the replica's.
    from: u64,
    to: u64,
    /// Where the bytes from `from` on begin in what `data` gives.
    data_at: usize,
    /// Where their checksums begin, in what `head` gives, or `data` without it.
    checksums_at: usize,
    head: Option<Bits>,
    data: Bits,
}

/// Bytes of a file that are being read, or were. A read that is dropped midway loses nothing that was read ahead.
enum Bits {
    Reading(Reading),
    Read(Bytes),
}

impl Bits {
    async fn get(&mut self) -> Result<Bytes, String> {
        if let Self::Reading(reading) = self {
            *self = Self::Read(reading.await?);
        }
        match self {
            Self::Read(bytes) => Ok(bytes.clone()),
            Self::Reading(_) => unreachable!("it was read above"),
        }
    }
}

impl Replica {
    fn new(
        file: Arc<dyn LocalFile>,
        datanode: DatanodeUuid,
        layout: LocalReplica,
        end: u64,
    ) -> Self {
        file.pass_cache(!layout.cached);
        Self {
            file,
            datanode,
            pace: LocalPace::new(
                layout.cached,
                u64::from(layout.head) + u64::from(layout.group),
            ),
            layout,
            end,
            ahead: VecDeque::new(),
        }
    }

    fn is_of(&self, block: &LocatedBlock) -> bool {
        self.layout.block.id == block.block.id && self.end == block.block.length
    }

    /// The bytes at `at` of the block up to the end of their part, verified.
    async fn read(&mut self, at: u64) -> Result<Bytes, String> {
        let holds = |part: &Part| part.from <= at && at < part.to;
        while self.ahead.front().is_some_and(|part| !holds(part)) {
            self.ahead.pop_front();
        }
        if self.ahead.is_empty() {
            let cached = self.pace.cached();
            self.pace.handle_jump(at);
            if self.pace.cached() != cached {
                self.file.pass_cache(false);
            }
        }
        let mut next = self.ahead.back().map_or(at, |part| part.to);
        while self.ahead.len() < self.pace.parts() && next < self.end {
            let part = self.part(next);
            next = part.to;
            self.pace.handle_begun(part.from, part.to);
            self.ahead.push_back(part);
        }
        let first = self.ahead.front_mut();
        let part = first.ok_or("behind the end of the block")?;
        let data = part.data.get().await?;
        let head = match &mut part.head {
            None => data.clone(),
            Some(head) => head.get().await?,
        };
        let part = self.ahead.pop_front().expect("looked at just now");
        self.pace.handle_taken();
        let length = (part.to - part.from) as usize;
        let data = part_of(&data, part.data_at, length)?;
        let chunk = self.layout.bytes_per_checksum as usize;
        let checksums = part_of(&head, part.checksums_at, length.div_ceil(chunk) * 4)?;
        let first = part.from / chunk as u64;
        let id = self.layout.block.id;
        for (index, (bytes, stored)) in data.chunks(chunk).zip(checksums.chunks(4)).enumerate() {
            let number = first + index as u64;
            let stored = u32::from_le_bytes(stored.try_into().expect("four bytes"));
            if crc32c::crc32c(bytes) ^ chunk_salt(id, number) != stored {
                return Err(format!("chunk {number} does not match its checksum"));
            }
        }
        let seen = part.to.min(self.end);
        Ok(data.slice((at - part.from) as usize..(seen - part.from) as usize))
    }

    /// Begins to read from the chunk of `at` to the end of its group, or the tail.
    fn part(&self, at: u64) -> Part {
        let layout = &self.layout;
        let (chunk, head) = (u64::from(layout.bytes_per_checksum), layout.head as usize);
        if at >= layout.whole {
            let length = (layout.block.length - layout.whole) as usize;
            return Part {
                from: layout.whole,
                to: layout.block.length,
                data_at: TAIL_PAGE,
                checksums_at: TAIL_CHECKSUMS,
                head: None,
                data: Bits::Reading(self.file.read(layout.tail, TAIL_PAGE + length)),
            };
        }
        let group = u64::from(layout.group);
        let (number, from) = (at / group, at / chunk * chunk);
        let start = number * group;
        let to = (start + group).min(layout.whole);
        let place = layout.first_group + number * (head as u64 + group);
        let checksums_at = ((from - start) / chunk * 4) as usize;
        if from == start {
            return Part {
                from,
                to,
                data_at: head,
                checksums_at,
                head: None,
                data: Bits::Reading(self.file.read(place, head + (to - from) as usize)),
            };
        }
        Part {
            from,
            to,
            data_at: 0,
            checksums_at,
            head: Some(Bits::Reading(self.file.read(place, head))),
            data: Bits::Reading(
                self.file
                    .read(place + head as u64 + (from - start), (to - from) as usize),
            ),
        }
    }
}

fn part_of(bytes: &Bytes, at: usize, length: usize) -> Result<Bytes, String> {
    if bytes.len() < at + length {
        return Err("the file ends early".into());
    }
    Ok(bytes.slice(at..at + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use hadal_types::{Block, GenerationStamp};

    const CHUNK: usize = 512;
    const HEAD: usize = 4096;
    const GROUP: usize = 8192;
    const FIRST_GROUP: usize = 32_768;
    const TAIL: usize = 8192;
    /// Three groups, half a one, and a tail of one chunk and a bit.
    const WHOLE: usize = 3 * GROUP + 4096;
    const LENGTH: usize = WHOLE + 700;
    const ID: BlockId = BlockId(77);

    /// A replica's file in memory, and what was wanted of it.
    struct Fake {
        content: Vec<u8>,
        past: Mutex<Vec<bool>>,
        reads: Mutex<Vec<u64>>,
    }

    impl LocalFile for Fake {
        fn read(&self, offset: u64, length: usize) -> Reading {
            self.reads.lock().unwrap().push(offset);
            let from = self.content.get(offset as usize..).unwrap_or_default();
            let bytes = Bytes::copy_from_slice(&from[..length.min(from.len())]);
            Box::pin(async move {
                tokio::task::yield_now().await;
                Ok(bytes)
            })
        }

        fn pass_cache(&self, past: bool) {
            self.past.lock().unwrap().push(past);
        }
    }

    fn block() -> Vec<u8> {
        let byte = |at: usize| (at.wrapping_mul(0x9e37_79b9) >> 16) as u8;
        (0..LENGTH).map(byte).collect()
    }

    fn file() -> Vec<u8> {
        let block = block();
        let mut file = vec![0; FIRST_GROUP + 3 * (HEAD + GROUP) + HEAD + 4096];
        for (number, chunk) in block.chunks(CHUNK).enumerate() {
            let at = number * CHUNK;
            let (sums, data) = if at < WHOLE {
                let place = FIRST_GROUP + at / GROUP * (HEAD + GROUP);
                (place + at % GROUP / CHUNK * 4, place + HEAD + at % GROUP)
            } else {
                let place = TAIL + TAIL_CHECKSUMS + (at - WHOLE) / CHUNK * 4;
                (place, TAIL + TAIL_PAGE + at - WHOLE)
            };
            let sum = crc32c::crc32c(chunk) ^ chunk_salt(ID, number as u64);
            file[sums..sums + 4].copy_from_slice(&sum.to_le_bytes());
            file[data..data + chunk.len()].copy_from_slice(chunk);
        }
        file
    }

    fn replica(content: Vec<u8>, cached: bool) -> (Replica, Arc<Fake>) {
        let file = Arc::new(Fake {
            content,
            past: Mutex::default(),
            reads: Mutex::default(),
        });
        let layout = LocalReplica {
            socket: String::new(),
            ticket: 0,
            block: Block {
                id: ID,
                generation_stamp: GenerationStamp(1),
                length: LENGTH as u64,
            },
            bytes_per_checksum: CHUNK as u32,
            whole: WHOLE as u64,
            first_group: FIRST_GROUP as u64,
            head: HEAD as u32,
            group: GROUP as u32,
            tail: TAIL as u64,
            cached,
        };
        let shown = Arc::clone(&file) as Arc<dyn LocalFile>;
        let replica = Replica::new(shown, DatanodeUuid(1), layout, LENGTH as u64);
        (replica, file)
    }

    async fn rest(replica: &mut Replica, from: usize) -> Result<Vec<u8>, String> {
        let mut found = Vec::new();
        while from + found.len() < LENGTH {
            found.extend_from_slice(&replica.read((from + found.len()) as u64).await?);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn from_every_byte_on_the_blocks_bytes_are_read() {
        let (block, file) = (block(), file());
        let (mut kept, _) = replica(file.clone(), true);
        let starts = (0..LENGTH).step_by(97);
        let edges = [
            GROUP - 1,
            GROUP,
            WHOLE - 1,
            WHOLE,
            WHOLE + CHUNK,
            LENGTH - 1,
        ];
        for from in starts.chain(edges) {
            for replica in [&mut replica(file.clone(), false).0, &mut kept] {
                let found = rest(replica, from).await.unwrap();
                assert!(found == block[from..], "wrong bytes from {from} on");
            }
        }
    }

    #[tokio::test]
    async fn a_byte_that_is_wrong_is_an_error() {
        let mut content = file();
        // The third chunk of the second group.
        content[FIRST_GROUP + HEAD + GROUP + HEAD + 2 * CHUNK] ^= 1;
        let (mut replica, _) = replica(content, false);
        assert!(replica.read(0).await.is_ok());
        let error = replica.read(GROUP as u64).await.unwrap_err();
        assert_eq!(error, "chunk 18 does not match its checksum");
    }

    /// A caller with a time limit of its own: nothing is read a second time, which would count as coming back.
    #[tokio::test]
    async fn a_read_that_is_dropped_midway_keeps_what_is_under_way() {
        let (mut replica, file) = replica(file(), false);
        for from in [0, GROUP] {
            assert_eq!(replica.read(from as u64).now_or_never(), None);
            replica.read(from as u64).await.unwrap();
        }
        let found = rest(&mut replica, 2 * GROUP).await.unwrap();
        assert!(found == block()[2 * GROUP..]);
        let mut reads = file.reads.lock().unwrap().clone();
        let all = reads.len();
        reads.sort_unstable();
        reads.dedup();
        assert_eq!(reads.len(), all, "each place was read once");
        assert_eq!(*file.past.lock().unwrap(), [true]);
    }

    #[tokio::test]
    async fn a_block_is_read_past_the_page_cache_once() {
        let (mut replica, file) = replica(file(), false);
        rest(&mut replica, 0).await.unwrap();
        assert_eq!(*file.past.lock().unwrap(), [true]);
        rest(&mut replica, 5).await.unwrap();
        rest(&mut replica, 0).await.unwrap();
        assert_eq!(*file.past.lock().unwrap(), [true, false]);
    }

    #[tokio::test]
    async fn a_block_that_was_read_before_goes_through_the_page_cache() {
        let (mut replica, file) = replica(file(), true);
        rest(&mut replica, 0).await.unwrap();
        rest(&mut replica, 0).await.unwrap();
        assert_eq!(*file.past.lock().unwrap(), [false]);
    }

    #[tokio::test]
    async fn a_part_under_way_is_not_read_again_when_the_reader_jumps_to_it() {
        let (mut replica, file) = replica(file(), false);
        let two = 2 * GROUP;
        // Two parts at first, then twice as many.
        replica.read(0).await.unwrap();
        replica.read(GROUP as u64).await.unwrap();
        let begun = file.reads.lock().unwrap().len();
        assert_eq!(begun, 5, "all groups and the tail are under way");
        assert_eq!(
            replica.read((two + GROUP + 9) as u64).await.unwrap(),
            block()[two + GROUP + 9..WHOLE]
        );
        assert_eq!(replica.read(WHOLE as u64).await.unwrap(), block()[WHOLE..]);
        assert_eq!(file.reads.lock().unwrap().len(), begun);
        assert_eq!(*file.past.lock().unwrap(), [true]);
    }
}
