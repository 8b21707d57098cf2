//! Calls that change nothing.

use crate::caller::Caller;
use crate::namesystem::Namesystem;
use crate::path::{Resolved, missing};
use crate::permission::{Access, EXECUTE, READ};
use crate::status::file_status;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_proto::Fault;
use hadal_proto::client::{
    BlockToken, ContentSummary, LocatedBlock, LocatedBlocks, OpenFile, Response, ServerDefaults,
};
use hadal_types::{Block, BlockId, InodeId};

/// Open files per page.
const OPEN_FILES_PAGE: usize = 1000;
/// Bytes of paths after which a page ends, so that it fits a call frame.
const OPEN_FILES_BYTES: usize = 1 << 20;
/// Files with missing blocks per page (HDFS: 100).
const CORRUPT_FILES_PAGE: usize = 100;

impl Namesystem {
    pub(super) fn get_file_info(&self, caller: &Caller, path: &str) -> Result<Response, Fault> {
        let tree = &self.state.tree;
        let resolved = Resolved::new(tree, path)?;
        self.checker(caller).traverse(&resolved)?;
        Ok(Response::FileInfo {
            status: resolved.target().map(|entry| file_status(tree, entry)),
        })
    }

    pub(super) fn get_listing(
        &self,
        caller: &Caller,
        path: &str,
        start_after: &str,
        limit: u32,
    ) -> Result<Response, Fault> {
        let tree = &self.state.tree;
        let resolved = Resolved::new(tree, path)?;
        let checker = self.checker(caller);
        checker.traverse(&resolved)?;
        let entry = resolved.require()?;
        if !entry.inode.is_dir() {
            return Ok(Response::Listing {
                entries: alloc::vec![file_status(tree, entry)],
                remaining: 0,
            });
        }
        checker.check(
            &resolved,
            Access {
                target: READ | EXECUTE,
                ..Access::default()
            },
        )?;
        let most = self.config.listing_limit;
        let limit = if limit == 0 { most } else { limit.min(most) } as usize;
        let (left, entries) = tree.children_after(entry.inode, start_after);
        let entries: Vec<_> = entries
            .take(limit)
            .map(|entry| file_status(tree, entry))
            .collect();
        let remaining = (left - entries.len()) as u64;
        Ok(Response::Listing { entries, remaining })
    }

    pub(super) fn get_content_summary(
        &self,
        caller: &Caller,
        path: &str,
    ) -> Result<Response, Fault> {
        let tree = &self.state.tree;
        let resolved = Resolved::new(tree, path)?;
        self.checker(caller).check(
            &resolved,
            Access {
                below: READ | EXECUTE,
                ..Access::default()
            },
        )?;
        let mut summary = ContentSummary {
            directories: 0,
            files: 0,
            length: 0,
            space_consumed: 0,
            quota: u64::MAX,
            space_quota: u64::MAX,
        };
        let mut pending = alloc::vec![resolved.require()?];
        while let Some(entry) = pending.pop() {
            match entry.inode.file() {
                Some(file) => {
                    let length = file.blocks.length();
                    summary.files += 1;
                    summary.length += length;
                    summary.space_consumed += length * u64::from(file.replication);
                }
                None => {
                    summary.directories += 1;
                    pending.extend(tree.children(entry.inode));
                }
            }
        }
        Ok(Response::ContentSummary { summary })
    }

    pub(super) fn get_block_locations(
        &mut self,
        caller: &Caller,
        path: &str,
        offset: u64,
        length: u64,
        reader_host: &str,
    ) -> Result<Response, Fault> {
        let Self {
            state,
            blocks,
            config,
            ..
        } = self;
        let tree = &state.tree;
        let resolved = Resolved::new(tree, path)?;
        crate::permission::Checker {
            tree,
            caller,
            enabled: config.permissions_enabled,
        }
        .check(
            &resolved,
            Access {
                target: READ,
                ..Access::default()
            },
        )?;
        let entry = resolved.require_file()?;
        let file = entry.inode.file().expect("required just now");
        let end = offset.saturating_add(length);
        let last = file.blocks.len().saturating_sub(1);
        let mut start = 0u64;
        let mut located = Vec::new();
        for (at, block) in file.blocks.iter().enumerate() {
            if start >= end {
                break;
            }
            let open = file.is_open && at == last;
            let next = start + block.length;
            // The open block may hold more than is recorded, so it belongs to every range that reaches it.
            if next > offset || open {
                let mut found = blocks
                    .locate(block.id, reader_host)
                    .or_else(|| blocks.locate_removed(block.id))
                    .unwrap_or_else(|| unlocated(block));
                // The block manager may be ahead of the tree when the tree is the committed one.
                found.block = block;
                found.offset = start;
                found.under_construction = open;
                located.push(found);
            }
            start = next;
        }
        Ok(Response::Locations {
            locations: LocatedBlocks {
                pool: config.info.block_pool_id.clone(),
                inode: entry.id,
                file_length: file.blocks.length(),
                under_construction: file.is_open,
                blocks: located,
            },
        })
    }

    pub(super) fn is_file_closed(&self, caller: &Caller, path: &str) -> Result<Response, Fault> {
        let resolved = Resolved::new(&self.state.tree, path)?;
        self.checker(caller).traverse(&resolved)?;
        let entry = resolved.require_file()?;
        Ok(Response::Flag {
            value: !entry.inode.file().is_some_and(|file| file.is_open),
        })
    }

    pub(super) fn list_open_files(
        &self,
        caller: &Caller,
        after: InodeId,
        path: &str,
        blocking_decommission: bool,
    ) -> Result<Response, Fault> {
        self.checker(caller).superuser()?;
        let top = self.filter(path)?;
        let tree = &self.state.tree;
        let open = self
            .state
            .leases
            .open_from(InodeId(after.0.saturating_add(1)))
            .filter(|(inode, _)| tree.is_within(*inode, top))
            .filter(|(inode, _)| !blocking_decommission || self.blocks_decommission(*inode));
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (inode, holder) in open {
            if files.len() == OPEN_FILES_PAGE || bytes > OPEN_FILES_BYTES {
                return Ok(Response::OpenFiles { files, more: true });
            }
            let path = tree.path_of(inode);
            bytes += path.len();
            files.push(OpenFile {
                inode,
                path,
                holder,
            });
        }
        Ok(Response::OpenFiles { files, more: false })
    }

    /// Whether a block of this file holds a decommission up.
    fn blocks_decommission(&self, inode: InodeId) -> bool {
        let file = self
            .state
            .tree
            .get(inode)
            .and_then(|entry| entry.inode.file());
        file.is_some_and(|file| {
            let mut blocks = file.blocks.iter();
            blocks.any(|block| self.blocks.holds_decommission_up(block.id))
        })
    }

    pub(super) fn list_corrupt_file_blocks(
        &self,
        caller: &Caller,
        path: &str,
        cookie: u64,
    ) -> Result<Response, Fault> {
        self.checker(caller).superuser()?;
        let top = self.filter(path)?;
        let tree = &self.state.tree;
        let after = (cookie != 0).then_some(BlockId(cookie));
        let missing = self.blocks.missing(after, CORRUPT_FILES_PAGE);
        let cookie = missing.last().map_or(cookie, |last| last.block.id.0);
        let paths: Vec<String> = missing
            .iter()
            .filter(|stored| tree.is_within(stored.inode, top))
            .map(|stored| tree.path_of(stored.inode))
            .collect();
        Ok(Response::CorruptFiles { paths, cookie })
    }

    fn filter(&self, path: &str) -> Result<InodeId, Fault> {
        if path.is_empty() {
            return Ok(InodeId::ROOT);
        }
        let resolved = Resolved::new(&self.state.tree, path)?;
        match resolved.target() {
            Some(entry) => Ok(entry.id),
            None => Err(missing(path)),
        }
    }

    pub(super) fn server_defaults(&self) -> Response {
        let config = &self.config;
        Response::Defaults {
            defaults: ServerDefaults {
                block_size: config.block_size,
                bytes_per_checksum: config.bytes_per_checksum,
                packet_size: config.packet_size,
                replication: config.replication,
                pool: config.info.block_pool_id.clone(),
                lease_soft_limit_ms: config.lease_soft_limit_ms,
            },
        }
    }

    pub(super) fn fs_stats(&self) -> Response {
        Response::FsStats {
            stats: self.current_fs_stats(),
        }
    }
}

/// A block nobody is known to have.
pub(super) fn unlocated(block: Block) -> LocatedBlock {
    LocatedBlock {
        block,
        offset: 0,
        locations: Vec::new(),
        corrupt: false,
        under_construction: false,
        corrupt_replicas: 0,
        token: BlockToken::default(),
    }
}
