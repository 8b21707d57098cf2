//! A NameNode core with a journal that is a vector, and a source of random operations.

use hadal_blocks::BlockConfig;
use hadal_namesystem::{
    Answer, Caller, Event, ImageLoader, ImageSource, Namesystem, NamesystemConfig, Output,
};
use hadal_proto::client::{ClientCall, FileStatus, Reply, Request, Response};
use hadal_proto::edit::Edit;
use hadal_proto::{Fault, FaultClass, admin};
use hadal_types::{CallId, ClientId, Epoch, InodeId, Tick, TxId};
use std::collections::BTreeMap;

/// A small generator; the same seed gives the same run.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

pub(crate) fn config() -> NamesystemConfig {
    NamesystemConfig {
        name: "nn1".into(),
        min_block_size: 1024,
        ..NamesystemConfig::default()
    }
}

pub(crate) fn fresh(config: NamesystemConfig) -> Namesystem {
    let mut namesystem = Namesystem::format(config, BlockConfig::default(), 1);
    namesystem.start(Tick::from_ms(1));
    namesystem
}

/// An active NameNode whose journal commits when told, or at once.
pub(crate) struct World {
    pub(crate) ns: Namesystem,
    pub(crate) journal: Vec<(TxId, Edit)>,
    pub(crate) answers: BTreeMap<u64, Answer>,
    pub(crate) events: Vec<Event>,
    pub(crate) rolls: Vec<TxId>,
    pub(crate) now: Tick,
    pub(crate) wall_ms: u64,
    pub(crate) auto_commit: bool,
    ticket: u64,
    calls: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: NamesystemConfig) -> Self {
        let mut world = Self::standby(fresh(config));
        world.activate(1);
        world
    }

    /// Around a namesystem that is not active yet.
    pub(crate) fn standby(ns: Namesystem) -> Self {
        Self {
            ns,
            journal: Vec::new(),
            answers: BTreeMap::new(),
            events: Vec::new(),
            rolls: Vec::new(),
            now: Tick::from_ms(1_000),
            wall_ms: 1_700_000_000_000,
            auto_commit: true,
            ticket: 0,
            calls: 0,
        }
    }

    pub(crate) fn activate(&mut self, epoch: u64) {
        let next = self.ns.applied().next();
        self.ns
            .become_active(self.now, self.wall_ms, Epoch(epoch), next);
        self.ns.handle_admin(
            self.now,
            self.wall_ms,
            u64::MAX,
            admin::Request::SafeMode {
                action: admin::SafeModeAction::Leave,
            },
        );
        self.pump();
        self.answers.remove(&u64::MAX);
    }

    /// Does what a driver does.
    pub(crate) fn pump(&mut self) {
        loop {
            let mut progress = false;
            while let Some(output) = self.ns.poll_output() {
                progress = true;
                match output {
                    Output::Edits { first, records } => {
                        for (at, record) in records.into_iter().enumerate() {
                            let txid = TxId(first.0 + at as u64);
                            let expected =
                                self.journal.last().map_or(txid, |(last, _)| last.next());
                            assert_eq!(txid, expected, "edits leave without gaps");
                            let edit = hadal_proto::decode(record).expect("an edit");
                            self.journal.push((txid, edit));
                        }
                    }
                    Output::RollSegment { next } => self.rolls.push(next),
                    Output::Reply { ticket, answer } => {
                        assert!(self.answers.insert(ticket, answer).is_none());
                    }
                    Output::Event(event) => self.events.push(event),
                }
            }
            if self.auto_commit && self.ns.committed() < self.ns.applied() {
                progress = true;
                self.ns.handle_committed(self.now, self.ns.applied());
            }
            if !progress {
                return;
            }
        }
    }

    /// As [`Self::pump`], with a journal that commits when told.
    pub(crate) fn pump_without_commit(&mut self) {
        let usual = std::mem::replace(&mut self.auto_commit, false);
        self.pump();
        self.auto_commit = usual;
    }

    /// Sends a call and returns its ticket.
    pub(crate) fn send(
        &mut self,
        caller: &Caller,
        client: u128,
        call: u64,
        request: Request,
    ) -> u64 {
        self.ticket += 1;
        self.wall_ms += 1;
        let call = ClientCall {
            client: ClientId(client),
            call: CallId(call),
            seen: TxId(0),
            from_standby: false,
            request,
        };
        self.ns
            .handle_client(self.now, self.wall_ms, caller, self.ticket, call);
        self.pump();
        self.ticket
    }

    pub(crate) fn answer(&mut self, ticket: u64) -> Option<Result<Reply, Fault>> {
        self.answers.remove(&ticket).map(|answer| match answer {
            Answer::Client(outcome) => outcome,
            other => panic!("not a client's answer: {other:?}"),
        })
    }

    /// One call as client 1 under the next call id, committed at once.
    pub(crate) fn call_as(
        &mut self,
        caller: &Caller,
        client: u128,
        request: Request,
    ) -> Result<Response, Fault> {
        self.calls += 1;
        let ticket = self.send(caller, client, self.calls, request);
        let outcome = self.answer(ticket).expect("committed at once");
        outcome.map(|reply| reply.response)
    }

    pub(crate) fn call(&mut self, request: Request) -> Result<Response, Fault> {
        self.call_as(&root(), 1, request)
    }

    pub(crate) fn ok(&mut self, request: Request) -> Response {
        let shown = format!("{request:?}");
        self.call(request)
            .unwrap_or_else(|fault| panic!("{shown}: {fault:?}"))
    }

    pub(crate) fn fails(&mut self, request: Request) -> (FaultClass, String) {
        let fault = self.call(request).expect_err("must fail");
        (fault.class, fault.message)
    }

    pub(crate) fn mkdirs(&mut self, path: &str) {
        assert_eq!(self.ok(mkdirs(path)), Response::Flag { value: true });
    }

    /// Creates an empty file and closes it.
    pub(crate) fn touch(&mut self, path: &str) -> InodeId {
        let inode = self.open(path);
        let done = self.ok(Request::Complete {
            path: path.into(),
            inode,
            last: None,
        });
        assert_eq!(done, Response::Flag { value: true });
        inode
    }

    /// Creates a file and leaves it open for client 1.
    pub(crate) fn open(&mut self, path: &str) -> InodeId {
        let Response::Created { status, .. } = self.ok(create(path)) else {
            panic!("create answers a status");
        };
        status.inode
    }

    pub(crate) fn stat(&mut self, path: &str) -> Option<FileStatus> {
        match self.ok(info(path)) {
            Response::FileInfo { status } => status,
            other => panic!("not a status: {other:?}"),
        }
    }

    pub(crate) fn names(&mut self, path: &str) -> Vec<String> {
        match self.ok(list(path, "", 0)) {
            Response::Listing { entries, .. } => {
                entries.into_iter().map(|entry| entry.name).collect()
            }
            other => panic!("not a listing: {other:?}"),
        }
    }

    /// Moves time and lets timers run.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now.after_ms(ms);
        while let Some(at) = self.ns.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.ns.handle_timeout(self.now, self.wall_ms);
            self.pump();
        }
        self.now = until;
        self.wall_ms += ms;
    }

    /// A fresh core that replayed the journal.
    pub(crate) fn replayed(&self) -> Namesystem {
        let mut other = fresh(self.ns.config().clone());
        for (txid, edit) in &self.journal {
            other.replay(self.now, *txid, edit);
        }
        other
    }
}

/// A core loaded from an image of another's view.
pub(crate) fn reload(ns: &Namesystem) -> Namesystem {
    let mut loader = ImageLoader::new(ns.config());
    for (section, chunk) in ImageSource::new(ns.view()) {
        loader.feed(section, &chunk).expect("an image");
    }
    let loaded = loader.finish().expect("an image");
    assert_eq!(loaded.txid(), ns.applied());
    let mut other = Namesystem::load(ns.config().clone(), BlockConfig::default(), 1, loaded);
    other.start(Tick::from_ms(1));
    other
}

pub(crate) fn root() -> Caller {
    Caller::superuser("hdfs")
}

pub(crate) fn info(path: &str) -> Request {
    Request::GetFileInfo { path: path.into() }
}

/// Of the whole file.
pub(crate) fn locations(path: &str) -> Request {
    Request::GetBlockLocations {
        path: path.into(),
        offset: 0,
        length: u64::MAX,
        reader_host: String::new(),
    }
}

pub(crate) fn mkdirs(path: &str) -> Request {
    Request::Mkdirs {
        path: path.into(),
        permission: 0o755,
        create_parent: true,
    }
}

pub(crate) fn create(path: &str) -> Request {
    Request::Create {
        path: path.into(),
        permission: 0o644,
        overwrite: false,
        create_parent: true,
        replication: 1,
        block_size: 1 << 20,
        first_block: None,
    }
}

/// A create that asks for the first block with the answer.
pub(crate) fn create_with_block(path: &str) -> Request {
    let mut request = create(path);
    if let Request::Create { first_block, .. } = &mut request {
        *first_block = Some(String::new());
    }
    request
}

pub(crate) fn overwrite(path: &str) -> Request {
    Request::Create {
        path: path.into(),
        permission: 0o600,
        overwrite: true,
        create_parent: false,
        replication: 2,
        block_size: 1 << 21,
        first_block: None,
    }
}

pub(crate) fn rename(from: &str, to: &str, overwrite: bool) -> Request {
    Request::Rename {
        from: from.into(),
        to: to.into(),
        overwrite,
    }
}

pub(crate) fn delete(path: &str, recursive: bool) -> Request {
    Request::Delete {
        path: path.into(),
        recursive,
    }
}

pub(crate) fn list(path: &str, start_after: &str, limit: u32) -> Request {
    Request::GetListing {
        path: path.into(),
        start_after: start_after.into(),
        limit,
    }
}

/// A random path of a small universe, so that calls meet each other.
pub(crate) fn some_path(rng: &mut Rng) -> String {
    let depth = 1 + rng.below(4);
    (0..depth)
        .map(|_| format!("/{}", rng.pick(&["a", "b", "c", "longer-name.txt", "d"])))
        .collect()
}

/// A random call of the namespace kind.
pub(crate) fn some_call(rng: &mut Rng) -> Request {
    let path = some_path(rng);
    match rng.below(16) {
        0..3 => mkdirs(&path),
        3..6 => create(&path),
        6 => overwrite(&path),
        7..9 => rename(&path, &some_path(rng), rng.chance(50)),
        9 => delete(&path, rng.chance(60)),
        10 => Request::SetPermission {
            path,
            permission: rng.below(0o2000) as u16,
        },
        11 => Request::SetOwner {
            path,
            owner: rng.pick(&["", "alice", "bob"]).to_string(),
            group: rng.pick(&["", "staff", "users"]).to_string(),
        },
        12 => Request::SetTimes {
            path,
            modified_ms: rng.below(1 << 40),
            accessed_ms: *rng.pick(&[u64::MAX, 7]),
        },
        13 => Request::SetReplication {
            path,
            replication: 1 + rng.below(5) as u16,
        },
        _ => Request::Complete {
            path,
            inode: InodeId(0),
            last: None,
        },
    }
}
