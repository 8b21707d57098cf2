//! rename: HDFS's rename2.

use super::invalid;
use crate::namesystem::{Context, Namesystem};
use crate::path::Resolved;
use crate::permission::{Access, WRITE};
use alloc::format;
use alloc::string::ToString;
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;
use hadal_proto::{Fault, FaultClass};

impl Namesystem {
    pub(super) fn rename(
        &mut self,
        context: Context<'_>,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<Response, Fault> {
        let op = self.check_rename(context, from, to, overwrite)?;
        self.edit(context, op);
        Ok(Response::Done)
    }

    fn check_rename(
        &self,
        context: Context<'_>,
        from: &str,
        to: &str,
        overwrite: bool,
    ) -> Result<EditOp, Fault> {
        let tree = &self.state.tree;
        let checker = self.checker(context.caller);
        let (source, target) = (Resolved::new(tree, from)?, Resolved::new(tree, to)?);
        checker.check(
            &source,
            Access {
                parent: WRITE,
                ..Access::default()
            },
        )?;
        checker.check(
            &target,
            Access {
                ancestor: WRITE,
                ..Access::default()
            },
        )?;
        let Some(moved) = source.target() else {
            return Err(Fault::new(
                FaultClass::NotFound,
                format!("rename source {from} is not found."),
            ));
        };
        if source.is_root() {
            return Err(invalid("rename source cannot be the root".to_string()));
        }
        if target.is_root() {
            return Err(invalid("rename destination cannot be the root".to_string()));
        }
        if from == to {
            return Err(Fault::new(
                FaultClass::AlreadyExists,
                format!("The source {from} and destination {to} are the same"),
            ));
        }
        if to
            .strip_prefix(from)
            .is_some_and(|rest| rest.starts_with('/'))
        {
            return Err(invalid(format!(
                "Rename destination {to} is a directory or file under source {from}"
            )));
        }
        let Some(parent) = target.parent() else {
            return Err(Fault::new(
                FaultClass::NotFound,
                format!("rename destination parent {to} not found."),
            ));
        };
        if !parent.inode.is_dir() {
            return Err(Fault::new(
                FaultClass::ParentNotDirectory,
                format!("rename destination parent {to} is a file."),
            ));
        }
        if let Some(existing) = target.target() {
            if existing.inode.is_dir() != moved.inode.is_dir() {
                return Err(invalid(format!(
                    "Source {from} and destination {to} must both be directories"
                )));
            }
            if !overwrite {
                return Err(Fault::new(
                    FaultClass::AlreadyExists,
                    format!("rename destination {to} already exists"),
                ));
            }
            if existing.inode.child_count() > 0 {
                return Err(Fault::new(
                    FaultClass::NotEmpty,
                    format!("rename cannot overwrite non empty destination directory {to}"),
                ));
            }
            // HDFS forgets the sticky bit here; replacing is removing.
            checker.check(
                &target,
                Access {
                    parent: WRITE,
                    ..Access::default()
                },
            )?;
        }
        Ok(EditOp::Rename {
            inode: moved.id,
            to_parent: parent.id,
            to_name: target.name().to_string(),
            replaced: target.target().map(|existing| existing.id),
        })
    }
}
