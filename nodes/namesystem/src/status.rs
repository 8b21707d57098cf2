//! What clients see of an inode.

use crate::tree::{Entry, Tree};
use alloc::string::String;
use hadal_proto::client::FileStatus;

/// The status of an inode.
pub(crate) fn file_status(tree: &Tree, entry: Entry<'_>) -> FileStatus {
    let inode = entry.inode;
    let (owner, group) = tree.owner(inode);
    let file = inode.file();
    FileStatus {
        name: String::from(entry.name),
        inode: entry.id,
        is_dir: inode.is_dir(),
        length: file.map_or(0, |file| file.blocks.length()),
        replication: file.map_or(0, |file| file.replication),
        block_size: file.map_or(0, |file| file.block_size),
        modified_ms: inode.modified_ms(),
        accessed_ms: inode.accessed_ms(),
        permission: inode.permission(),
        owner: String::from(owner),
        group: String::from(group),
        children: inode.child_count() as u64,
        under_construction: file.is_some_and(|file| file.is_open),
    }
}
