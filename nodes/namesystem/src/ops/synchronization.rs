//! commitBlockSynchronization: what a block recovery came to (E-18, E-20, T-L7..T-L12).

use crate::lease::TRUNCATE_HOLDER;
use crate::namesystem::Namesystem;
use alloc::format;
use alloc::string::String;
use hadal_proto::client::ReplicaTarget;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, BlockId, GenerationStamp};

impl Namesystem {
    /// The result of a block recovery (E-18), only at the active (E-20).
    pub(crate) fn commit_synchronization(
        &mut self,
        wall_ms: u64,
        block: BlockId,
        recovery_id: GenerationStamp,
        length: u64,
        nodes: &[ReplicaTarget],
        delete: bool,
    ) -> Result<(), Fault> {
        if self.blocks.in_safe_mode() {
            return Err(Fault::new(
                FaultClass::SafeMode,
                format!("Cannot commitBlockSynchronization of {block} while in safe mode"),
            ));
        }
        let Some(stored) = self.blocks.stored(block) else {
            if delete {
                // Said again after it was done.
                return Ok(());
            }
            return Err(Fault::new(
                FaultClass::NotFound,
                format!("{block} is not known to this NameNode; its file may be deleted"),
            ));
        };
        let inode = stored.inode;
        let tree = &self.state.tree;
        let file = tree.get(inode).and_then(|entry| entry.inode.file());
        let Some(file) = file.filter(|file| file.is_open) else {
            // Said again after the file was closed with this very result, or too late.
            return if stored.block.generation_stamp == recovery_id {
                Ok(())
            } else {
                Err(stale(format!(
                    "{block} belongs to a closed file (inode {inode}); recovery {recovery_id} is too late"
                )))
            };
        };
        let Some(known) = file.blocks.last().filter(|last| last.id == block) else {
            return Err(stale(format!(
                "{block} is not the last block of its file (inode {inode})"
            )));
        };
        let block_size = file.block_size;
        self.blocks
            .check_recovery(block, recovery_id)
            .map_err(|error| stale(format!("{error}")))?;
        if length > block_size || recovery_id > self.state.counters.generation_stamp {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                format!(
                    "recovery {recovery_id} of {block} cannot end with length {length} of block size {block_size}"
                ),
            ));
        }
        let holder = self.state.leases.holder(inode).expect("the file is open");
        if delete {
            if known.length > 0 {
                // These bytes were there once (hsync with update-length, or a truncate's own block): a shorter file
                // that looks whole would hide the loss. Closed as it is known, it shows as missing (Q39).
                self.close(wall_ms, inode, holder, Some(known));
            } else {
                self.drop_last(wall_ms, inode, holder, block);
            }
            return Ok(());
        }
        if holder == TRUNCATE_HOLDER && length != known.length {
            return Err(Fault::new(
                FaultClass::InvalidArgument,
                format!(
                    "recovery {recovery_id} of {block} ended with length {length}; its file is truncated to {} bytes of it",
                    known.length
                ),
            ));
        }
        let recovered = Block {
            id: block,
            generation_stamp: recovery_id,
            length,
        };
        // One edit says it all (Q41): stamp, length, closed, lease gone.
        self.blocks.set_pipeline(block, nodes);
        self.close(wall_ms, inode, holder, Some(recovered));
        Ok(())
    }
}

fn stale(message: String) -> Fault {
    Fault::new(FaultClass::StaleReplica, message)
}
