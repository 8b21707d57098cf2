//! The state all tasks of a NameNode share, and the turn in which namesystem, journal and world meet.

use crate::config::NamenodeConfig;
use crate::election::{self, Order};
use crate::images::Images;
use crate::links::{self, Link};
use crate::parked::{self, Parked};
use crate::peers::Peer;
use crate::shared::SharedDirectory;
use bytes::Bytes;
use hadal_blocks::BlockEvent;
use hadal_daemon::Notify;
use hadal_env::{Env, Net, Seam};
use hadal_failover::{CommandId, Controller};
use hadal_namesystem::{
    Answer, Caller, Event as NamesystemEvent, Namesystem, Output as NamesystemOutput, View,
};
use hadal_proto::admin::{self, AdminProtocol, JournalLag};
use hadal_proto::client::{ClientCall, ClientProtocol};
use hadal_proto::datanode::{self, DatanodeProtocol};
use hadal_proto::ha::{HaProtocol, Health};
use hadal_proto::image;
use hadal_proto::qjournal::{Call, LogDigest};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::writer::{AppendError, EditBatch, Event, Output, Writer};
use hadal_quic::Responder;
use hadal_types::{HaState, Principal, Tick, TxId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use store_journal::{BATCH_BYTES_MAX, Batch, RECORD_HEAD_LEN};

/// Most events of the journal writer that wait for the life: a few of each claim and segment, all of them taken or
/// dropped before the next claim.
const EVENTS_MAX: usize = 64;

pub(crate) type NetConn<E> = <<E as Seam>::Net as Net>::Conn;

/// Whom a ticket's answer goes to.
pub(crate) enum Waiting {
    Client(Responder<ClientProtocol>),
    Datanode(Responder<DatanodeProtocol>),
    Admin(Responder<AdminProtocol>),
}

/// Whom the outcome of a role change goes to.
pub(crate) enum Ordering {
    Operator(Responder<AdminProtocol>),
    Peer(Responder<HaProtocol>),
}

/// Everything the tasks of one NameNode share. One shard: no locks.
pub(crate) struct Node<E: Env> {
    pub(crate) env: E,
    pub(crate) config: NamenodeConfig,
    pub(crate) namesystem: RefCell<Option<Namesystem>>,
    pub(crate) writer: RefCell<Writer>,
    pub(crate) controller: RefCell<Controller>,
    pub(crate) links: Vec<Link<E>>,
    /// Some JournalNode was reached since the start.
    pub(crate) met_journal: Cell<bool>,
    /// The journal, when it is a shared directory: link 0 leads there.
    pub(crate) shared: Option<SharedDirectory<E>>,
    pub(crate) peers: Vec<Peer>,
    /// What the controller ordered and the life has not carried out.
    pub(crate) orders: RefCell<VecDeque<Order>>,
    /// Role changes under way.
    pub(crate) commands: RefCell<BTreeMap<CommandId, Ordering>>,
    /// The active role is being handed over: what was accepted is finished, nothing is accepted.
    pub(crate) handing_over: Cell<bool>,
    /// Whom the role was handed to, and until when that is worth a hint.
    pub(crate) successor: RefCell<Option<(String, Tick)>>,
    /// Wakes the life.
    pub(crate) wake: Notify,
    /// What the journal writer told and the life has not looked at.
    pub(crate) events: RefCell<VecDeque<Event>>,
    /// JournalNodes that keep a majority from answering, while they do (Q11).
    pub(crate) silent: RefCell<Option<Vec<String>>>,
    /// Since when this standby knows of committed edits it has not applied.
    pub(crate) behind_since: Cell<Option<Tick>>,
    /// How many those are.
    pub(crate) behind_txids: Cell<u64>,
    pub(crate) saving: Cell<bool>,
    pub(crate) images: Rc<Images<E>>,
    /// Wakes who waits for edits to be committed, also when they never will be.
    pub(crate) committed: Notify,
    /// How often the tree was dropped to be loaded again: its uncommitted edits are gone, their numbers are given anew.
    pub(crate) loads: Cell<u64>,
    /// Calls that wait until the role is taken.
    pub(crate) parked: Parked,
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next_ticket: Cell<u64>,
    /// Where the present segment of the journal begins, while active.
    pub(crate) segment: Cell<TxId>,
    pub(crate) next_command: Cell<u64>,
    /// Encoded edits that wait for a place among the batches in flight.
    edits: RefCell<VecDeque<(TxId, Bytes)>>,
    /// Last txid of each batch in flight.
    in_flight: RefCell<VecDeque<TxId>>,
    digest: Cell<LogDigest>,
}

impl<E: Env> Node<E> {
    pub(crate) fn new(
        env: E,
        config: NamenodeConfig,
        writer: Writer,
        controller: Controller,
    ) -> Self {
        let shared = SharedDirectory::of(&env, &config);
        let links = config.journalnodes.iter().map(|_| Link::new()).collect();
        let peers = config.peers.iter().map(|_| Peer::default()).collect();
        let images = Rc::new(Images::new(env.clone(), &config));
        Self {
            env,
            config,
            namesystem: RefCell::new(None),
            writer: RefCell::new(writer),
            controller: RefCell::new(controller),
            links,
            met_journal: Cell::new(false),
            shared,
            peers,
            orders: RefCell::new(VecDeque::new()),
            commands: RefCell::new(BTreeMap::new()),
            handing_over: Cell::new(false),
            successor: RefCell::new(None),
            wake: Notify::new(),
            events: RefCell::new(VecDeque::new()),
            silent: RefCell::new(None),
            behind_since: Cell::new(None),
            behind_txids: Cell::new(0),
            saving: Cell::new(false),
            images,
            committed: Notify::new(),
            loads: Cell::new(0),
            parked: Parked::default(),
            waiting: RefCell::new(BTreeMap::new()),
            next_ticket: Cell::new(1),
            segment: Cell::new(TxId(0)),
            next_command: Cell::new(1),
            edits: RefCell::new(VecDeque::new()),
            in_flight: RefCell::new(VecDeque::new()),
            digest: Cell::new(LogDigest::default()),
        }
    }

    /// Something happened: the life takes a turn once the tasks that are ready have run, so that all their calls
    /// share one batch (group commit).
    pub(crate) fn kick(&self) {
        self.wake.notify();
    }

    fn ticket(&self, waiting: Waiting) -> u64 {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        self.waiting.borrow_mut().insert(ticket, waiting);
        ticket
    }

    fn starting(&self) -> Fault {
        Fault::new(
            FaultClass::Retry,
            format!("{} is starting; try again", self.config.name),
        )
    }

    fn leaving(&self) -> Fault {
        Fault::new(
            FaultClass::Retry,
            format!("{} is leaving the active role; try again", self.config.name),
        )
    }

    /// Whether an active NameNode may answer at this moment. Asked in the same step as the evaluation, after the request
    /// was read (protocols.md section 2: reads are linearizable).
    fn may_serve(&self, namesystem: &Namesystem) -> bool {
        !self.handing_over.get()
            && self
                .controller
                .borrow()
                .may_serve(self.env.now(), namesystem.epoch())
    }

    /// Whether edits may be made: an active NameNode makes none behind its lease, nor while it hands over and waits for the
    /// last one.
    pub(crate) fn may_edit(&self, namesystem: &Namesystem) -> bool {
        namesystem.state() != HaState::Active || self.may_serve(namesystem)
    }

    /// The tree is dropped, with what it holds and may not be committed.
    pub(crate) fn drop_tree(&self) {
        *self.namesystem.borrow_mut() = None;
        self.loads.set(self.loads.get() + 1);
        self.committed.notify();
    }

    /// The fault for calls to a NameNode that is active no more, or not for sure.
    fn standby_fault(&self) -> Fault {
        let hint = self.active_hint();
        Fault::new(
            FaultClass::Standby,
            format!(
                "{} holds no active lease at the moment; ask the active NameNode",
                self.config.name
            ),
        )
        .with_hint(hint)
    }

    /// Who is active as far as the JournalNodes tell; empty when nobody is known, or when it is this NameNode.
    fn active_hint(&self) -> String {
        let hint = self.controller.borrow().active_hint(self.env.now());
        let other = hint.filter(|hint| hint.name != self.config.name);
        if let Some(other) = other {
            return other.name;
        }
        let successor = self.successor.borrow();
        let fresh = |until: &Tick| self.env.now() < *until;
        let named = successor.as_ref().filter(|(_, until)| fresh(until));
        named.map(|(name, _)| name.clone()).unwrap_or_default()
    }

    /// A client's call arrived.
    pub(crate) fn client_call(
        &self,
        peer: &Principal,
        mut call: ClientCall,
        mut responder: Responder<ClientProtocol>,
    ) {
        let mutation = call.request.is_mutation();
        let asks_for_state = matches!(call.request, hadal_proto::client::Request::GetServiceState);
        let standby_read = call.from_standby && call.request.is_standby_read();
        if !asks_for_state && self.role_changes() && !(standby_read && self.follows()) {
            match self.parked.push(peer, call, responder) {
                Ok(()) => return,
                Err(full) => (call, responder) = full,
            }
        }
        let mut slot = self.namesystem.borrow_mut();
        let Some(namesystem) = slot.as_mut() else {
            return responder.answer(Err(self.starting()));
        };
        if namesystem.state() == HaState::Active {
            if !self.may_serve(namesystem) && !asks_for_state {
                let fault = self.lost_journal_of_a_pair();
                return responder.answer(Err(fault.unwrap_or_else(|| self.standby_fault())));
            }
        } else {
            if let Some(fault) = self.lost_journal_of_a_pair()
                && !asks_for_state
                && !standby_read
            {
                return responder.answer(Err(fault));
            }
            namesystem.set_active_hint(self.active_hint());
        }
        // A NameNode configured alone goes on answering reads, as of the committed edits (protocols.md section 2).
        if let Some(fault) = self.journal_unavailable() {
            let caller = self.caller(peer, namesystem);
            let read = namesystem.read_committed(self.env.now(), &caller, &call);
            return responder.answer(read.unwrap_or(Err(fault)));
        }
        if mutation && let Some(fault) = self.majority_lost() {
            return responder.answer(Err(fault));
        }
        let caller = self.caller(peer, namesystem);
        let ticket = self.ticket(Waiting::Client(responder));
        namesystem.handle_client(self.env.now(), self.env.wall_ms(), &caller, ticket, call);
        self.kick();
    }

    /// Whether it is a standby or observer with its namespace loaded.
    fn follows(&self) -> bool {
        let slot = self.namesystem.borrow();
        let state = slot.as_ref().map(Namesystem::state);
        matches!(state, Some(HaState::Standby | HaState::Observer))
    }

    /// A DataNode's call arrived.
    pub(crate) fn datanode_call(
        &self,
        peer: &Principal,
        request: datanode::Request,
        responder: Responder<DatanodeProtocol>,
    ) {
        let mut slot = self.namesystem.borrow_mut();
        let Some(namesystem) = slot.as_mut() else {
            return responder.answer(Err(self.starting()));
        };
        // A lapsed active sends no commands (protocols.md section 2).
        if !self.may_edit(namesystem) {
            return responder.answer(Err(self.leaving()));
        }
        let ticket = self.ticket(Waiting::Datanode(responder));
        namesystem.handle_datanode(self.env.now(), self.env.wall_ms(), peer, ticket, request);
        self.kick();
    }

    /// An operator's call arrived that the namesystem answers.
    pub(crate) fn admin_call(&self, request: admin::Request, responder: Responder<AdminProtocol>) {
        let mut slot = self.namesystem.borrow_mut();
        let Some(namesystem) = slot.as_mut() else {
            return responder.answer(Err(self.starting()));
        };
        if matches!(request, admin::Request::RollEdits) && !self.may_edit(namesystem) {
            return responder.answer(Err(self.leaving()));
        }
        let ticket = self.ticket(Waiting::Admin(responder));
        namesystem.handle_admin(self.env.now(), self.env.wall_ms(), ticket, request);
        self.kick();
    }

    /// `dfsadmin -refreshNodes`: the lists as they are now; on an error those read before stay.
    pub(crate) fn refresh_nodes(&self) -> Result<admin::Response, Fault> {
        let mut slot = self.namesystem.borrow_mut();
        let namesystem = slot.as_mut().ok_or_else(|| self.starting())?;
        let hosts =
            (self.config.hosts)().map_err(|why| Fault::new(FaultClass::InvalidArgument, why))?;
        namesystem.set_hosts(self.env.now(), hosts);
        drop(slot);
        self.kick();
        Ok(admin::Response::Done)
    }

    /// Who this is, for a NameNode that joins.
    pub(crate) fn describe(&self) -> Result<image::Response, Fault> {
        let slot = self.namesystem.borrow();
        let namesystem = slot.as_ref().ok_or_else(|| self.starting())?;
        Ok(image::Response::Description {
            info: self.config.namesystem.info.clone(),
            state: namesystem.state(),
            committed: namesystem.committed(),
        })
    }

    fn caller(&self, peer: &Principal, namesystem: &Namesystem) -> Caller {
        let groups = (self.config.groups)(&peer.name);
        let settings = namesystem.config();
        let superuser = peer.name == settings.superuser || groups.contains(&settings.supergroup);
        Caller {
            user: peer.name.clone(),
            groups,
            superuser,
        }
    }

    /// The fault for calls that need the journal while no majority answers.
    pub(crate) fn journal_unavailable(&self) -> Option<Fault> {
        let silent = self.silent.borrow();
        let silent = silent.as_ref()?;
        Some(unavailable(&silent.join(", ")))
    }

    /// The fault for mutations while a majority of JournalNodes is not even connected: an edit that cannot become
    /// durable is not applied, so that reads go on.
    fn majority_lost(&self) -> Option<Fault> {
        if self.shared.is_some() {
            return None;
        }
        let away: Vec<&str> = self
            .config
            .journalnodes
            .iter()
            .zip(&self.links)
            .filter(|(_, link)| link.client().is_none())
            .map(|(peer, _)| peer.name.as_str())
            .collect();
        let spare = (self.links.len() - 1) / 2;
        (away.len() > spare).then(|| unavailable(&away.join(", ")))
    }

    /// Of two NameNodes none can be active without a majority of JournalNodes: clients are told whom to mend. One
    /// configured alone goes on answering reads.
    fn lost_journal_of_a_pair(&self) -> Option<Fault> {
        if self.peers.is_empty() {
            return None;
        }
        self.majority_lost()
    }

    /// No majority answers: the calls that wait for one are told so. Their edits stay on their way, and a retry of the
    /// same call finds its outcome in the retry cache.
    pub(crate) fn fail_waiting_calls(&self) {
        let Some(fault) = self.journal_unavailable() else {
            return;
        };
        let mut waiting = self.waiting.borrow_mut();
        let tickets: Vec<u64> = waiting
            .iter()
            .filter(|(_, waiting)| matches!(waiting, Waiting::Client(_)))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            if let Some(Waiting::Client(responder)) = waiting.remove(&ticket) {
                responder.answer(Err(fault.clone()));
            }
        }
    }

    /// The journal's running digest behind the last edit handed to the writer.
    pub(crate) fn digest(&self) -> LogDigest {
        self.digest.get()
    }

    /// For how long it has been behind what it knows to be committed, in milliseconds.
    fn behind_ms(&self) -> u64 {
        let since = self.behind_since.get();
        since.map_or(0, |since| self.env.now().ms_since(since))
    }

    /// How this NameNode is, for its controller and its peers.
    pub(crate) fn health(&self) -> Health {
        let now = self.env.now();
        let controller = self.controller.borrow();
        let slot = self.namesystem.borrow();
        let Some(namesystem) = slot.as_ref() else {
            let reason = "the namespace is being loaded".to_owned();
            return Health {
                state: HaState::Initializing,
                not_ready: reason.clone(),
                reason,
                ..Health::default()
            };
        };
        let reason = match self.majority_lost() {
            Some(fault) if !controller.journal_reachable(now) => fault.message,
            _ => {
                let shared = self.shared.as_ref();
                shared
                    .and_then(SharedDirectory::trouble)
                    .unwrap_or_default()
            }
        };
        let not_ready = if namesystem.in_safe_mode() {
            in_safe_mode(namesystem)
        } else if !namesystem.blocks().ready_to_become_active() {
            // Whoever can wait for them does (Q5): an ordered hand-over, or one for ill health. An election does not.
            "storages of live DataNodes have not reported to it yet".into()
        } else {
            String::new()
        };
        Health {
            state: namesystem.state(),
            healthy: reason.is_empty(),
            ready: not_ready.is_empty(),
            not_ready,
            reason,
            applied: namesystem.applied(),
            committed: namesystem.committed(),
            lag_ms: self.behind_ms(),
            epoch: namesystem.epoch(),
        }
    }

    /// Why it must not become active now, when the configuration says so (T-H23).
    pub(crate) fn barred(&self) -> Option<String> {
        let barred = self.config.ha.not_become_active_in_safe_mode && !self.peers.is_empty();
        let slot = self.namesystem.borrow();
        let namesystem = slot
            .as_ref()
            .filter(|namesystem| barred && namesystem.in_safe_mode())?;
        let why = in_safe_mode(namesystem);
        Some(format!("{why} (ha.not_become_active_in_safe_mode is set)"))
    }

    /// The journal's end that the next batch builds on.
    pub(crate) fn start_log(&self, digest: LogDigest) {
        self.digest.set(digest);
        self.edits.borrow_mut().clear();
        self.in_flight.borrow_mut().clear();
    }

    /// One turn: takes everything out of the namesystem and the writer and does it, until both are quiet.
    pub(crate) fn turn(self: &Rc<Self>) {
        loop {
            let mut quiet = true;
            loop {
                let output = self
                    .namesystem
                    .borrow_mut()
                    .as_mut()
                    .and_then(Namesystem::poll_output);
                let Some(output) = output else { break };
                quiet = false;
                self.namesystem_output(output);
            }
            parked::release(self);
            self.send_edits();
            self.care_for_segments();
            quiet &= !election::turn(self);
            loop {
                let output = self.writer.borrow_mut().poll_output();
                let Some(output) = output else { break };
                quiet = false;
                self.writer_output(output);
            }
            if quiet {
                return;
            }
        }
    }

    fn namesystem_output(self: &Rc<Self>, output: NamesystemOutput) {
        match output {
            NamesystemOutput::Edits { first, records } => {
                let numbered = (first.0..).map(TxId).zip(records);
                self.edits.borrow_mut().extend(numbered);
            }
            NamesystemOutput::RollSegment { .. } => {
                self.send_all_edits();
                if let Err(error) = self.writer.borrow_mut().roll(self.env.now()) {
                    tracing::warn!("rolling the edit log: {error}");
                }
            }
            NamesystemOutput::Reply { ticket, answer } => self.answer(ticket, answer),
            NamesystemOutput::Event(event) => {
                match &event {
                    NamesystemEvent::LeaseRecovered { .. } => {
                        self.env.happened("lease recoveries");
                    }
                    NamesystemEvent::Block(BlockEvent::LeftSafeMode { .. }) => {
                        self.env.happened("safe-mode exits");
                    }
                    _ => {}
                }
                log_event(&event);
            }
        }
    }

    fn answer(&self, ticket: u64, answer: Answer) {
        // A ticket that is gone was answered before its outcome was known (journal unavailable).
        let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) else {
            return;
        };
        match (waiting, answer) {
            (Waiting::Client(responder), Answer::Client(outcome)) => responder.answer(outcome),
            (Waiting::Datanode(responder), Answer::Datanode(outcome)) => responder.answer(outcome),
            (Waiting::Admin(responder), Answer::Admin(outcome)) => {
                responder.answer(outcome.map(|response| self.with_journal(response)));
            }
            _ => unreachable!("an answer is of the protocol its call came in"),
        }
    }

    /// What only the journal writer and the checkpointer know of the NameNode's numbers.
    fn with_journal(&self, response: admin::Response) -> admin::Response {
        let admin::Response::NamenodeStats { mut stats } = response else {
            return response;
        };
        let writer = self.writer.borrow();
        stats.journal_lag = writer
            .lags()
            .into_iter()
            .map(|lag| JournalLag {
                name: lag.journalnode,
                behind: lag.behind.unwrap_or(u64::MAX),
            })
            .collect();
        stats.behind_txids = self.behind_txids.get();
        stats.behind_ms = self.behind_ms();
        stats.checkpoints_cancelled = self.images.policy.borrow().cancelled();
        admin::Response::NamenodeStats { stats }
    }

    /// A view of everything applied, with the journal's digest there; `None` while edits wait for the writer.
    pub(crate) fn view_with_digest(self: &Rc<Self>) -> Option<(View, LogDigest)> {
        self.turn();
        self.send_all_edits();
        if !self.edits.borrow().is_empty() {
            return None;
        }
        let view = self.namesystem.borrow().as_ref().map(Namesystem::view)?;
        Some((view, self.digest.get()))
    }

    fn send_edits(self: &Rc<Self>) {
        while self.in_flight.borrow().len() < self.config.batches_in_flight && self.send_batch() {}
    }

    fn send_all_edits(self: &Rc<Self>) {
        while self.send_batch() {}
    }

    /// Hands the next batch to the writer; `false` when there is none or it cannot take any.
    fn send_batch(self: &Rc<Self>) -> bool {
        let mut edits = self.edits.borrow_mut();
        let mut writer = self.writer.borrow_mut();
        if edits.is_empty() || !writer.can_append() {
            return false;
        }
        let first = edits[0].0;
        let mut bytes = 0;
        let fits = |(_, record): &&(TxId, Bytes)| {
            bytes += record.len() + RECORD_HEAD_LEN;
            bytes <= BATCH_BYTES_MAX
        };
        let count = edits.iter().take_while(fits).count();
        let records: Vec<Bytes> = edits.drain(..count).map(|(_, record)| record).collect();
        let batch = Batch::frame(writer.epoch(), first, self.digest.get().0, &records)
            .expect("edits are numbered without gaps and far below the cap of a record");
        self.digest.set(LogDigest(batch.digest()));
        let appended = writer.append(
            self.env.now(),
            EditBatch {
                first,
                count: u32::try_from(count).expect("a batch is capped"),
                records: batch.bytes().clone(),
                digest_end: self.digest.get(),
            },
        );
        match appended {
            Ok(()) => self.in_flight.borrow_mut().push_back(batch.last()),
            // The role is lost: the life hears of it by an event and drops the tree with these edits.
            Err(AppendError::NotWriting) => return false,
            Err(error) => unreachable!("asked before whether it can take edits: {error}"),
        }
        true
    }

    fn writer_output(self: &Rc<Self>, output: Output) {
        match output {
            Output::Call { jn, id, request } => {
                if let Call::NewEpoch { epoch, .. } = &request.call {
                    // From the first claim message on, renewals carry the proposed epoch (protocols.md section 2).
                    let mut controller = self.controller.borrow_mut();
                    controller.handle_claiming(self.env.now(), *epoch);
                }
                let node = Rc::clone(self);
                self.env
                    .spawn("namenode journal call", links::call(node, jn, id, request));
            }
            Output::OpenStream { jn, stream, header } => {
                links::open_stream(self, jn, stream, header)
            }
            Output::Batch {
                jn,
                stream,
                head,
                records,
            } => self.links[jn].push(&self.env, stream, head, records),
            Output::CloseStream { jn, stream } => self.links[jn].close_stream(stream),
            Output::Event(Event::Committed { mark }) => {
                let mut in_flight = self.in_flight.borrow_mut();
                while in_flight.front().is_some_and(|last| *last <= mark.txid) {
                    in_flight.pop_front();
                }
                if let Some(namesystem) = self.namesystem.borrow_mut().as_mut()
                    && mark.txid > namesystem.committed()
                {
                    namesystem.handle_committed(self.env.now(), mark.txid);
                    self.committed.notify();
                }
            }
            Output::Event(event) => {
                let mut events = self.events.borrow_mut();
                events.push_back(event);
                self.env
                    .queue_length("events of the journal writer", events.len(), EVENTS_MAX);
                drop(events);
                self.kick();
            }
        }
    }
}

fn in_safe_mode(namesystem: &Namesystem) -> String {
    let message = namesystem.blocks().safe_mode_message();
    format!("it is in safe mode. {message}")
}

fn unavailable(silent: &str) -> Fault {
    let message = format!(
        "no majority of JournalNodes answers: waiting for {silent}; what was acknowledged is safe, writes go on by themselves when a majority is back"
    );
    Fault::new(FaultClass::JournalUnavailable, message)
}

fn log_event(event: &NamesystemEvent) {
    match event {
        NamesystemEvent::DatanodeError {
            name,
            code,
            message,
        } => {
            tracing::error!("DataNode {name} reports error {code}: {message}");
        }
        NamesystemEvent::RepliesFailed { count } => {
            tracing::warn!("{count} calls failed: the active role is lost")
        }
        // One line per block would drown everything else (Q8).
        NamesystemEvent::Block(BlockEvent::Completed { .. }) => tracing::trace!("{event:?}"),
        NamesystemEvent::Block(BlockEvent::Corrupt { name, block }) => {
            tracing::warn!("the replica of {block} on DataNode {name} is corrupt");
        }
        other => tracing::info!("{other:?}"),
    }
}
