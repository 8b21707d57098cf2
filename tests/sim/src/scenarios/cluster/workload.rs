//! What a client does: seeded operations on its own directory, and races in one shared by all.

mod abandoned;

use super::durability::Witness;
use super::model::{File, Tree, content};
use super::nodes::{BLOCK_BYTES, Dfs, wait_ms};
use super::{Ctx, Operation};
use crate::env::SimEnv;
use crate::report::Promise;
use crate::rng::Rng;
use hadal_client::{ClientError, CreateOptions, FaultClass};
use std::cell::{Ref, RefMut};
use std::time::Duration;

/// Largest file.
const FILE_BYTES_MAX: u64 = 200 << 10;
/// Where all clients meet.
pub(super) const SHARED: &str = "/shared";
/// Clients use the same names in this directory for so long; each has a token there to be renamed.
pub(super) const RACE_EVERY: Duration = Duration::from_secs(5);

/// Where nobody but the superuser may look.
pub(super) const VAULT: &str = "/vault";
/// A client is busy all the time in a run of up to so long.
pub(super) const BUSY_TIME: Duration = Duration::from_secs(120);
/// In a longer one for about so much of it in sum: pauses are what it is for, with leases, timers and faults that strike
/// an idle cluster. About 900 operations remain, four times what the goals ask for.
const LONG_BUSY_TIME: Duration = Duration::from_secs(60);

/// When a client works: busy and quiet spells.
pub(super) struct Pace {
    rng: Rng,
    /// Quiet time per busy time, in percent.
    quiet_percent: u64,
    busy: bool,
    until: Duration,
}

impl Pace {
    /// For a run of that length.
    pub(super) fn new(duration: Duration, rng: Rng) -> Self {
        let busy = if duration <= BUSY_TIME {
            duration
        } else {
            LONG_BUSY_TIME
        };
        let quiet = (duration - busy).as_millis();
        Self {
            rng,
            quiet_percent: (quiet * 100 / LONG_BUSY_TIME.as_millis()) as u64,
            busy: false,
            until: Duration::ZERO,
        }
    }

    /// Milliseconds until the next operation.
    fn wait_ms(&mut self, now: Duration) -> u64 {
        if now >= self.until {
            self.busy = !self.busy || self.quiet_percent == 0;
            let spell = self.rng.range(2_000, 20_000);
            let spell = if self.busy {
                spell
            } else {
                spell * self.quiet_percent / 100
            };
            self.until = now + Duration::from_millis(spell);
        }
        if self.busy {
            self.rng.below(400)
        } else {
            self.rng.range(2_000, 10_000)
        }
    }
}

type Stream = hadal_client::DfsOutputStream<SimEnv>;

/// Why an operation has no definite result.
#[derive(Debug)]
enum Failed {
    /// It may have taken effect, or may still do so.
    Unknown,
    /// It was refused for what the namespace holds.
    Refused(FaultClass, String),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        use FaultClass::{
            AccessDenied, AlreadyBeingCreated, AlreadyExists, InvalidArgument, IsDirectory,
            NotEmpty, NotFound, ParentNotDirectory,
        };
        match error.class() {
            Some(
                class @ (NotFound | AlreadyExists | AccessDenied | ParentNotDirectory | IsDirectory
                | NotEmpty | InvalidArgument | AlreadyBeingCreated),
            ) => Self::Refused(class, error.to_string()),
            _ => Self::Unknown,
        }
    }
}

/// A client and what it knows.
pub(super) struct Client {
    ctx: Ctx,
    dfs: Dfs,
    env: SimEnv,
    index: usize,
    pace: Pace,
    rng: Rng,
    next: u64,
}

impl Client {
    pub(super) fn new(ctx: Ctx, dfs: Dfs, env: SimEnv, index: usize, pace: Pace, rng: Rng) -> Self {
        Self {
            ctx,
            dfs,
            env,
            index,
            pace,
            rng,
            next: 0,
        }
    }

    fn tree(&self) -> Ref<'_, Tree> {
        Ref::map(self.ctx.trees.borrow(), |trees| &trees[self.index])
    }

    fn tree_mut(&self) -> RefMut<'_, Tree> {
        RefMut::map(self.ctx.trees.borrow_mut(), |trees| &mut trees[self.index])
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    /// Works until it is told to stop.
    pub(super) async fn run(mut self) {
        while !self.ctx.stop.get() {
            match self.rng.below(100) {
                0..14 => self.mkdir().await,
                14..44 => self.write_file().await,
                44..55 => self.rename().await,
                55..65 => self.delete().await,
                65..75 => self.stat().await,
                75..83 => self.list().await,
                83..92 => self.read_back().await,
                92 => self.trespass().await,
                _ => self.race().await,
            }
            let wait = self.pace.wait_ms(self.ctx.handle.now());
            wait_ms(&self.env, wait).await;
        }
        self.ctx.ended.set(self.ctx.ended.get() + 1);
    }

    fn violate(&self, promise: Promise, words: &str) {
        let detail = format!(
            "user{}: {words}; last operations: {}",
            self.index + 1,
            self.ctx.last_operations(self.index)
        );
        self.ctx.handle.violate(promise, detail);
    }

    /// Runs one operation of the namespace: keeps its history, and checks its place in the order of txids.
    async fn operation<T>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Failed> {
        let (start, frontier) = (self.ctx.handle.now(), self.ctx.frontier.get());
        let result = work.await;
        let seen = self.dfs.seen_txid().0;
        let outcome = match &result {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
        self.ctx.handle.trace_note("operation ends at txid", seen);
        self.ctx.history.borrow_mut().push(Operation {
            client: self.index,
            start,
            end: self.ctx.handle.now(),
            what,
            outcome,
            seen_txid: seen,
        });
        if let Err(error) = &result {
            self.check_error(error);
        }
        if result.is_ok() {
            self.ctx.handle.count("operations acknowledged", 1);
            if seen < frontier {
                let words = format!(
                    "saw txid {seen}, but {frontier} had been acknowledged before it began"
                );
                self.violate(Promise::P1, &words);
            }
            // What a read saw is as settled as what a mutation was told.
            self.ctx.frontier.set(self.ctx.frontier.get().max(seen));
        }
        let result = result.map_err(Failed::from);
        if let Err(Failed::Unknown) = &result {
            self.ctx.handle.count("operations unknown", 1);
        }
        result
    }

    /// Errors that nothing excuses.
    fn check_error(&self, error: &ClientError) {
        match error.class() {
            Some(FaultClass::Internal) => {
                self.violate(Promise::P10, &format!("an internal error: {error}"));
            }
            // Nobody else opens this client's files, and it is never silent for an hour.
            Some(FaultClass::LeaseExpired) => {
                self.violate(
                    Promise::P2,
                    &format!("an acknowledged lease is lost: {error}"),
                );
            }
            _ => {}
        }
    }

    fn some_dir(&mut self) -> usize {
        let dirs = self.tree().select(|_, entry| entry.file.is_none());
        let certain: Vec<usize> = dirs
            .into_iter()
            .filter(|id| self.tree().is_certain(*id))
            .collect();
        self.rng.pick(&certain).copied().unwrap_or(0)
    }

    /// Something that is surely there.
    fn some_entry(&mut self) -> Option<usize> {
        let all = self.tree().select(|id, _| id != 0);
        let certain: Vec<usize> = all
            .into_iter()
            .filter(|id| self.tree().is_certain(*id))
            .collect();
        self.rng.pick(&certain).copied()
    }

    async fn mkdir(&mut self) {
        let (parent, name) = (self.some_dir(), self.fresh("d"));
        let id = self.tree_mut().add(parent, &name, None);
        self.tree_mut().entry_mut(id).maybe_absent = true;
        let path = self.tree().path(id);
        let work = self.dfs.mkdirs(&path, 0o755, false);
        match self.operation(format!("mkdir {path}"), work).await {
            Ok(_) => self.tree_mut().entry_mut(id).maybe_absent = false,
            Err(Failed::Unknown) => {}
            Err(Failed::Refused(class, words)) => {
                self.violate(
                    Promise::P1,
                    &format!("mkdir {path} refused with {class:?}: {words}"),
                );
            }
        }
    }

    async fn write_file(&mut self) {
        let (parent, name) = (self.some_dir(), self.fresh("f"));
        let number = (self.index as u64) << 32 | self.next;
        let file = File::new(number);
        let id = self.tree_mut().add(parent, &name, Some(file));
        self.tree_mut().entry_mut(id).maybe_absent = true;
        let path = self.tree().path(id);
        let options = CreateOptions {
            create_parent: false,
            block_size: Some(BLOCK_BYTES),
            replication: Some(self.rng.range(1, 3).max(2) as u16),
            first_block: self.next.is_multiple_of(2),
            ..CreateOptions::default()
        };
        let work = self.dfs.create(&path, &options);
        let mut stream = match self.operation(format!("create {path}"), work).await {
            Ok(stream) => stream,
            Err(Failed::Unknown) => return,
            Err(Failed::Refused(class, words)) => {
                return self.violate(
                    Promise::P1,
                    &format!("create {path} refused with {class:?}: {words}"),
                );
            }
        };
        self.tree_mut().entry_mut(id).maybe_absent = false;
        let length = match self.rng.below(4) {
            0 => self.rng.below(2000),
            1 => BLOCK_BYTES,
            _ => self.rng.below(FILE_BYTES_MAX),
        };
        let mut written = 0;
        while written < length {
            let part = self.rng.range(1, 50_000).min(length - written);
            self.file(id, |file| {
                file.written = written + part;
                file.witness.is_last = false;
            });
            let result = stream.write_all(&content(number, written, part)).await;
            written += part;
            if self.gave_up(&path, "write", result) {
                return;
            }
            let witness = Witness::before(&self.ctx.handle, &self.ctx.datanodes);
            let (synced, flushed) = match self.rng.below(6) {
                0 => (false, stream.hflush().await),
                1 => (true, stream.hsync().await),
                _ => continue,
            };
            if self.gave_up(&path, "flush", flushed) {
                return;
            }
            let pipeline = stream.pipeline_nodes();
            let witness = witness.acknowledged(&self.ctx.handle, &pipeline);
            self.count_flush(synced);
            self.file(id, |file| {
                file.flushed = written;
                // A block that is full is finished, and durable.
                if synced || pipeline.is_empty() {
                    file.synced = written;
                }
                file.witness = witness;
            });
            if self.rng.chance(1, 4) {
                self.see_flushed(id, &path).await;
            }
            if self.rng.chance(1, 12) {
                return self.leave_open(id, &path, stream, written).await;
            }
        }
        let closed = self
            .operation(format!("close {path} at {length}"), stream.close())
            .await;
        match closed {
            Ok(()) => {
                self.ctx.handle.count("files closed", 1);
                self.file(id, |file| file.closed = true);
            }
            Err(failed) => {
                self.ctx.handle.count("files not closed", 1);
                self.ctx.handle.trace_note(
                    "not closed",
                    u64::from(matches!(failed, Failed::Refused(..))),
                );
            }
        }
    }

    fn count_flush(&self, synced: bool) {
        self.ctx.handle.count("flushes acknowledged", 1);
        let kind = if synced { "hsyncs" } else { "hflushes" };
        self.ctx.handle.count(kind, 1);
    }

    fn file<T>(&self, id: usize, change: impl FnOnce(&mut File) -> T) -> T {
        let mut tree = self.tree_mut();
        change(tree.entry_mut(id).file.as_mut().expect("it is a file"))
    }

    fn gave_up(&self, path: &str, what: &str, result: Result<(), ClientError>) -> bool {
        let Err(error) = result else { return false };
        self.ctx.handle.count("writes given up", 1);
        tracing::info!("{what} of {path}: {error}");
        self.check_error(&error);
        true
    }

    /// Goes where it may not.
    async fn trespass(&mut self) {
        let path = format!("{VAULT}/{}", self.fresh("t"));
        let work = self.dfs.mkdirs(&path, 0o755, false);
        let outcome = self.operation(format!("mkdir {path}"), work).await;
        match outcome {
            Err(Failed::Unknown) => {}
            Err(Failed::Refused(FaultClass::AccessDenied, _)) => {
                self.ctx.handle.count("trespasses refused", 1);
            }
            Ok(_) | Err(Failed::Refused(..)) => {
                self.violate(
                    Promise::P8,
                    &format!("mkdir {path}: {outcome:?}, not denied"),
                );
            }
        }
    }

    async fn rename(&mut self) {
        let Some(id) = self.some_entry() else { return };
        let name = self.fresh("r");
        let from = self.tree().path(id);
        let parent = from
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent)
            .to_owned();
        let to = format!("{parent}/{name}");
        self.tree_mut().entry_mut(id).names.push(name.clone());
        let work = self.dfs.rename(&from, &to, false);
        match self.operation(format!("rename {from} {to}"), work).await {
            Ok(()) => self.tree_mut().entry_mut(id).names = vec![name],
            Err(Failed::Unknown) => {}
            Err(Failed::Refused(class, words)) => {
                self.violate(
                    Promise::P1,
                    &format!("rename {from} {to} refused with {class:?}: {words}"),
                );
            }
        }
    }

    async fn delete(&mut self) {
        let Some(id) = self.some_entry() else { return };
        let path = self.tree().path(id);
        let below = self.tree().select(|_, _| true).len();
        let size = (0..below)
            .filter(|other| self.tree().is_within(*other, id))
            .count();
        // Small subtrees only, or there is soon nothing left.
        if size > 3 {
            return;
        }
        self.tree_mut().entry_mut(id).maybe_absent = true;
        let work = self.dfs.delete(&path, true);
        match self.operation(format!("delete {path}"), work).await {
            Ok(true) => self.tree_mut().entry_mut(id).gone = true,
            Ok(false) => self.violate(
                Promise::P1,
                &format!("delete {path}: nothing there, or deleted twice"),
            ),
            Err(Failed::Unknown) => {}
            Err(Failed::Refused(class, words)) => {
                self.violate(
                    Promise::P1,
                    &format!("delete {path} refused with {class:?}: {words}"),
                );
            }
        }
    }

    async fn stat(&mut self) {
        let gone = self.tree().select(|_, entry| entry.gone);
        let gone: Vec<usize> = gone
            .into_iter()
            .filter(|id| self.tree().is_surely_gone(*id))
            .collect();
        let id = match self.rng.pick(&gone).copied() {
            Some(id) if self.rng.chance(1, 3) => Some(id),
            _ => self.some_entry(),
        };
        let Some(id) = id else { return };
        let (path, entry) = (self.tree().path(id), self.tree().entry(id).clone());
        let work = self.dfs.try_file_status(&path);
        match self.operation(format!("stat {path}"), work).await {
            Err(_) => {}
            Ok(None) if entry.gone => {}
            Ok(Some(_)) if entry.gone => {
                self.violate(Promise::P6, &format!("{path} was deleted and is there"))
            }
            Ok(None) => self.violate(Promise::P2, &format!("{path} was made and is not there")),
            Ok(Some(status)) => {
                let fits = match &entry.file {
                    None => status.is_dir,
                    Some(file) if file.closed => {
                        status.length == file.written && !status.under_construction
                    }
                    Some(file) => !status.is_dir && status.length <= file.written,
                };
                if !fits {
                    self.violate(
                        Promise::P1,
                        &format!("{path} is {status:?}, expected {entry:?}"),
                    );
                }
            }
        }
    }

    async fn list(&mut self) {
        let dir = self.some_dir();
        let path = self.tree().path(dir);
        let work = self.dfs.list(&path);
        match self.operation(format!("list {path}"), work).await {
            Ok(entries) => {
                let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
                let checked = self.tree().check_listing(dir, &names);
                if let Err(words) = checked {
                    self.violate(Promise::P1, &words);
                }
            }
            Err(Failed::Unknown) => {}
            Err(Failed::Refused(_, words)) => self.violate(Promise::P2, &words),
        }
    }

    async fn read_back(&mut self) {
        let files = self
            .tree()
            .select(|_, entry| entry.file.as_ref().is_some_and(|file| file.closed));
        let files: Vec<usize> = files
            .into_iter()
            .filter(|id| self.tree().is_certain(*id))
            .collect();
        let Some(id) = self.rng.pick(&files).copied() else {
            return;
        };
        let (path, file) = (self.tree().path(id), self.tree().entry(id).file.clone());
        let Some(file) = file else { return };
        let dfs = &self.dfs;
        let work = async { dfs.open(&path).await?.read_to_end().await };
        match self.operation(format!("read {path}"), work).await {
            Ok(bytes) => {
                if let Err(words) = check_bytes(&path, &file, &bytes) {
                    self.violate(Promise::P5, &words);
                }
                self.ctx.handle.count("reads under faults", 1);
            }
            Err(Failed::Unknown) => self.ctx.handle.count("reads failed under faults", 1),
            Err(Failed::Refused(class, words)) => {
                self.violate(
                    Promise::P2,
                    &format!("read of {path} refused with {class:?}: {words}"),
                );
            }
        }
    }

    /// All clients try the same: one may succeed.
    async fn race(&mut self) {
        let round = self.ctx.handle.now().as_millis() / RACE_EVERY.as_millis();
        let path = format!("{SHARED}/race{round}");
        let (key, result) = if self.rng.chance(1, 2) {
            let dfs = &self.dfs;
            let work = async {
                dfs.create(&path, &CreateOptions::default())
                    .await?
                    .close()
                    .await
            };
            let result = self.operation(format!("create {path}"), work).await;
            (format!("create {path}"), result)
        } else {
            let (from, to) = (
                format!("{SHARED}/token{round}"),
                format!("{SHARED}/won{round}by{}", self.index),
            );
            let result = self
                .operation(
                    format!("rename {from} {to}"),
                    self.dfs.rename(&from, &to, false),
                )
                .await;
            (format!("rename {from}"), result)
        };
        if result.is_err() {
            return;
        }
        self.ctx.handle.count("races won", 1);
        let other = self
            .ctx
            .winners
            .borrow_mut()
            .insert(key.clone(), self.index);
        if let Some(other) = other {
            let words = format!("{key} succeeded twice, for user{} too", other + 1);
            self.violate(Promise::P1, &words);
        }
    }
}

/// Compares what was read of a file with what was written.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check_bytes(path: &str, file: &File, bytes: &[u8]) -> Result<(), String> {
    let wanted = content(file.number, 0, file.written);
    if file.closed && bytes.len() != wanted.len() {
        return Err(format!(
            "{path} reads {} bytes, {} were closed",
            bytes.len(),
            wanted.len()
        ));
    }
    let differs = bytes
        .iter()
        .zip(&wanted)
        .position(|(read, written)| read != written);
    match differs {
        Some(offset) => Err(format!(
            "{path} reads other bytes than were written from offset {offset} on"
        )),
        None if bytes.len() > wanted.len() => Err(format!("{path} reads more than was written")),
        None => Ok(()),
    }
}
