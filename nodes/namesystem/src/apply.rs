//! Applying edits: the only way the namespace changes, for the active, the standby and replay alike
//! (protocols.md section 7).
//!
//! An edit that does not fit the state it meets is a bug or damage nobody noticed: going on would let active
//! and standby drift apart (Q41), so every impossible edit is a panic that names it.

use crate::effect::Effect;
use crate::inode::{BlockList, Body, FileBody, Inode};
use crate::inode_page::FileMut;
use crate::lease::TRUNCATE_HOLDER;
use crate::state::State;
use alloc::vec::Vec;
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{Block, BlockId, GenerationStamp, InodeId, TxId, U48};

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
                let directory = Inode::new(*permission, owner, time_ms, Body::Directory);
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
                let file = FileBody {
                    block_size: *block_size,
                    replication: *replication,
                    is_open: true,
                    blocks: BlockList::Empty,
                };
                let file = Inode::new(*permission, owner, time_ms, Body::File(file));
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
                let last = self.open_file(*inode).pop_block().map(|last| last.id);
                assert_eq!(last, Some(*block), "only the last block can be abandoned");
                self.tree.counts.blocks -= 1;
                effects.push(Effect::Removed { block: *block });
            }
            EditOp::Close { inode, last } => {
                let mut file = self.open_file(*inode);
                if let Some(last) = last {
                    replace_last(&mut file, *last);
                    effects.push(Effect::Completed { block: *last });
                }
                file.set_open(false);
                self.touch(*inode, time_ms);
                self.leases
                    .remove(*inode)
                    .expect("an open file has a lease");
            }
            EditOp::UpdateLength { inode, block } | EditOp::UpdatePipeline { inode, block } => {
                replace_last(&mut self.open_file(*inode), *block);
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
                self.tree.get_mut(*inode).set_permission(*permission);
            }
            EditOp::SetOwner {
                inode,
                owner,
                group,
            } => {
                let owner = self.tree.intern(owner, group);
                self.tree.get_mut(*inode).set_owner(owner);
            }
            EditOp::SetTimes {
                inode,
                modified_ms,
                accessed_ms,
            } => {
                let mut inode = self.tree.get_mut(*inode);
                inode.set_modified_ms(*modified_ms);
                inode.set_accessed_ms(*accessed_ms);
            }
            EditOp::SetReplication { inode, replication } => {
                let mut file = self.file(*inode);
                file.set_replication(*replication);
                effects.extend(file.read().blocks.iter().map(|block| Effect::Replication {
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
                let mut file = self.file(*inode);
                assert!(!file.read().is_open, "inode {inode} is open already");
                file.set_open(true);
                if let Some(block) = block {
                    replace_last(&mut file, *block);
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
        let mut file = self.open_file(inode);
        if let Some(previous) = previous {
            replace_last(&mut file, previous);
            effects.push(Effect::Committed { block: previous });
        }
        let block = Block {
            id: block,
            generation_stamp,
            length: 0,
        };
        file.push_block(block);
        let replication = file.read().replication;
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
        let mut file = self.file(inode);
        let is_open = file.read().is_open;
        assert!(!is_open, "inode {inode} is open, it cannot be cut");
        let mut start = file.read().blocks.length();
        let mut dropped = 0;
        while start > length {
            let last = file.read().blocks.last().expect("bytes are in blocks");
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
                file.set_last_block(block);
                file.set_open(true);
                effects.push(Effect::Reopened { block });
                break;
            }
            file.pop_block();
            dropped += 1;
            effects.push(Effect::Removed { block: last.id });
        }
        assert_eq!(
            file.read().blocks.length(),
            length,
            "inode {inode} is not longer than {length}"
        );
        assert_eq!(
            file.read().is_open,
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
        let replication = self.file(target).read().replication;
        let mut parent = None;
        for source in sources {
            assert_ne!(*source, target, "a file cannot be joined to itself");
            let mut file = self.file(*source);
            let is_open = file.read().is_open;
            assert!(!is_open, "inode {source} is open, it cannot be moved");
            let changes = file.read().replication != replication;
            let blocks = file.take_blocks();
            // Emptied before: the number of blocks stays as it is.
            parent = Some(self.tree.remove(*source, |_, _| {}));
            let mut joined = self.file(target);
            let blocks = blocks.as_slice();
            for block in blocks {
                joined.push_block(*block);
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
                if file.is_open {
                    leases.remove(id).expect("an open file has a lease");
                }
            }
        })
    }

    fn touch(&mut self, id: InodeId, time_ms: u64) {
        self.tree.get_mut(id).set_modified_ms(time_ms);
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

    fn file(&mut self, id: InodeId) -> FileMut<'_> {
        let file = self.tree.get_mut(id).file();
        file.unwrap_or_else(|| panic!("inode {id} is a directory"))
    }

    fn open_file(&mut self, id: InodeId) -> FileMut<'_> {
        let file = self.file(id);
        assert!(file.read().is_open, "inode {id} is not open for write");
        file
    }
}

fn replace_last(file: &mut FileMut<'_>, block: Block) {
    let last = file.read().blocks.last().map(|last| last.id);
    assert_eq!(last, Some(block.id), "only the last block changes");
    file.set_last_block(block);
}
