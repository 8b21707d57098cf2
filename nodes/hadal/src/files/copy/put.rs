//! `-put`: local files and trees into the cluster.

use super::jobs::Jobs;
use super::local_path;
use super::local_reader::LocalReader;
use super::progress::Progress;
use super::target_file::{Attributes, Manner, TargetFile};
use crate::files::failure::{At, Failure};
use crate::files::namespace::{destination, target_of};
use crate::files::path::PathData;
use crate::files::shell::Shell;
use crate::session;
use hadal_client::CreateOptions;
use nix::unistd::{Gid, Group, Uid, User};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::spawn_blocking;

/// A local directory and where it goes.
struct Directory {
    local: PathBuf,
    target: PathData,
    /// Device and inode of the directories above it: a link back to one of them is a loop.
    above: Vec<(u64, u64)>,
}

/// What the directory holds, as far as it can be copied.
struct Entry {
    local: PathBuf,
    name: String,
    metadata: Metadata,
}

struct Put {
    shell: Arc<Shell>,
    manner: Manner,
    options: CreateOptions,
    progress: Progress,
    /// Attributes of directories, given once their files are there: those change the times.
    kept: Mutex<Vec<(PathData, Attributes)>>,
}

/// Runs the verb.
pub(crate) async fn run(shell: &Arc<Shell>) -> Result<(), Failure> {
    let (sources, written) = match &shell.args.args[..] {
        [only] => (std::slice::from_ref(only), "."),
        [sources @ .., last] => (sources, last.as_str()),
        [] => unreachable!("at least one argument"),
    };
    let threads = shell.threads()?;
    let manner = Manner {
        overwrite: shell.args.has("f"),
        direct: shell.args.has("d"),
        preserve: shell.args.has("p"),
    };
    let mut options = session::create_options(&shell.config, 0o666 & !shell.umask);
    if shell.args.has("l") {
        options.replication = Some(1);
    }
    let put = Arc::new(Put {
        shell: Arc::clone(shell),
        manner,
        options,
        progress: Progress::new(&shell.console),
        kept: Mutex::default(),
    });
    let destination = destination(shell, written, sources.len(), manner.overwrite).await?;
    let mut jobs = Jobs::new(threads);
    let mut directories = Vec::new();
    for source in sources {
        let outcome = match source.as_str() {
            "-" => put.standard_input(&destination).await,
            _ => {
                let local = local_path(source);
                put.top(&mut jobs, &mut directories, local, &destination)
                    .await
            }
        };
        put.settle(outcome);
    }
    while let Some(directory) = directories.pop() {
        if shell.is_over() {
            break;
        }
        let outcome = put.directory(&mut jobs, &mut directories, directory).await;
        put.settle(outcome);
    }
    jobs.finish().await;
    let kept = std::mem::take(&mut *put.kept.lock().unwrap_or_else(PoisonError::into_inner));
    for (directory, attributes) in kept.into_iter().rev() {
        if shell.is_over() {
            break;
        }
        put.settle(attributes.apply(shell, &directory).await);
    }
    Ok(())
}

impl Put {
    fn settle(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.progress.aside(|| self.shell.complain(&failure));
        }
    }

    async fn standard_input(&self, destination: &PathData) -> Result<(), Failure> {
        if destination.is_dir() {
            return Err(Failure::exists(&destination.shown));
        }
        self.copy(LocalReader::standard_input(), Path::new("-"), destination)
            .await
    }

    /// One source of the command line.
    async fn top(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        directories: &mut Vec<Directory>,
        local: PathBuf,
        destination: &PathData,
    ) -> Result<(), Failure> {
        let metadata = tokio::fs::metadata(&local)
            .await
            .map_err(|error| Failure::local(&local, &error))?;
        let named = match local.file_name() {
            Some(_) => local.clone(),
            None => local
                .canonicalize()
                .map_err(|error| Failure::local(&local, &error))?,
        };
        let name = match named.file_name() {
            Some(name) => name.to_str().ok_or_else(|| Failure::not_utf8(&local))?,
            None => "",
        };
        let target = match name {
            "" => destination.clone(),
            _ => target_of(destination, name),
        };
        if metadata.is_dir() {
            directories.push(Directory {
                local,
                target,
                above: vec![(metadata.dev(), metadata.ino())],
            });
            return Ok(());
        }
        let target = self.shell.refresh(target).await?;
        if target.is_dir() {
            return Err(Failure::is_directory(&target.shown));
        }
        if target.status.is_some() && !self.manner.overwrite {
            return Err(Failure::exists(&target.shown));
        }
        self.start(jobs, local, &metadata, target).await
    }

    async fn start(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        local: PathBuf,
        metadata: &Metadata,
        target: PathData,
    ) -> Result<(), Failure> {
        if !metadata.is_file() {
            return Err(Failure::Told(format!(
                "`{}': neither a file nor a directory",
                local.display()
            )));
        }
        self.progress.expect(metadata.len());
        let put = Arc::clone(self);
        jobs.start(async move {
            if put.shell.is_over() {
                return;
            }
            let outcome = async {
                let reader = LocalReader::open(local.clone())
                    .await
                    .map_err(|error| Failure::local(&local, &error))?;
                put.copy(reader, &local, &target).await
            };
            put.settle(outcome.await);
            put.progress.file_done();
        })
        .await;
        Ok(())
    }

    async fn copy(
        &self,
        mut reader: LocalReader,
        local: &Path,
        target: &PathData,
    ) -> Result<(), Failure> {
        let kept = reader.metadata.as_ref().filter(|_| self.manner.preserve);
        let kept = kept.map(attributes);
        let mut options = self.options.clone();
        if let Some(kept) = &kept {
            options.permission = kept.permission;
        }
        // What standard input brings, and when, is not known.
        options.first_block = reader.metadata.as_ref().is_some_and(|it| it.len() > 0);
        let mut file = TargetFile::create(&self.shell, target, self.manner, options).await?;
        let outcome = async {
            while let Some(bytes) = reader
                .next()
                .await
                .map_err(|error| Failure::local(local, &error))?
            {
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
            Some(kept) => kept.apply(&self.shell, target).await,
            None => Ok(()),
        }
    }

    /// Makes a directory, starts the copies of its files and remembers the directories in it.
    async fn directory(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        directories: &mut Vec<Directory>,
        directory: Directory,
    ) -> Result<(), Failure> {
        let shell = &self.shell;
        let target = shell.refresh(directory.target.clone()).await?;
        let known = match &target.status {
            Some(status) if !status.is_dir => {
                return Err(Failure::not_directory(&target.shown));
            }
            Some(_) => true,
            None => {
                let made = shell
                    .dfs
                    .mkdirs(&target.path, 0o777 & !shell.umask, false)
                    .await;
                made.at(&target.shown)?;
                false
            }
        };
        let local = directory.local.clone();
        let entries = spawn_blocking(move || read_directory(&local))
            .await
            .map_err(|error| Failure::Told(error.to_string()))?
            .map_err(|error| Failure::local(&directory.local, &error))?;
        // Names in the target that are taken; asked for once, not per file.
        let taken: std::collections::BTreeSet<String> = match known && !self.manner.overwrite {
            true => {
                let children = shell.children(&target).await?;
                children
                    .iter()
                    .map(|child| child.name().to_owned())
                    .collect()
            }
            false => Default::default(),
        };
        for entry in entries {
            if shell.is_over() {
                return Ok(());
            }
            let outcome = match entry {
                Err(failure) => Err(failure),
                Ok(entry) if entry.metadata.is_dir() => {
                    let own = (entry.metadata.dev(), entry.metadata.ino());
                    match directory.above.contains(&own) {
                        true => Err(Failure::Told(format!(
                            "`{}': leads back to a directory above it",
                            entry.local.display()
                        ))),
                        false => {
                            let mut above = directory.above.clone();
                            above.push(own);
                            directories.push(Directory {
                                local: entry.local,
                                target: target.child(&entry.name),
                                above,
                            });
                            Ok(())
                        }
                    }
                }
                Ok(entry) if taken.contains(&entry.name) => {
                    Err(Failure::exists(&target.child(&entry.name).shown))
                }
                Ok(entry) => {
                    let child = target.child(&entry.name);
                    self.start(jobs, entry.local, &entry.metadata, child).await
                }
            };
            self.settle(outcome);
        }
        if self.manner.preserve {
            let metadata = tokio::fs::metadata(&directory.local)
                .await
                .map_err(|error| Failure::local(&directory.local, &error))?;
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push((target, attributes(&metadata)));
        }
        Ok(())
    }
}

/// The entries of a directory in name order. Links are followed.
fn read_directory(directory: &Path) -> io::Result<Vec<Result<Entry, Failure>>> {
    let mut locals = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    locals.sort();
    let entry = |local: PathBuf| {
        let name = local.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::not_utf8(&local))?.to_owned();
        let metadata = std::fs::metadata(&local).map_err(|error| Failure::local(&local, &error))?;
        Ok(Entry {
            local,
            name,
            metadata,
        })
    };
    Ok(locals.into_iter().map(entry).collect())
}

fn attributes(metadata: &Metadata) -> Attributes {
    let ms = |seconds: i64, nanos: i64| {
        let ms = seconds
            .saturating_mul(1000)
            .saturating_add(nanos / 1_000_000);
        u64::try_from(ms).unwrap_or(0)
    };
    let user = User::from_uid(Uid::from_raw(metadata.uid()));
    let group = Group::from_gid(Gid::from_raw(metadata.gid()));
    Attributes {
        permission: u16::try_from(metadata.mode() & 0o1777).expect("ten bits"),
        owner: user.ok().flatten().map(|user| user.name),
        group: group.ok().flatten().map(|group| group.name),
        modified_ms: ms(metadata.mtime(), metadata.mtime_nsec()),
        accessed_ms: ms(metadata.atime(), metadata.atime_nsec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_that_are_not_utf8_are_told_and_the_others_copied() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("good"), b"x").unwrap();
        std::fs::write(dir.path().join(OsStr::from_bytes(b"bad\xff")), b"x").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        let entries = read_directory(dir.path()).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = entries.into_iter().partition(Result::is_ok);
        let names: Vec<String> = good.into_iter().map(|entry| entry.unwrap().name).collect();
        assert_eq!(names, ["good"]);
        let messages: Vec<String> = bad
            .into_iter()
            .map(|entry| entry.err().unwrap().message())
            .collect();
        assert!(messages.iter().any(|m| m.contains("not valid UTF-8")));
        assert!(messages.iter().any(|m| m.contains("No such file")));
    }
}
