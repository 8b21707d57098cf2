//! Writing files: blocks, pipelines, closing.

use super::invalid;
use super::read::unlocated;
use crate::inode::FileRef;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use alloc::format;
use alloc::vec::Vec;
use hadal_blocks::PlacementRequest;
use hadal_proto::client::{BlockToken, LocatedBlock, ReplicaTarget, Request, Response};
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, BlockState, CallId, ClientId, DatanodeUuid, InodeId};

/// An open file as a writer's call needs it.
#[derive(Clone, Copy)]
struct Open {
    inode: InodeId,
    replication: u16,
    block_size: u64,
    blocks: usize,
    length: u64,
    last: Option<Block>,
    penultimate: Option<Block>,
}

impl Open {
    fn of(inode: InodeId, file: FileRef<'_>) -> Self {
        Self {
            inode,
            replication: file.replication,
            block_size: file.block_size,
            blocks: file.blocks.len(),
            length: file.blocks.length(),
            last: file.blocks.last(),
            penultimate: file.blocks.penultimate(),
        }
    }
}

impl Namesystem {
    /// The inode a writer's call is about: by id, so that a rename meanwhile does not matter; by path when the
    /// id is zero.
    fn file_of(&self, path: &str, inode: InodeId) -> Result<InodeId, Fault> {
        if inode != InodeId::default() {
            return Ok(inode);
        }
        Ok(Resolved::new(&self.state.tree, path)?.require_file()?.id)
    }

    /// Checks that the caller may write this file: it is open and the caller holds its lease (E-01).
    fn check_lease(&self, context: Context<'_>, path: &str, inode: InodeId) -> Result<Open, Fault> {
        let inode = self.file_of(path, inode)?;
        let expired = |what: &str| {
            Fault::new(
                FaultClass::LeaseExpired,
                format!("{what}: {path} (inode {inode}) Holder {}", context.client),
            )
        };
        let Some(entry) = self.state.tree.get(inode) else {
            return Err(Fault::new(
                FaultClass::NotFound,
                format!(
                    "File does not exist: {path} (inode {inode}) Holder {} does not have any open files.",
                    context.client
                ),
            ));
        };
        let Some(file) = entry.inode.file() else {
            return Err(expired("INode is not a regular file"));
        };
        if !file.is_open {
            return Err(expired("File is not open for writing"));
        }
        let holder = self
            .state
            .leases
            .holder(inode)
            .expect("open files have one");
        if holder != context.client {
            return Err(expired(&format!(
                "Client (={}) is not the lease owner (={holder})",
                context.client
            )));
        }
        Ok(Open::of(inode, file))
    }

    fn is_complete(&self, block: Option<Block>) -> bool {
        block.is_none_or(|block| self.blocks.is_complete(block.id))
    }

    /// What a client says of its last block must fit what is known of it.
    fn check_final(&self, path: &str, open: &Open, said: Block, known: Block) -> Result<(), Fault> {
        if said.generation_stamp != known.generation_stamp {
            return Err(invalid(format!(
                "Commit block with mismatching GS. NN has {known}, client submits {said} for {path}"
            )));
        }
        // What is COMPLETE grows no more, whether the tree knows its length yet or not.
        let most = match self.blocks.stored(known.id) {
            Some(stored) if stored.state == BlockState::Complete => stored.block.length,
            _ => open.block_size,
        };
        if said.length < known.length || said.length > most {
            return Err(invalid(format!(
                "Commit or complete block {said} of {path}: its length must be between the recorded {} and {most}",
                known.length
            )));
        }
        Ok(())
    }

    pub(super) fn add_block(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        previous: Option<Block>,
        exclude: &[DatanodeUuid],
        writer_host: &str,
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        let same = |a: Option<Block>, b: Option<Block>| a.map(|a| a.id) == b.map(|b| b.id);
        if !same(previous, open.last) {
            // The same question again under a new call id: the block is there, nothing written yet.
            if let Some(last) = open.last
                && last.length == 0
                && same(previous, open.penultimate)
            {
                let block = self.locate_last(open, last, exclude, writer_host)?;
                return Ok(Response::LocatedBlock { block: Some(block) });
            }
            return Err(invalid(format!(
                "Cannot allocate block in {path}: passed 'previous' block {} does not match actual last block in file {}",
                shown(previous),
                shown(open.last)
            )));
        }
        if let (Some(previous), Some(last)) = (previous, open.last) {
            self.check_final(path, &open, previous, last)?;
        }
        if !self.is_complete(open.penultimate) {
            return Err(Fault::new(
                FaultClass::NotReplicatedYet,
                format!("Not replicated yet: {path}"),
            ));
        }
        let block = self.allocate(context, path, &open, previous, exclude, writer_host)?;
        Ok(Response::LocatedBlock { block: Some(block) })
    }

    /// Adds a block behind those an open file has, and chooses its pipeline.
    fn allocate(
        &mut self,
        context: Context<'_>,
        path: &str,
        open: &Open,
        previous: Option<Block>,
        exclude: &[DatanodeUuid],
        writer_host: &str,
    ) -> Result<LocatedBlock, Fault> {
        if open.blocks >= self.config.max_blocks_per_file {
            return Err(invalid(format!(
                "File has reached the limit on maximum number of blocks (dfs.namenode.fs-limits.max-blocks-per-file): {} >= {}",
                open.blocks, self.config.max_blocks_per_file
            )));
        }
        let targets = self.choose_pipeline(path, open, exclude, writer_host)?;
        let block = Block {
            id: self.next_block(),
            generation_stamp: self.state.counters.generation_stamp.next(),
            length: 0,
        };
        self.edit(
            context,
            EditOp::AddBlock {
                inode: open.inode,
                block: block.id,
                generation_stamp: block.generation_stamp,
                previous,
            },
        );
        self.blocks.set_pipeline(block.id, &targets);
        let before = open.last.map_or(0, |last| last.length);
        let added = previous.map_or(0, |previous| previous.length);
        Ok(located(block, open.length - before + added, targets))
    }

    /// The first block of a file that this call just created. Its edit is the NameNode's own: the call's outcome is the
    /// new file, and a retry finds the block in it. Where there is none, the file is created all the same: the writer
    /// asks with AddBlock and is told why.
    pub(super) fn add_first_block(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        writer_host: &str,
    ) -> Option<LocatedBlock> {
        let open = self.open_file(inode)?;
        let own = Context {
            client: ClientId::default(),
            call: CallId(0),
            ..context
        };
        self.allocate(own, path, &open, None, &[], writer_host).ok()
    }

    /// The first block in the answer to a create that ran before. Who has no answer yet has written nothing and asked
    /// for no other block, so it is the only one and empty; unless somebody else took the file over. Where no DataNode can
    /// be named for it, it is answered without: the writer must know of it to give it back.
    pub(super) fn repeat_first_block(
        &mut self,
        context: Context<'_>,
        inode: InodeId,
        request: &Request,
    ) -> Option<LocatedBlock> {
        let Request::Create {
            first_block: Some(writer_host),
            ..
        } = request
        else {
            return None;
        };
        if self.state.leases.holder(inode) != Some(context.client) {
            return None;
        }
        let open = self.open_file(inode)?;
        let only = open
            .last
            .filter(|last| open.blocks == 1 && last.length == 0)?;
        let placed = self.locate_last(open, only, &[], writer_host);
        Some(placed.unwrap_or_else(|_| located(only, open.length - only.length, Vec::new())))
    }

    /// A file, whoever holds its lease.
    fn open_file(&self, inode: InodeId) -> Option<Open> {
        let entry = self.state.tree.get(inode)?;
        let file = entry.inode.file()?;
        Some(Open::of(inode, file))
    }

    fn choose_pipeline(
        &mut self,
        path: &str,
        open: &Open,
        exclude: &[DatanodeUuid],
        writer_host: &str,
    ) -> Result<Vec<ReplicaTarget>, Fault> {
        self.blocks
            .choose_targets(&PlacementRequest {
                count: usize::from(open.replication),
                block_size: open.block_size,
                writer_host,
                existing: &[],
                exclude,
            })
            .map_err(|error| Fault::new(FaultClass::NoDatanodes, format!("File {path} {error}")))
    }

    /// The last, still empty block of a file with its pipeline; after a failover nobody remembers the
    /// pipeline, and a new one is as good since nothing was written.
    fn locate_last(
        &mut self,
        open: Open,
        last: Block,
        exclude: &[DatanodeUuid],
        writer_host: &str,
    ) -> Result<LocatedBlock, Fault> {
        let known = self.blocks.locate(last.id, writer_host);
        let targets = match known {
            Some(known) if !known.locations.is_empty() => known.locations,
            _ => {
                let path = self.state.tree.path_of(open.inode);
                let targets = self.choose_pipeline(&path, &open, exclude, writer_host)?;
                self.blocks.set_pipeline(last.id, &targets);
                targets
            }
        };
        Ok(located(last, open.length - last.length, targets))
    }

    /// The answer to an addBlock that ran before.
    pub(super) fn repeat_add_block(
        &mut self,
        inode: InodeId,
        block: BlockId,
        request: &Request,
    ) -> Result<Response, Fault> {
        let Request::AddBlock {
            path,
            exclude,
            writer_host,
            ..
        } = request
        else {
            return Err(Fault::new(
                FaultClass::BadRequest,
                format!(
                    "this call id was used for an AddBlock, not {}",
                    request.name()
                ),
            ));
        };
        match self.open_file(inode) {
            Some(open) if open.last.is_some_and(|last| last.id == block) => {
                let last = open.last.expect("looked at just now");
                let block = self.locate_last(open, last, exclude, writer_host)?;
                Ok(Response::LocatedBlock { block: Some(block) })
            }
            _ => Err(Fault::new(
                FaultClass::NotFound,
                format!(
                    "{block}, allocated to this call before, is no longer the last block of {path} (inode {inode})"
                ),
            )),
        }
    }

    pub(super) fn abandon_block(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        block: Block,
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        // A block that is not the last was abandoned before, or is in use: nothing to do.
        if let Some(last) = open.last
            && last.id == block.id
        {
            if last.length > 0 {
                return Err(invalid(format!(
                    "{last} of {path} cannot be abandoned: {} bytes of it are recorded",
                    last.length
                )));
            }
            self.edit(
                context,
                EditOp::AbandonBlock {
                    inode: open.inode,
                    block: block.id,
                },
            );
        }
        Ok(Response::Done)
    }

    pub(super) fn complete(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        last: Option<Block>,
    ) -> Result<Response, Fault> {
        let open = match self.check_lease(context, path, inode) {
            Ok(open) => open,
            Err(fault) if self.was_completed(path, inode, last) => {
                debug_assert!(fault.class == FaultClass::LeaseExpired);
                return Ok(Response::Flag { value: true });
            }
            Err(fault) => return Err(fault),
        };
        match (last, open.last) {
            (Some(said), Some(known)) if said.id == known.id => {
                self.check_final(path, &open, said, known)?;
                let txid = self.applied();
                self.blocks.committed(txid, said);
            }
            (None, _) => {}
            (Some(said), known) => {
                return Err(invalid(format!(
                    "Cannot complete {path}: {said} is not its last block, which is {}",
                    shown(known)
                )));
            }
        }
        // F-09: not before every block reached minimal replication.
        if !self.is_complete(open.penultimate) || !self.is_complete(open.last) {
            return Ok(Response::Flag { value: false });
        }
        let last = last.or_else(|| {
            let stored = self.blocks.stored(open.last?.id)?;
            Some(stored.block)
        });
        self.edit(
            context,
            EditOp::Close {
                inode: open.inode,
                last,
            },
        );
        Ok(Response::Flag { value: true })
    }

    /// A complete that comes again after it closed the file.
    fn was_completed(&self, path: &str, inode: InodeId, last: Option<Block>) -> bool {
        let Ok(inode) = self.file_of(path, inode) else {
            return false;
        };
        let file = self
            .state
            .tree
            .get(inode)
            .and_then(|entry| entry.inode.file());
        file.is_some_and(|file| {
            let key = |block: Block| (block.id, block.generation_stamp);
            !file.is_open && file.blocks.last().map(key) == last.map(key)
        })
    }

    pub(super) fn fsync(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        length: u64,
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        if let Some(last) = open.last
            && length != u64::MAX
            && length > last.length
        {
            let block = Block { length, ..last };
            self.check_final(path, &open, block, last)?;
            self.edit(
                context,
                EditOp::UpdateLength {
                    inode: open.inode,
                    block,
                },
            );
        }
        Ok(Response::Done)
    }

    /// Only the last block of an open file, and only while it is not COMPLETE: after an append to a full block the
    /// last one is as finished as the others (T-P1).
    fn check_open_block(&self, path: &str, open: &Open, block: Block) -> Result<Block, Fault> {
        match open.last {
            Some(last) if last.id == block.id && self.blocks.is_complete(last.id) => {
                Err(invalid(format!(
                    "{block} is COMPLETE and not under construction in {path}; ask for a new block"
                )))
            }
            Some(last) if last.id == block.id => Ok(last),
            last => Err(invalid(format!(
                "{block} is not under construction in {path}, whose last block is {}",
                shown(last)
            ))),
        }
    }

    pub(super) fn update_block_for_pipeline(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        block: Block,
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        self.check_open_block(path, &open, block)?;
        let generation_stamp = self.state.counters.generation_stamp.next();
        self.edit(context, EditOp::AllocateStamp { generation_stamp });
        Ok(Response::NewStamp {
            generation_stamp,
            token: BlockToken::default(),
        })
    }

    pub(super) fn update_pipeline(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        old: Block,
        new: Block,
        nodes: &[ReplicaTarget],
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        let last = self.check_open_block(path, &open, old)?;
        let issued = self.state.counters.generation_stamp;
        if new.id != old.id
            || new.generation_stamp <= last.generation_stamp
            || new.generation_stamp > issued
            || new.length < last.length
            || new.length > open.block_size
        {
            return Err(invalid(format!(
                "Update {last} of {path} to {new}: the stamp must be newer and handed out (at most {issued}), the length between {} and the block size {}",
                last.length, open.block_size
            )));
        }
        self.edit(
            context,
            EditOp::UpdatePipeline {
                inode: open.inode,
                block: new,
            },
        );
        self.blocks.set_pipeline(new.id, nodes);
        Ok(Response::Done)
    }

    pub(super) fn get_additional_datanode(
        &mut self,
        context: Context<'_>,
        path: &str,
        inode: InodeId,
        block: Block,
        (existing, exclude): (&[ReplicaTarget], &[DatanodeUuid]),
        count: u8,
    ) -> Result<Response, Fault> {
        let open = self.check_lease(context, path, inode)?;
        let last = self.check_open_block(path, &open, block)?;
        let existing_ids: Vec<_> = existing.iter().map(|target| target.datanode).collect();
        let added = self
            .blocks
            .choose_targets(&PlacementRequest {
                count: usize::from(count),
                block_size: open.block_size,
                writer_host: "",
                existing: &existing_ids,
                exclude,
            })
            .map_err(|error| Fault::new(FaultClass::NoDatanodes, format!("File {path} {error}")))?;
        let mut locations = existing.to_vec();
        locations.extend(added);
        let block = located(last, open.length - last.length, locations);
        Ok(Response::LocatedBlock { block: Some(block) })
    }
}

fn located(block: Block, offset: u64, locations: Vec<ReplicaTarget>) -> LocatedBlock {
    LocatedBlock {
        offset,
        locations,
        under_construction: true,
        ..unlocated(block)
    }
}

fn shown(block: Option<Block>) -> alloc::string::String {
    block.map_or_else(|| "null".into(), |block| format!("{block}"))
}
