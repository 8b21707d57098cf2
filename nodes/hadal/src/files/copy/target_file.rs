//! A file of the cluster being written: under a temporary name until it is complete, as HDFS's shell does.

use crate::files::failure::{At, Failure};
use crate::files::path::PathData;
use crate::files::shell::{Shell, temporary_name};
use bytes::Bytes;
use hadal_client::{CreateOptions, DfsOutputStream, TokioSeam};

/// How files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manner {
    /// Replace what is there.
    pub(super) overwrite: bool,
    /// Without a temporary name.
    pub(super) direct: bool,
    /// Keep times, owner and mode.
    pub(super) preserve: bool,
}

/// What is kept of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attributes {
    pub(super) permission: u16,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) modified_ms: u64,
    pub(super) accessed_ms: u64,
}

impl Attributes {
    /// Gives them to a file or directory. The permission bits are set again: a directory's may be cut by the
    /// umask.
    pub(super) async fn apply(&self, shell: &Shell, target: &PathData) -> Result<(), Failure> {
        let dfs = &shell.dfs;
        dfs.set_times(&target.path, Some(self.modified_ms), Some(self.accessed_ms))
            .await
            .at(&target.shown)?;
        dfs.set_owner(&target.path, self.owner.as_deref(), self.group.as_deref())
            .await
            .at(&target.shown)?;
        dfs.set_permission(&target.path, self.permission)
            .await
            .at(&target.shown)
    }
}

/// The file.
pub(super) struct TargetFile<'a> {
    shell: &'a Shell,
    stream: DfsOutputStream<TokioSeam>,
    target: &'a PathData,
    /// Where it is until it is complete.
    written: String,
    manner: Manner,
}

impl<'a> TargetFile<'a> {
    /// Creates it.
    pub(super) async fn create(
        shell: &'a Shell,
        target: &'a PathData,
        manner: Manner,
        mut options: CreateOptions,
    ) -> Result<Self, Failure> {
        let written = match manner.direct {
            true => target.path.clone(),
            false => temporary_name(&target.path),
        };
        // What a killed command left under the temporary name is in the way of nobody.
        options.overwrite = manner.overwrite || !manner.direct;
        let temporary = written != target.path;
        if temporary {
            shell.begin_temporary(&written);
        }
        match shell.dfs.create(&written, &options).await {
            Ok(stream) => Ok(Self {
                shell,
                stream,
                target,
                written,
                manner,
            }),
            Err(error) => {
                shell.end_temporary(&written);
                Err(error).at(&target.shown)
            }
        }
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.stream.write_bytes(bytes).await.at(&self.target.shown)
    }

    /// Completes it and gives it its name.
    pub(super) async fn finish(mut self) -> Result<(), Failure> {
        let outcome = async {
            self.stream.close().await.at(&self.target.shown)?;
            if self.written == self.target.path {
                return Ok(());
            }
            let (from, to) = (&self.written, &self.target.path);
            self.shell
                .dfs
                .rename(from, to, self.manner.overwrite)
                .await
                .at(&self.target.shown)
        };
        match outcome.await {
            Ok(()) => {
                self.shell.end_temporary(&self.written);
                Ok(())
            }
            Err(failure) => {
                self.discard().await;
                Err(failure)
            }
        }
    }

    /// Removes it: it will not be completed.
    pub(super) async fn discard(self) {
        let Self {
            shell,
            stream,
            written,
            ..
        } = self;
        drop(stream);
        if let Err(error) = shell.dfs.delete(&written, false).await {
            tracing::warn!("could not remove {written}: {error}");
        }
        shell.end_temporary(&written);
    }
}
