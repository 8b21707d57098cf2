//! `-cp`: files and trees from one place of the cluster to another.

use super::jobs::Jobs;
use super::progress::Progress;
use super::target_file::{Attributes, Manner, TargetFile};
use crate::files::failure::{At, Failure};
use crate::files::namespace::{destination, target_of};
use crate::files::path::PathData;
use crate::files::shell::Shell;
use crate::session;
use hadal_client::FileStatus;
use std::sync::Arc;

struct Copy {
    shell: Arc<Shell>,
    manner: Manner,
    progress: Progress,
}

/// Runs the verb.
pub(crate) async fn run(shell: &Arc<Shell>) -> Result<(), Failure> {
    let (last, sources) = shell
        .args
        .args
        .split_last()
        .expect("at least two arguments");
    let threads = shell.threads()?;
    let copy = Arc::new(Copy {
        shell: Arc::clone(shell),
        manner: Manner {
            overwrite: shell.args.has("f"),
            direct: shell.args.has("d"),
            preserve: shell.args.has("p"),
        },
        progress: Progress::new(&shell.console),
    });
    let sources = shell.existing(sources).await;
    if sources.is_empty() {
        return Ok(());
    }
    let destination = destination(shell, last, sources.len(), copy.manner.overwrite).await?;
    let mut jobs = Jobs::new(threads);
    let mut directories = Vec::new();
    let mut kept = Vec::new();
    for source in sources {
        let target = target_of(&destination, source.name());
        let outcome = match check_apart(&source, &target) {
            Err(failure) => Err(failure),
            Ok(()) if source.is_dir() => {
                directories.push((source, target));
                Ok(())
            }
            Ok(()) => copy.file(&mut jobs, source, target).await,
        };
        copy.settle(outcome);
    }
    while let Some((source, target)) = directories.pop() {
        if shell.is_over() {
            break;
        }
        let outcome = copy
            .directory(&mut jobs, &mut directories, &source, &target)
            .await;
        if outcome.is_ok()
            && let Some(status) = source.status
        {
            kept.push((target, status));
        }
        copy.settle(outcome);
    }
    jobs.finish().await;
    if copy.manner.preserve && !shell.is_over() {
        for (target, status) in kept.into_iter().rev() {
            copy.settle(attributes(&status).apply(shell, &target).await);
        }
    }
    Ok(())
}

/// FsShell refuses to copy something onto or into itself.
fn check_apart(source: &PathData, target: &PathData) -> Result<(), Failure> {
    let told = |what: &str| {
        Err(Failure::Told(format!(
            "`{}' to `{}': {what}",
            source.shown, target.shown
        )))
    };
    if source.path == target.path {
        return told("are identical");
    }
    let below = match source.path.as_str() {
        "/" => "/".to_owned(),
        path => format!("{path}/"),
    };
    match source.is_dir() && target.path.starts_with(&below) {
        true => told("is a subdirectory of itself"),
        false => Ok(()),
    }
}

fn attributes(status: &FileStatus) -> Attributes {
    Attributes {
        permission: status.permission,
        owner: Some(status.owner.clone()),
        group: Some(status.group.clone()),
        modified_ms: status.modified_ms,
        accessed_ms: status.accessed_ms,
    }
}

impl Copy {
    fn settle(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.progress.aside(|| self.shell.complain(&failure));
        }
    }

    async fn directory(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        directories: &mut Vec<(PathData, PathData)>,
        source: &PathData,
        target: &PathData,
    ) -> Result<(), Failure> {
        let shell = &self.shell;
        let entries = shell.children(source).await?;
        let target = shell.refresh(target.clone()).await?;
        match &target.status {
            Some(status) if !status.is_dir => return Err(Failure::not_directory(&target.shown)),
            Some(_) => {}
            None => {
                let bits = 0o777 & !shell.umask;
                let made = shell.dfs.mkdirs(&target.path, bits, false).await;
                made.at(&target.shown)?;
            }
        }
        for entry in entries {
            if shell.is_over() {
                return Ok(());
            }
            let child = target.child(entry.name());
            match entry.is_dir() {
                true => directories.push((entry, child)),
                false => {
                    let outcome = self.file(jobs, entry, child).await;
                    self.settle(outcome);
                }
            }
        }
        Ok(())
    }

    async fn file(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        source: PathData,
        target: PathData,
    ) -> Result<(), Failure> {
        self.progress.expect(source.require()?.length);
        let copy = Arc::clone(self);
        jobs.start(async move {
            if !copy.shell.is_over() {
                copy.settle(copy.content(&source, target).await);
                copy.progress.file_done();
            }
        })
        .await;
        Ok(())
    }

    async fn content(&self, source: &PathData, target: PathData) -> Result<(), Failure> {
        let shell = &self.shell;
        let target = &shell.refresh(target).await?;
        if target.is_dir() {
            return Err(Failure::is_directory(&target.shown));
        }
        if target.status.is_some() && !self.manner.overwrite {
            return Err(Failure::exists(&target.shown));
        }
        let kept = self
            .manner
            .preserve
            .then(|| source.require().map(attributes));
        let kept = kept.transpose()?;
        let permission = kept
            .as_ref()
            .map_or(0o666 & !shell.umask, |kept| kept.permission);
        let mut options = session::create_options(&shell.config, permission);
        let mut reader = shell.dfs.open(&source.path).await.at(&source.shown)?;
        options.first_block = reader.length() > 0;
        let mut file = TargetFile::create(shell, target, self.manner, options).await?;
        let outcome = async {
            while let Some(bytes) = reader.read_chunk().await.at(&source.shown)? {
                self.progress.add(bytes.len());
                file.write(bytes).await?;
            }
            Ok(())
        };
        if let Err(failure) = outcome.await {
            file.discard().await;
            return Err(failure);
        }
        file.finish().await?;
        match kept {
            Some(kept) => kept.apply(shell, target).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::InodeId;

    fn path(path: &str, is_dir: bool) -> PathData {
        PathData {
            shown: path.into(),
            path: path.into(),
            status: Some(FileStatus {
                name: String::new(),
                inode: InodeId(1),
                is_dir,
                length: 0,
                replication: 0,
                block_size: 0,
                modified_ms: 0,
                accessed_ms: 0,
                permission: 0,
                owner: String::new(),
                group: String::new(),
                children: 0,
                under_construction: false,
            }),
        }
    }

    #[test]
    fn nothing_is_copied_into_itself() {
        let message = |source: &PathData, target: &str| {
            check_apart(source, &path(target, true)).map_err(|failure| failure.message())
        };
        let directory = path("/a", true);
        assert_eq!(
            message(&directory, "/a").unwrap_err(),
            "`/a' to `/a': are identical"
        );
        assert_eq!(
            message(&directory, "/a/b").unwrap_err(),
            "`/a' to `/a/b': is a subdirectory of itself"
        );
        assert!(message(&directory, "/ab").is_ok());
        assert!(message(&path("/a", false), "/a/b").is_ok());
        assert!(message(&path("/", true), "/b").is_err());
    }
}
