//! Applying edits: the only way the namespace changes, for the active, the standby and replay alike
//! (protocols.md section 7).
//!
//! An edit that does not fit the state it meets is a bug or damage nobody noticed: going on would let active
//! and standby drift apart (Q41), so every impossible edit is a panic that names it.

use crate::effect::Effect;
use crate::inode::{BlockList, Body, FileBody, Inode, PERMISSION_MASK};
use crate::lease::TRUNCATE_HOLDER;
use crate::packed::U48;
use crate::state::State;
use alloc::vec::Vec;
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{Block, BlockId, GenerationStamp, InodeId, TxId};

impl State {
    /// Applies the next edit; what it means for blocks is appended to `effects`. Returns its txid.
    ///
    /// # Panics
    /// When the edit does not fit the state.
    pub(crate) fn apply(&mut self, edit: &Edit, effects: &mut Vec<Effect>) -> TxId {
        let txid = self.counters.txid.next();
        self.counters.txid = txid;
        let time_ms = edit.time_ms.min(U48::MAX);
        match &edit.op {
            EditOp::StartSegment | EditOp::EndSegment | EditOp::Outcome => {}
            EditOp::Mkdir {
                parent,
                inode,
                name,
                permission,
                owner,
                group,
            } => {
                self.take_inode(*inode);
                let owner = self.tree.intern(owner, group);
                let directory = Inode::new(*permission, owner, time_ms, Body::Directory(None));
                self.tree.insert(*parent, *inode, name, directory);
                self.touch(*parent, time_ms);
            }
            EditOp::Create {
                parent,
                inode,
                name,
                permission,
                owner,
                group,
                replication,
                block_size,
                holder,
                replaced,
            } => {
                if let Some(replaced) = replaced {
                    self.remove(*replaced, effects);
                }
                self.take_inode(*inode);
                let owner = self.tree.intern(owner, group);
                let file = FileBody::new(*block_size, *replication, true, BlockList::Empty);
                let body = Body::File(file);
                let file = Inode::new(*permission, owner, time_ms, body);
                self.tree.insert(*parent, *inode, name, file);
                self.touch(*parent, time_ms);
                self.leases.add(*inode, *holder);
            }
            EditOp::AddBlock {
                inode,
                block,
                generation_stamp,
                previous,
            } => self.add_block(*inode, *block, *generation_stamp, *previous, effects),
            EditOp::AbandonBlock { inode, block } => {
                let file = self.open_file(*inode);
                let last = file.blocks.pop().map(|last| last.id);
                assert_eq!(last, Some(*block), "only the last block can be abandoned");
                self.tree.counts.blocks -= 1;
                effects.push(Effect::Removed { block: *block });
            }
            EditOp::Close { inode, last } => {
                let file = self.open_file(*inode);
                if let Some(last) = last {
                    replace_last(file, *last);
                    effects.push(Effect::Completed { block: *last });
                }
                file.set_open(false);
                self.touch(*inode, time_ms);
                self.leases
                    .remove(*inode)
                    .expect("an open file has a lease");
            }
            EditOp::UpdateLength { inode, block } | EditOp::UpdatePipeline { inode, block } => {
                replace_last(self.open_file(*inode), *block);
                effects.push(Effect::Updated { block: *block });
            }
            EditOp::AllocateStamp { generation_stamp } => {
                self.take_stamp(*generation_stamp);
            }
            EditOp::Rename {
                inode,
                to_parent,
                to_name,
                replaced,
            } => {
                if let Some(replaced) = replaced {
                    self.remove(*replaced, effects);
                }
                let from_parent = self.tree.rename(*inode, *to_parent, to_name);
                self.touch(from_parent, time_ms);
                self.touch(*to_parent, time_ms);
            }
            EditOp::Delete { inode } => {
                let parent = self.remove(*inode, effects);
                self.touch(parent, time_ms);
            }
            EditOp::SetPermission { inode, permission } => {
                self.tree.get_mut(*inode).permission = permission & PERMISSION_MASK;
            }
            EditOp::SetOwner {
                inode,
                owner,
                group,
            } => {
                let owner = self.tree.intern(owner, group);
                self.tree.get_mut(*inode).owner = owner;
            }
            EditOp::SetTimes {
                inode,
                modified_ms,
                accessed_ms,
            } => {
                let inode = self.tree.get_mut(*inode);
                inode.modified_ms = U48::new(*modified_ms);
                inode.accessed_ms = U48::new(*accessed_ms);
            }
            EditOp::SetReplication { inode, replication } => {
                let file = self.file(*inode);
                file.set_replication(*replication);
                effects.extend(file.blocks.iter().map(|block| Effect::Replication {
                    block: block.id,
                    replication: *replication,
                }));
            }
            EditOp::ReassignLease { inode, holder } => {
                self.leases
                    .remove(*inode)
                    .expect("only an open file's lease is reassigned");
                self.leases.add(*inode, *holder);
            }
            EditOp::Append {
                inode,
                holder,
                block,
            } => {
                let file = self.file(*inode);
                assert!(!file.is_open(), "inode {inode} is open already");
                file.set_open(true);
                if let Some(block) = block {
                    replace_last(file, *block);
                    effects.push(Effect::Reopened { block: *block });
                }
                self.leases.add(*inode, *holder);
            }
            EditOp::Truncate {
                inode,
                length,
                recovering,
            } => {
                self.truncate(*inode, *length, *recovering, effects);
                self.touch(*inode, time_ms);
            }
            EditOp::Concat { target, sources } => {
                self.concat(*target, sources, time_ms, effects);
            }
        }
        self.retry.record(txid, edit);
        txid
    }

    fn add_block(
        &mut self,
        inode: InodeId,
        block: BlockId,
        generation_stamp: GenerationStamp,
        previous: Option<Block>,
        effects: &mut Vec<Effect>,
    ) {
        assert_eq!(block.0, self.counters.block.0 + 1, "block ids count up");
        self.counters.block = block;
        self.take_stamp(generation_stamp);
        let file = self.open_file(inode);
        if let Some(previous) = previous {
            replace_last(file, previous);
            effects.push(Effect::Committed { block: previous });
        }
        let block = Block {
            id: block,
            generation_stamp,
            length: 0,
        };
        file.blocks.push(block);
        let replication = file.replication();
        self.tree.counts.blocks += 1;
        effects.push(Effect::Allocated {
            inode,
            block,
            replication,
        });
    }

    fn truncate(
        &mut self,
        inode: InodeId,
        length: u64,
        recovering: Option<Block>,
        effects: &mut Vec<Effect>,
    ) {
        let file = self.file(inode);
        assert!(!file.is_open(), "inode {inode} is open, it cannot be cut");
        let mut start = file.blocks.length();
        let mut dropped = 0;
        while start > length {
            let last = file.blocks.last().expect("bytes are in blocks");
            start -= last.length;
            if start < length {
                let cut = recovering.expect("a cut inside a block is recovered");
                assert!(
                    cut.id == last.id && start + cut.length == length,
                    "{cut} is not where inode {inode} is cut at {length}"
                );
                // The replicas have the old stamp until the recovery ends.
                let block = Block {
                    length: cut.length,
                    ..last
                };
                file.blocks.set_last(block);
                file.set_open(true);
                effects.push(Effect::Reopened { block });
                break;
            }
            file.blocks.pop();
            dropped += 1;
            effects.push(Effect::Removed { block: last.id });
        }
        assert_eq!(
            file.blocks.length(),
            length,
            "inode {inode} is not longer than {length}"
        );
        assert_eq!(
            file.is_open(),
            recovering.is_some(),
            "inode {inode} is cut at {length} inside a block, or it is not"
        );
        self.tree.counts.blocks -= dropped;
        if let Some(cut) = recovering {
            self.take_stamp(cut.generation_stamp);
            self.leases.add(inode, TRUNCATE_HOLDER);
        }
    }

    fn concat(
        &mut self,
        target: InodeId,
        sources: &[InodeId],
        time_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let replication = self.file(target).replication();
        let mut parent = None;
        for source in sources {
            assert_ne!(*source, target, "a file cannot be joined to itself");
            let file = self.file(*source);
            assert!(
                !file.is_open(),
                "inode {source} is open, it cannot be moved"
            );
            let changes = file.replication() != replication;
            let blocks = core::mem::replace(&mut file.blocks, BlockList::Empty);
            // Emptied before: the number of blocks stays as it is.
            parent = Some(self.tree.remove(*source, |_, _| {}));
            let joined = self.file(target);
            for block in blocks.iter() {
                joined.blocks.push(block);
            }
            effects.push(Effect::Moved {
                blocks: blocks.iter().map(|block| block.id).collect(),
                inode: target,
            });
            if changes {
                effects.extend(blocks.iter().map(|block| Effect::Replication {
                    block: block.id,
                    replication,
                }));
            }
        }
        self.touch(target, time_ms);
        if let Some(parent) = parent {
            self.touch(parent, time_ms);
        }
    }

    fn remove(&mut self, id: InodeId, effects: &mut Vec<Effect>) -> InodeId {
        let leases = &mut self.leases;
        self.tree.remove(id, |id, inode| {
            if let Some(file) = inode.file() {
                effects.extend(
                    file.blocks
                        .iter()
                        .map(|block| Effect::Removed { block: block.id }),
                );
                if file.is_open() {
                    leases.remove(id).expect("an open file has a lease");
                }
            }
        })
    }

    fn touch(&mut self, id: InodeId, time_ms: u64) {
        self.tree.get_mut(id).modified_ms = U48::new(time_ms);
    }

    fn take_inode(&mut self, id: InodeId) {
        assert_eq!(id.0, self.counters.inode.0 + 1, "inode ids count up");
        self.counters.inode = id;
    }

    fn take_stamp(&mut self, generation_stamp: GenerationStamp) {
        assert_eq!(
            generation_stamp,
            self.counters.generation_stamp.next(),
            "stamps count up"
        );
        self.counters.generation_stamp = generation_stamp;
    }

    fn file(&mut self, id: InodeId) -> &mut FileBody {
        match &mut self.tree.get_mut(id).body {
            Body::File(file) => file,
            Body::Directory(_) => panic!("inode {id} is a directory"),
        }
    }

    fn open_file(&mut self, id: InodeId) -> &mut FileBody {
        let file = self.file(id);
        assert!(file.is_open(), "inode {id} is not open for write");
        file
    }
}

fn replace_last(file: &mut FileBody, block: Block) {
    let last = file.blocks.last().map(|last| last.id);
    assert_eq!(last, Some(block.id), "only the last block changes");
    file.blocks.set_last(block);
}
