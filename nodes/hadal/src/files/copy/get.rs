//! `-get`: files and trees of the cluster onto the local disk.

use super::jobs::Jobs;
use super::local_path;
use super::local_writer::LocalWriter;
use super::progress::Progress;
use crate::files::failure::{At, Failure};
use crate::files::path::PathData;
use crate::files::shell::Shell;
use hadal_client::FileStatus;
use nix::unistd::{Group, User};
use std::ffi::OsString;
use std::fs::{File, FileTimes, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::spawn_blocking;

struct Get {
    shell: Arc<Shell>,
    overwrite: bool,
    preserve: bool,
    progress: Progress,
}

/// A directory of the cluster and where it goes.
struct Directory {
    source: PathData,
    local: PathBuf,
}

/// Runs the verb.
pub(crate) async fn run(shell: &Arc<Shell>) -> Result<(), Failure> {
    let (sources, written) = match &shell.args.args[..] {
        [only] => (std::slice::from_ref(only), "."),
        [sources @ .., last] => (sources, last.as_str()),
        [] => unreachable!("at least one argument"),
    };
    let threads = shell.threads()?;
    let get = Arc::new(Get {
        shell: Arc::clone(shell),
        overwrite: shell.args.has("f"),
        preserve: shell.args.has("p"),
        progress: Progress::new(&shell.console),
    });
    let sources = shell.existing(sources).await;
    if sources.is_empty() {
        return Ok(());
    }
    if written == "-" {
        for source in sources {
            get.settle(get.standard_output(&source).await);
        }
        return Ok(());
    }
    let destination = local_path(written);
    let into = is_directory(&destination)?;
    match into {
        None if sources.len() > 1 => return Err(Failure::not_found(written)),
        None if !parent_exists(&destination) => return Err(Failure::not_found(written)),
        Some(false) if sources.len() > 1 => return Err(Failure::not_directory(written)),
        Some(false) if !get.overwrite => return Err(Failure::exists(written)),
        _ => {}
    }
    let mut jobs = Jobs::new(threads);
    let mut directories = Vec::new();
    let mut made: Vec<(PathBuf, FileStatus)> = Vec::new();
    for source in sources {
        let local = match into {
            Some(true) => destination.join(source.name()),
            _ => destination.clone(),
        };
        if source.is_dir() {
            directories.push(Directory { source, local });
        } else {
            get.start(&mut jobs, source, local).await;
        }
    }
    while let Some(directory) = directories.pop() {
        if shell.is_over() {
            break;
        }
        let outcome = get.directory(&mut jobs, &mut directories, &directory).await;
        if outcome.is_ok()
            && let Some(status) = directory.source.status
        {
            made.push((directory.local, status));
        }
        get.settle(outcome);
    }
    jobs.finish().await;
    if get.preserve {
        // Times of directories last: the files in them change them.
        for (local, status) in made.into_iter().rev() {
            let outcome = File::open(&local).and_then(|opened| keep(&opened, &local, &status));
            get.settle(outcome.map_err(|error| Failure::local(&local, &error)));
        }
    }
    Ok(())
}

/// Whether a local path is a directory; `None` when there is nothing.
fn is_directory(path: &Path) -> Result<Option<bool>, Failure> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.is_dir())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::local(path, &error)),
    }
}

fn parent_exists(path: &Path) -> bool {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => true,
        Some(parent) => parent.is_dir(),
        None => true,
    }
}

/// The name a local file has until it is complete.
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push("._COPYING_");
    PathBuf::from(name)
}

/// Gives a local file times, owner and mode of its source.
fn keep(opened: &File, local: &Path, status: &FileStatus) -> io::Result<()> {
    let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
    opened.set_times(
        FileTimes::new()
            .set_modified(at(status.modified_ms))
            .set_accessed(at(status.accessed_ms)),
    )?;
    let user = User::from_name(&status.owner).ok().flatten();
    let group = Group::from_name(&status.group).ok().flatten();
    std::os::unix::fs::chown(
        local,
        user.map(|user| user.uid.as_raw()),
        group.map(|group| group.gid.as_raw()),
    )?;
    opened.set_permissions(Permissions::from_mode(u32::from(status.permission)))
}

impl Get {
    fn settle(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.progress.aside(|| self.shell.complain(&failure));
        }
    }

    async fn standard_output(&self, source: &PathData) -> Result<(), Failure> {
        if source.is_dir() {
            return Err(Failure::is_directory(&source.shown));
        }
        let mut file = self.shell.dfs.open(&source.path).await.at(&source.shown)?;
        while let Some(bytes) = file.read_chunk().await.at(&source.shown)? {
            self.shell.console.bytes(&bytes);
        }
        Ok(())
    }

    async fn directory(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        directories: &mut Vec<Directory>,
        directory: &Directory,
    ) -> Result<(), Failure> {
        let local = &directory.local;
        match is_directory(local)? {
            Some(true) => {}
            Some(false) => return Err(Failure::not_directory(&local.display().to_string())),
            None => {
                let made = tokio::fs::create_dir(local).await;
                made.map_err(|error| Failure::local(local, &error))?;
            }
        }
        for entry in self.shell.children(&directory.source).await? {
            if self.shell.is_over() {
                return Ok(());
            }
            let local = local.join(entry.name());
            match entry.is_dir() {
                true => directories.push(Directory {
                    source: entry,
                    local,
                }),
                false => self.start(jobs, entry, local).await,
            }
        }
        Ok(())
    }

    async fn start(self: &Arc<Self>, jobs: &mut Jobs, source: PathData, local: PathBuf) {
        let length = source.status.as_ref().map_or(0, |status| status.length);
        self.progress.expect(length);
        let get = Arc::clone(self);
        jobs.start(async move {
            if !get.shell.is_over() {
                get.settle(get.copy(&source, local).await);
                get.progress.file_done();
            }
        })
        .await;
    }

    async fn copy(&self, source: &PathData, local: PathBuf) -> Result<(), Failure> {
        if !self.overwrite && is_directory(&local)?.is_some() {
            return Err(Failure::exists(&local.display().to_string()));
        }
        let partial = temporary(&local);
        let outcome = self.download(source, &partial, &local).await;
        if outcome.is_err() {
            // It may not have been made at all.
            drop(std::fs::remove_file(&partial));
        }
        outcome
    }

    async fn download(
        &self,
        source: &PathData,
        partial: &Path,
        local: &Path,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::local(local, &error);
        let mut file = self.shell.dfs.open(&source.path).await.at(&source.shown)?;
        let mut writer = LocalWriter::new(partial.to_owned());
        while let Some(bytes) = file.read_chunk().await.at(&source.shown)? {
            self.progress.add(bytes.len());
            writer.write(bytes).await.map_err(failed)?;
        }
        let status = source.status.clone().filter(|_| self.preserve);
        let (partial, to) = (partial.to_owned(), local.to_owned());
        let written = writer.finish().await.map_err(failed)?;
        let named = spawn_blocking(move || {
            if let Some(status) = status {
                keep(&written, &partial, &status)?;
            }
            std::fs::rename(partial, to)
        });
        named
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_targets_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert_eq!(is_directory(dir.path()).unwrap(), Some(true));
        assert_eq!(is_directory(&file).unwrap(), Some(false));
        assert_eq!(is_directory(&dir.path().join("none")).unwrap(), None);
        assert!(parent_exists(Path::new("name")));
        assert!(parent_exists(&file));
        assert!(!parent_exists(&dir.path().join("none/name")));
        assert_eq!(temporary(Path::new("a/b")), Path::new("a/b._COPYING_"));
    }
}
