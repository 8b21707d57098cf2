//! What every verb works with: the file system, its arguments, and where its words go.

use super::failure::{At, Failure};
use super::glob;
use super::path::{PathData, join, name_of};
use super::verbs::{Verb, VerbArgs};
use crate::console::Console;
use futures_util::{Stream, stream};
use hadal_client::Dfs;
use hadal_daemon::Config;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Files worked on at once unless `-t` says otherwise.
const THREADS: usize = 16;
/// Files worked on at once at most.
const THREADS_MAX: usize = 1024;

/// One verb at work. Shared by its tasks.
pub(crate) struct Shell {
    pub(crate) dfs: Dfs,
    pub(crate) config: Config,
    /// The user of the certificate.
    pub(crate) user: String,
    pub(crate) console: Arc<Console>,
    pub(crate) args: VerbArgs,
    /// Bits taken away from new files and directories.
    pub(crate) umask: u16,
    failed: AtomicBool,
    fatal: AtomicBool,
    /// Files under their temporary names: removed when the command is interrupted.
    temporary: Mutex<BTreeSet<String>>,
    rows: Mutex<Vec<Value>>,
}

impl Shell {
    pub(crate) fn new(
        dfs: Dfs,
        config: Config,
        user: String,
        console: Arc<Console>,
        args: VerbArgs,
        umask: u16,
    ) -> Self {
        Self {
            dfs,
            config,
            user,
            console,
            args,
            umask,
            failed: AtomicBool::new(false),
            fatal: AtomicBool::new(false),
            temporary: Mutex::default(),
            rows: Mutex::default(),
        }
    }

    /// The verb at work.
    pub(crate) fn verb(&self) -> &'static Verb {
        self.args.verb
    }

    /// Where relative paths start.
    pub(crate) fn home(&self) -> String {
        format!("/user/{}", self.user)
    }

    /// Says what went wrong and remembers that something did.
    pub(crate) fn complain(&self, failure: &Failure) {
        self.failed.store(true, Ordering::Relaxed);
        // Once nothing can work any more, saying so once is enough.
        let told = failure.is_fatal() && self.fatal.swap(true, Ordering::Relaxed);
        if !told {
            self.console
                .error(format!("{}: {}", self.verb().name, failure.message()));
        }
    }

    /// Says what went wrong, if anything did.
    pub(crate) fn settle(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.complain(&failure);
        }
    }

    /// Whether going on is pointless.
    pub(crate) fn is_over(&self) -> bool {
        self.fatal.load(Ordering::Relaxed)
    }

    /// Makes the exit code 1 without a word.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// 0, or 1 when anything failed.
    pub(crate) fn exit_code(&self) -> i32 {
        i32::from(self.failed.load(Ordering::Relaxed))
    }

    /// A line of results.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        self.console.line(text);
    }

    /// An entry of the JSON answer.
    pub(crate) fn row(&self, value: Value) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.push(value);
    }

    /// The JSON answer.
    pub(crate) fn take_rows(&self) -> Value {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Value::Array(std::mem::take(&mut *rows))
    }

    /// Remembers a file that must not stay under this name.
    pub(crate) fn begin_temporary(&self, path: &str) {
        let mut temporary = self
            .temporary
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        temporary.insert(path.to_owned());
    }

    /// It has its name, or is gone.
    pub(crate) fn end_temporary(&self, path: &str) {
        let mut temporary = self
            .temporary
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        temporary.remove(path);
    }

    /// Removes what an interrupted command leaves behind, as well as it can.
    pub(crate) async fn remove_temporary(&self) {
        let left = {
            let mut temporary = self
                .temporary
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *temporary)
        };
        for path in left {
            if let Err(error) = self.dfs.delete(&path, false).await {
                self.console
                    .error(format!("could not remove {path}: {error}"));
            }
        }
    }

    /// Files to work on at once: `-t`, or the default.
    pub(crate) fn threads(&self) -> Result<usize, Failure> {
        let Some(text) = self.args.value("t") else {
            return Ok(THREADS);
        };
        text.parse()
            .ok()
            .filter(|count| (1..=THREADS_MAX).contains(count))
            .ok_or_else(|| {
                Failure::Usage(format!(
                    "-t takes a number from 1 to {THREADS_MAX}, not `{text}'"
                ))
            })
    }

    /// The path of an argument with what is there; patterns are not looked at.
    pub(crate) async fn look(&self, written: &str) -> Result<PathData, Failure> {
        self.refresh(PathData::new(written, &self.home())?).await
    }

    /// `path` with what is there now.
    pub(crate) async fn refresh(&self, path: PathData) -> Result<PathData, Failure> {
        let status = match self.dfs.try_file_status(&path.path).await.at(&path.shown) {
            Err(failure) if failure.is_not_found() => None,
            other => other?,
        };
        Ok(PathData { status, ..path })
    }

    /// What an argument stands for: the paths that fit a pattern in order, or the path itself, there or not.
    pub(crate) async fn expand(&self, written: &str) -> Result<Vec<PathData>, Failure> {
        if !glob::is_pattern(written) {
            return Ok(vec![self.look(&glob::unescape(written)).await?]);
        }
        let mut found = Vec::new();
        for pattern in glob::spell_out(written).map_err(Failure::Told)? {
            found.extend(self.expand_pattern(&pattern).await?);
        }
        if found.is_empty() {
            return Err(Failure::not_found(written));
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        Ok(found)
    }

    async fn expand_pattern(&self, pattern: &str) -> Result<Vec<PathData>, Failure> {
        // What stands before the first component with a pattern is taken as it is.
        let first = pattern
            .split_inclusive('/')
            .take_while(|component| !glob::is_pattern(component))
            .map(str::len)
            .sum();
        let (fixed, rest) = pattern.split_at(first);
        let start = match fixed {
            "" => PathData::new(".", &self.home())?,
            _ => PathData::new(&glob::unescape(fixed), &self.home())?,
        };
        let start = self.refresh(start).await?;
        let mut level: Vec<PathData> = start
            .status
            .is_some()
            .then_some(start)
            .into_iter()
            .collect();
        let components: Vec<&str> = rest.split('/').filter(|name| !name.is_empty()).collect();
        for (at, component) in components.iter().enumerate() {
            let is_last = at + 1 == components.len();
            let mut next = Vec::new();
            if glob::is_pattern(component) {
                let compiled = glob::Pattern::new(component).map_err(Failure::Told)?;
                for directory in level {
                    let entries = match self.children(&directory).await {
                        Err(failure) if failure.is_not_found() => continue,
                        entries => entries?,
                    };
                    next.extend(entries.into_iter().filter(|entry| {
                        compiled.matches(entry.name()) && (is_last || entry.is_dir())
                    }));
                }
            } else {
                for directory in level {
                    let child = directory.child(&glob::unescape(component));
                    let child = self.refresh(child).await?;
                    if child.status.is_some() {
                        next.push(child);
                    }
                }
            }
            level = next;
        }
        Ok(level)
    }

    /// The entries of a directory in name order; none of a file.
    pub(crate) async fn children(&self, directory: &PathData) -> Result<Vec<PathData>, Failure> {
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let entries = self.dfs.list(&directory.path).await.at(&directory.shown)?;
        let named = entries.into_iter().filter(|entry| is_name(&entry.name));
        Ok(named.map(|entry| directory.entry(entry)).collect())
    }

    /// All paths the arguments stand for; arguments that fail are told.
    pub(crate) async fn expand_all(&self, arguments: &[String]) -> Vec<PathData> {
        let mut all = Vec::new();
        for argument in arguments {
            if self.is_over() {
                break;
            }
            match self.expand(argument).await {
                Ok(paths) => all.extend(paths),
                Err(failure) => self.complain(&failure),
            }
        }
        all
    }

    /// As [`Shell::expand_all`], but what is not there is told, too.
    pub(crate) async fn existing(&self, arguments: &[String]) -> Vec<PathData> {
        let mut all = self.expand_all(arguments).await;
        all.retain(|path| match path.require() {
            Ok(_) => true,
            Err(failure) => {
                self.complain(&failure);
                false
            }
        });
        all
    }
}

/// A path and everything below it, parents first, in name order.
struct Walk {
    left: Vec<PathData>,
}

impl Walk {
    /// The next path. A directory's entries are listed before it is handed out. What cannot be listed is told.
    async fn next(&mut self, shell: &Shell) -> Option<PathData> {
        if shell.is_over() {
            return None;
        }
        let path = self.left.pop()?;
        match shell.children(&path).await {
            Ok(children) => self.left.extend(children.into_iter().rev()),
            Err(failure) => shell.complain(&failure),
        }
        Some(path)
    }
}

/// `tops`, and with `recursive` everything below them.
pub(crate) fn paths(
    shell: &Shell,
    tops: Vec<PathData>,
    recursive: bool,
) -> impl Stream<Item = PathData> {
    let left = tops.into_iter().rev().collect();
    stream::unfold(Walk { left }, move |mut walk| async move {
        let path = match recursive {
            true => walk.next(shell).await?,
            false if shell.is_over() => return None,
            false => walk.left.pop()?,
        };
        Some((path, walk))
    })
}

/// Whether a name from the NameNode is one component: it becomes part of local paths.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The name a file has until it is complete, HDFS's.
pub(crate) fn temporary_name(path: &str) -> String {
    let (directory, name) = (super::path::parent_of(path).unwrap_or("/"), name_of(path));
    join(directory, &format!("{name}._COPYING_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_directory_are_no_names() {
        assert!(is_name("a") && is_name("..a") && is_name("a b"));
        for bad in ["", ".", "..", "a/b", "/a", "a\0"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn temporary_names_are_hdfs_s() {
        assert_eq!(temporary_name("/a/b"), "/a/b._COPYING_");
        assert_eq!(temporary_name("/b"), "/b._COPYING_");
    }
}
