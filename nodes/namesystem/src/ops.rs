//! The operations of ClientProtocol. Each validates, builds edits, and lets [`crate::Namesystem`] apply them.

mod admin;
mod append;
mod attributes;
mod concat;
mod create;
mod namespace;
mod read;
mod recovery;
mod rename;
mod synchronization;
mod truncate;
mod write;

pub(crate) use recovery::Attempts;

use crate::caller::Caller;
use crate::namesystem::{Context, Namesystem};
use crate::permission::Checker;
use crate::retry::{CreatedFile, Outcome};
use alloc::boxed::Box;
use alloc::format;
use hadal_proto::client::{BlockToken, FileStatus, Request, Response};
use hadal_proto::{Fault, FaultClass};
use hadal_types::{BlockId, InodeId};

impl Namesystem {
    pub(crate) fn dispatch(
        &mut self,
        context: Context<'_>,
        request: Request,
    ) -> Result<Response, Fault> {
        match request {
            Request::GetFileInfo { path } => self.get_file_info(context.caller, &path),
            Request::GetListing {
                path,
                start_after,
                limit,
            } => self.get_listing(context.caller, &path, &start_after, limit),
            Request::GetContentSummary { path } => self.get_content_summary(context.caller, &path),
            Request::Mkdirs {
                path,
                permission,
                create_parent,
            } => self.mkdirs(context, &path, permission, create_parent),
            Request::Create {
                path,
                permission,
                overwrite,
                create_parent,
                replication,
                block_size,
                first_block,
            } => self.create(
                context,
                &path,
                create::NewFile {
                    permission,
                    overwrite,
                    create_parent,
                    replication,
                    block_size,
                },
                first_block.as_deref(),
            ),
            Request::AddBlock {
                path,
                inode,
                previous,
                exclude,
                writer_host,
            } => self.add_block(context, &path, inode, previous, &exclude, &writer_host),
            Request::AbandonBlock { path, inode, block } => {
                self.abandon_block(context, &path, inode, block)
            }
            Request::Complete { path, inode, last } => self.complete(context, &path, inode, last),
            Request::Fsync {
                path,
                inode,
                last_block_length,
            } => self.fsync(context, &path, inode, last_block_length),
            Request::UpdateBlockForPipeline { path, inode, block } => {
                self.update_block_for_pipeline(context, &path, inode, block)
            }
            Request::UpdatePipeline {
                path,
                inode,
                old,
                new,
                nodes,
            } => self.update_pipeline(context, &path, inode, old, new, &nodes),
            Request::GetAdditionalDatanode {
                path,
                inode,
                block,
                existing,
                exclude,
                count,
            } => self.get_additional_datanode(
                context,
                &path,
                inode,
                block,
                (&existing, &exclude),
                count,
            ),
            Request::GetBlockLocations {
                path,
                offset,
                length,
                reader_host,
            } => self.get_block_locations(context.caller, &path, offset, length, &reader_host),
            Request::Rename {
                from,
                to,
                overwrite,
            } => self.rename(context, &from, &to, overwrite),
            Request::Delete { path, recursive } => self.delete(context, &path, recursive),
            Request::SetPermission { path, permission } => {
                self.set_permission(context, &path, permission)
            }
            Request::SetOwner { path, owner, group } => {
                self.set_owner(context, &path, &owner, &group)
            }
            Request::SetTimes {
                path,
                modified_ms,
                accessed_ms,
            } => self.set_times(context, &path, modified_ms, accessed_ms),
            Request::SetReplication { path, replication } => {
                self.set_replication(context, &path, replication)
            }
            Request::RenewLease => {
                self.state.leases.renew(context.client, context.now);
                Ok(Response::Done)
            }
            Request::RecoverLease { path } => self.recover_lease(context, &path),
            Request::ReportBadBlocks { blocks } => {
                self.blocks.report_bad_blocks(context.now, &blocks);
                Ok(Response::Done)
            }
            Request::GetServerDefaults => Ok(self.server_defaults()),
            Request::GetFsStats => Ok(self.fs_stats()),
            Request::ListOpenFiles { after, path } => {
                self.list_open_files(context.caller, after, &path, false)
            }
            Request::ListFilesBlockingDecommission { after, path } => {
                self.list_open_files(context.caller, after, &path, true)
            }
            Request::IsFileClosed { path } => self.is_file_closed(context.caller, &path),
            Request::ListCorruptFileBlocks { path, cookie } => {
                self.list_corrupt_file_blocks(context.caller, &path, cookie)
            }
            Request::Append {
                path,
                new_block,
                writer_host,
            } => self.append(context, &path, new_block, &writer_host),
            Request::Truncate { path, length } => self.truncate(context, &path, length),
            Request::Concat { target, sources } => self.concat(context, &target, &sources),
            // The reply says it all: its txid, behind the barrier.
            Request::Msync => Ok(Response::Done),
            Request::GetServiceState => unreachable!("answered before, in every state"),
        }
    }

    /// Answers a call that ran before as it was answered then (F-06).
    pub(crate) fn repeat(
        &mut self,
        context: Context<'_>,
        time_ms: u64,
        outcome: Outcome,
        request: &Request,
    ) -> Result<Response, Fault> {
        match outcome {
            Outcome::Done if matches!(request, Request::Truncate { .. }) => {
                Ok(Response::Flag { value: false })
            }
            Outcome::Done => Ok(Response::Done),
            Outcome::Yes => Ok(Response::Flag { value: true }),
            Outcome::Created(file) => Ok(Response::Created {
                block: self.repeat_first_block(context, file.inode, request),
                status: Box::new(created_status(time_ms, *file)),
            }),
            Outcome::Block { inode, block, .. } => match request {
                Request::Append { writer_host, .. } => {
                    self.repeat_append(inode, block, writer_host)
                }
                _ => self.repeat_add_block(inode, block, request),
            },
            Outcome::Stamp(generation_stamp) => Ok(Response::NewStamp {
                generation_stamp,
                token: BlockToken::default(),
            }),
        }
    }

    pub(crate) fn checker<'a>(&'a self, caller: &'a Caller) -> Checker<'a> {
        Checker {
            tree: &self.state.tree,
            caller,
            enabled: self.config.permissions_enabled,
        }
    }

    /// The id the next inode gets.
    pub(crate) fn next_inode(&self) -> InodeId {
        InodeId(self.state.counters.inode.0 + 1)
    }

    /// The id the next block gets.
    pub(crate) fn next_block(&self) -> BlockId {
        BlockId(self.state.counters.block.0 + 1)
    }
}

/// A new file's status, from what its edit says.
pub(crate) fn created_status(time_ms: u64, file: CreatedFile) -> FileStatus {
    FileStatus {
        name: file.name,
        inode: file.inode,
        is_dir: false,
        length: 0,
        replication: file.replication,
        block_size: file.block_size,
        modified_ms: time_ms,
        accessed_ms: time_ms,
        permission: file.permission,
        owner: file.owner,
        group: file.group,
        children: 0,
        under_construction: true,
    }
}

pub(crate) fn unsupported(what: &str) -> Fault {
    Fault::new(
        FaultClass::Unsupported,
        format!("{what} is not supported by this version"),
    )
}

pub(crate) fn invalid(message: alloc::string::String) -> Fault {
    Fault::new(FaultClass::InvalidArgument, message)
}
