//! concat: HDFS's `FSDirConcatOp`, blocks change hands and no byte moves.

use super::invalid;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{Access, READ, WRITE};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use hadal_proto::Fault;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;

impl Namesystem {
    pub(super) fn concat(
        &mut self,
        context: Context<'_>,
        target: &str,
        sources: &[String],
    ) -> Result<Response, Fault> {
        let op = self.check_concat(context, target, sources)?;
        self.edit(context, op);
        Ok(Response::Done)
    }

    fn check_concat(
        &self,
        context: Context<'_>,
        target: &str,
        sources: &[String],
    ) -> Result<EditOp, Fault> {
        if target.is_empty() {
            return Err(invalid("Target file name is empty".to_string()));
        }
        if sources.is_empty() {
            return Err(invalid("No sources given".to_string()));
        }
        let tree = &self.state.tree;
        let checker = self.checker(context.caller);
        let resolved = Resolved::new(tree, target)?;
        checker.check(
            &resolved,
            Access {
                target: WRITE,
                ..Access::default()
            },
        )?;
        let joined = resolved.require_file()?;
        let into = joined.inode.file().expect("required to be a file");
        if into.is_open {
            return Err(invalid(format!(
                "concat: target file {target} is under construction"
            )));
        }
        let parent = joined.inode.parent();
        let mut blocks = into.blocks.len();
        let mut seen = BTreeSet::new();
        let mut inodes = Vec::with_capacity(sources.len());
        for source in sources {
            let resolved = Resolved::new(tree, source)?;
            // Its bytes become readable under another name, and its own name goes.
            checker.check(
                &resolved,
                Access {
                    parent: WRITE,
                    target: READ,
                    ..Access::default()
                },
            )?;
            let entry = resolved.require_file()?;
            let file = entry.inode.file().expect("required to be a file");
            if entry.inode.parent() != parent {
                return Err(invalid(format!(
                    "Source file {source} is not in the same directory with the target {target}"
                )));
            }
            if entry.id == joined.id {
                return Err(invalid(format!(
                    "concat: the src file {source} is the same with the target file {target}"
                )));
            }
            if file.is_open || file.blocks.len() == 0 {
                return Err(invalid(format!(
                    "concat: source file {source} is invalid or empty or underConstruction"
                )));
            }
            let (theirs, ours) = (file.block_size, into.block_size);
            if theirs > ours {
                return Err(invalid(format!(
                    "concat: source file {source} has preferred block size {theirs} which is greater than the target \
                     file's preferred block size {ours}"
                )));
            }
            if !seen.insert(entry.id) {
                return Err(invalid(
                    "concat: at least two of the source files are the same".to_string(),
                ));
            }
            blocks += file.blocks.len();
            inodes.push(entry.id);
        }
        if blocks > self.config.max_blocks_per_file {
            return Err(invalid(format!(
                "concat: {target} would have {blocks} blocks, over the limit on maximum number of blocks \
                 (dfs.namenode.fs-limits.max-blocks-per-file): {}",
                self.config.max_blocks_per_file
            )));
        }
        Ok(EditOp::Concat {
            target: joined.id,
            sources: inodes,
        })
    }
}
