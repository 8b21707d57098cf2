//! The facade: one NameNode's mind.

use crate::barrier::Barrier;
use crate::caller::Caller;
use crate::config::NamesystemConfig;
use crate::effect::{Effect, forward};
use crate::image::Loaded;
use crate::lease::{Leases, NAMENODE_HOLDER, TRUNCATE_HOLDER, is_namenode};
use crate::ops::Attempts;
use crate::output::{Answer, Event, Output};
use crate::retry::RetryCache;
use crate::standby_reads::StandbyReads;
use crate::state::{Counters, State, View};
use crate::trail::Trail;
use crate::tree::Tree;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use hadal_blocks::{BlockConfig, BlockEvent, BlockManager, HostLists, Sorted, Sorting};
use hadal_proto::client::{ClientCall, Reply, Request, Response};
use hadal_proto::edit::{Edit, EditOp};
use hadal_proto::{Fault, FaultClass, admin, datanode};
use hadal_types::{BlockId, CallId, ClientId, Epoch, HaState, InodeId, Principal, Tick, TxId};

/// One NameNode's mind: tree, leases, retry cache, edits and the commit barrier, with the block manager
/// underneath. See the crate's documentation for how a driver uses it.
pub struct Namesystem {
    pub(crate) config: NamesystemConfig,
    pub(crate) state: State,
    pub(crate) blocks: BlockManager,
    pub(crate) barrier: Barrier,
    pub(crate) ha: HaState,
    pub(crate) epoch: Epoch,
    /// Files the NameNode itself recovers, and how that goes.
    pub(crate) recoveries: BTreeMap<InodeId, Attempts>,
    /// While standby or observer.
    pub(crate) standby_reads: StandbyReads,
    effects: Vec<Effect>,
    next_lease_check: Tick,
    /// Since when DataNodes may report here.
    pub(crate) started: Tick,
    pub(crate) active_hint: String,
    pub(crate) last_checkpoint: TxId,
    /// While active and alone.
    trail: Option<Trail>,
}

/// Who calls, when, and as which call: what every operation needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) now: Tick,
    pub(crate) wall_ms: u64,
    pub(crate) caller: &'a Caller,
    pub(crate) client: ClientId,
    pub(crate) call: CallId,
}

/// Life: format, image, journal, roles.
impl Namesystem {
    /// A freshly formatted namespace at txid 0: a root directory owned by the superuser, the same on every
    /// NameNode of the namespace (its times are the format's). `seed` drives block placement.
    #[must_use]
    pub fn format(config: NamesystemConfig, blocks: BlockConfig, seed: u64) -> Self {
        let tree = Tree::with_root(
            &config.superuser,
            &config.supergroup,
            0o755,
            config.info.created_ms,
        );
        let state = State {
            tree,
            leases: Leases::default(),
            retry: RetryCache::new(config.retry_cache_ms, config.retry_cache_max),
            counters: Counters::FIRST,
        };
        Self::with_state(config, blocks, seed, state)
    }

    /// The namespace of an image.
    #[must_use]
    pub fn load(config: NamesystemConfig, blocks: BlockConfig, seed: u64, image: Loaded) -> Self {
        let mut namesystem = Self::with_state(config, blocks, seed, image.state);
        namesystem.blocks.remember_storages(image.storages);
        for staged in image.blocks {
            namesystem.blocks.stage(staged);
        }
        namesystem.last_checkpoint = namesystem.applied();
        namesystem.tell_applied();
        namesystem
    }

    /// The work that [`Self::load`] leaves to do on the block map, in pieces that may run on any thread: each has to come back
    /// by [`Self::sorted`] before anything else is done here. It need not be taken: [`Self::start`] does what is left.
    #[must_use]
    pub fn sorting(&mut self) -> Vec<Sorting> {
        self.blocks.sorting()
    }

    /// A piece of [`Self::sorting`] is done.
    pub fn sorted(&mut self, sorted: Sorted) {
        self.blocks.sorted(sorted);
    }

    fn with_state(config: NamesystemConfig, blocks: BlockConfig, seed: u64, state: State) -> Self {
        let blocks = BlockManager::new(blocks, config.info.clone(), seed);
        let mut barrier = Barrier::default();
        barrier.commit(state.counters.txid);
        Self {
            config,
            state,
            blocks,
            barrier,
            ha: HaState::Initializing,
            epoch: Epoch(0),
            recoveries: BTreeMap::new(),
            standby_reads: StandbyReads::default(),
            effects: Vec::new(),
            next_lease_check: Tick::NEVER,
            started: Tick::NEVER,
            active_hint: String::new(),
            last_checkpoint: TxId(0),
            trail: None,
        }
    }

    /// Image and durable journal are loaded: a standby from now on, safe mode counts (F-03).
    pub fn start(&mut self, now: Tick) {
        self.ha = HaState::Standby;
        self.started = now;
        self.blocks.become_standby(now, self.ha);
        self.blocks.start(now);
        self.drain_block_events();
    }

    /// Applies a committed edit of the journal (start-up, standby, last catch-up before promotion).
    ///
    /// # Panics
    /// When `txid` does not follow the last one applied, when active, or when the edit does not fit the state.
    pub fn replay(&mut self, now: Tick, txid: TxId, edit: &Edit) {
        assert!(self.ha != HaState::Active, "an active makes its own edits");
        assert_eq!(
            txid,
            self.applied().next(),
            "edits are replayed without gaps"
        );
        self.state.leases.set_now(now);
        self.state.apply(edit, &mut self.effects);
        self.forget_planted(edit);
        forward(&mut self.effects, txid, &mut self.blocks);
        self.tell_applied();
        self.barrier.commit(txid);
        self.answer_standby_reads(now);
    }

    /// What planted bugs leave out of a replay.
    fn forget_planted(&mut self, edit: &Edit) {
        if self.config.planted.forget_retries_on_replay {
            self.state.retry =
                RetryCache::new(self.config.retry_cache_ms, self.config.retry_cache_max);
        }
        if let EditOp::Create { inode, .. } = &edit.op
            && self.config.planted.forget_leases_on_replay
        {
            self.state.leases.remove(*inode);
        }
    }

    fn tell_applied(&mut self) {
        let counters = self.state.counters;
        self.blocks.applied(
            counters.txid,
            BlockId(counters.block.0 + 1),
            counters.generation_stamp,
        );
    }

    /// Takes the active role: `epoch` is claimed at a majority and everything before `next_txid` is applied.
    /// All leases count as renewed (F-07). Emits the `StartSegment` edit.
    ///
    /// # Panics
    /// When `next_txid` is not the one behind the last applied edit.
    pub fn become_active(&mut self, now: Tick, wall_ms: u64, epoch: Epoch, next_txid: TxId) {
        assert_eq!(
            next_txid,
            self.applied().next(),
            "the journal's tail is applied before the role is taken"
        );
        self.end_standby_reads();
        self.ha = HaState::Active;
        self.epoch = epoch;
        self.state.leases.set_now(now);
        self.state.leases.renew_all(now);
        let leases = &self.state.leases;
        let recovering = [NAMENODE_HOLDER, TRUNCATE_HOLDER].into_iter();
        self.recoveries = recovering
            .flat_map(|holder| leases.files_of(holder))
            .map(|inode| (inode, Attempts::none(now)))
            .collect();
        self.next_lease_check = now.after_ms(self.config.lease_check_ms);
        self.blocks.become_active(now, epoch);
        self.trail = self.config.alone.then(|| Trail::new(&self.state));
        self.own_edit(wall_ms, EditOp::StartSegment);
        self.drain_block_events();
    }

    /// Takes the standby role. Parked replies fail with a retriable fault, edits not handed out are dropped.
    /// Returns whether edits were applied that are not known committed: then this state must be dropped and
    /// loaded again from image and journal (protocols.md section 0).
    #[must_use]
    pub fn become_standby(&mut self, now: Tick) -> bool {
        let dirty = self.applied() > self.committed();
        let mut count = 0;
        for (ticket, answer) in self.barrier.abandon() {
            count += 1;
            let fault = Fault::new(
                FaultClass::Retry,
                format!(
                    "{} lost the active role before the outcome was known; try again at the new active NameNode",
                    self.config.name
                ),
            );
            self.barrier.send(
                ticket,
                match answer {
                    Answer::Client(_) => Answer::Client(Err(fault)),
                    Answer::Datanode(_) => Answer::Datanode(Err(fault)),
                    Answer::Admin(_) => Answer::Admin(Err(fault)),
                },
            );
        }
        if count > 0 {
            self.event(Event::RepliesFailed { count });
        }
        // A state that may differ from the journal serves nothing until it is loaded again.
        self.ha = if dirty {
            HaState::Initializing
        } else {
            HaState::Standby
        };
        self.epoch = Epoch(0);
        self.recoveries.clear();
        self.trail = None;
        self.next_lease_check = Tick::NEVER;
        self.blocks.become_standby(now, self.ha);
        self.drain_block_events();
        dirty
    }

    /// Goes on as a standby or, aside of elections and checkpoints, as an observer (T-A4). The tail goes on.
    ///
    /// # Panics
    /// When it is active or not started, or `state` is neither of the two.
    pub fn follow_as(&mut self, now: Tick, state: HaState) {
        let follows = |state| matches!(state, HaState::Standby | HaState::Observer);
        assert!(
            follows(self.ha) && follows(state),
            "{} does not become {state} by an order to follow",
            self.ha
        );
        self.ha = state;
        self.blocks.become_standby(now, state);
        self.drain_block_events();
    }

    /// Takes the operator's include and exclude lists (`dfsadmin -refreshNodes`, start): in every role, so that a new
    /// active goes on where the old one was.
    pub fn set_hosts(&mut self, now: Tick, hosts: HostLists) {
        self.blocks.set_hosts(now, hosts);
        self.drain_block_events();
    }

    /// Names the active NameNode, for redirects; empty when unknown.
    pub fn set_active_hint(&mut self, name: impl Into<String>) {
        self.active_hint = name.into();
    }

    /// An image of `txid` was published here.
    pub fn set_last_checkpoint(&mut self, txid: TxId) {
        self.last_checkpoint = self.last_checkpoint.max(txid);
    }
}

/// Getters.
impl Namesystem {
    /// The settings.
    #[must_use]
    pub fn config(&self) -> &NamesystemConfig {
        &self.config
    }

    /// The role it plays.
    #[must_use]
    pub fn state(&self) -> HaState {
        self.ha
    }

    /// The epoch it writes in; zero when not active.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Last edit applied here.
    #[must_use]
    pub fn applied(&self) -> TxId {
        self.state.counters.txid
    }

    /// Last edit known durable at a majority.
    #[must_use]
    pub fn committed(&self) -> TxId {
        self.barrier.committed()
    }

    /// The newest image known here.
    #[must_use]
    pub fn last_checkpoint(&self) -> TxId {
        self.last_checkpoint
    }

    /// Replies behind the commit barrier.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.barrier.parked()
    }

    /// Start-up or manual safe mode is on.
    #[must_use]
    pub fn in_safe_mode(&self) -> bool {
        self.blocks.in_safe_mode()
    }

    /// The block manager, to look at.
    #[must_use]
    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    /// A point-in-time view for a checkpoint or a digest; cheap, and readable on another thread. On an active it
    /// may hold edits that are not committed: write no image of it before [`Self::committed`] reached
    /// [`View::txid`].
    #[must_use]
    pub fn view(&self) -> View {
        self.state.view()
    }
}

/// What arrives.
impl Namesystem {
    /// A client's call. The answer comes from [`Self::poll_output`] with this ticket, once everything it could
    /// have seen is committed. The driver has checked the active lease in the same step (protocols.md section 2).
    pub fn handle_client(
        &mut self,
        now: Tick,
        wall_ms: u64,
        caller: &Caller,
        ticket: u64,
        call: ClientCall,
    ) {
        // Who is active, and refusals that saw nothing else, need no barrier.
        if matches!(call.request, Request::GetServiceState) {
            let reply = Reply {
                txid: self.committed(),
                response: self.service_state(),
            };
            return self.barrier.send(ticket, Answer::Client(Ok(reply)));
        }
        if self.may_read_here(&call) {
            return self.standby_read(now, caller, ticket, call);
        }
        if let Err(fault) = self.require_active() {
            return self.barrier.send(ticket, Answer::Client(Err(fault)));
        }
        if let Some(fault) = self.over_bound() {
            return self.barrier.send(ticket, Answer::Client(Err(fault)));
        }
        self.state.leases.set_now(now);
        let context = Context {
            now,
            wall_ms,
            caller,
            client: call.client,
            call: call.call,
        };
        let planted = self.config.planted;
        let skip_barrier = planted.skip_commit_barrier
            || (planted.skip_read_barrier && !call.request.is_mutation());
        let outcome = self.client_call(context, call.request);
        if skip_barrier {
            return self.barrier.send(ticket, Answer::Client(outcome));
        }
        let seen = self.applied();
        self.barrier.answer(seen, ticket, Answer::Client(outcome));
    }

    /// Answers a call as of the last committed edit, whatever is applied behind it: for while no majority of
    /// JournalNodes answers (protocols.md section 2). No answer shows anything of an edit that is not committed, so it
    /// leaves at once. `None` when the call needs the journal, or this NameNode is not active or not
    /// [`NamesystemConfig::alone`].
    pub fn read_committed(
        &mut self,
        now: Tick,
        caller: &Caller,
        call: &ClientCall,
    ) -> Option<Result<Reply, Fault>> {
        if call.request.is_mutation() || self.ha != HaState::Active {
            return None;
        }
        let txid = self.committed();
        let mut trail = self.trail.take()?;
        let mut committed = trail.state_at(txid);
        let context = Context {
            now,
            wall_ms: 0,
            caller,
            client: call.client,
            call: call.call,
        };
        let response = match &call.request {
            Request::GetServiceState => Ok(self.service_state()),
            // Leases are renewed for good; no reader sees them.
            Request::RenewLease => self.dispatch(context, Request::RenewLease),
            request => {
                core::mem::swap(&mut self.state, &mut committed);
                let response = self.dispatch(context, request.clone());
                core::mem::swap(&mut self.state, &mut committed);
                response
            }
        };
        debug_assert_eq!(committed.counters.txid, txid, "reads change nothing");
        trail.keep(committed);
        self.trail = Some(trail);
        Some(response.map(|response| Reply { txid, response }))
    }

    fn over_bound(&self) -> Option<Fault> {
        (self.barrier.parked() >= self.config.parked_max).then(|| {
            Fault::new(
                FaultClass::Busy,
                format!(
                    "{} calls wait for the journal, the limit (parked_max); try again",
                    self.barrier.parked()
                ),
            )
            .with_value(100)
        })
    }

    fn client_call(&mut self, context: Context<'_>, request: Request) -> Result<Reply, Fault> {
        if request.is_mutation() {
            if context.client == ClientId::default() || is_namenode(context.client) {
                return Err(Fault::new(
                    FaultClass::BadRequest,
                    format!(
                        "{} needs a client id of its own, not {}",
                        request.name(),
                        context.client
                    ),
                ));
            }
            if let Some(entry) = self.state.retry.get(context.client, context.call)
                && !self.config.planted.forget_retries
            {
                let (txid, outcome) = (entry.txid, entry.outcome.clone());
                let time_ms = entry.time_ms;
                let response = self.repeat(context, time_ms, outcome, &request)?;
                let txid = match response {
                    // The block's edit is right behind the file's.
                    Response::Created { block: Some(_), .. } => txid.next(),
                    _ => txid,
                };
                return Ok(Reply { txid, response });
            }
            if self.blocks.in_safe_mode() {
                return Err(Fault::new(
                    FaultClass::SafeMode,
                    format!(
                        "Cannot run {}. Name node is in safe mode.\n{}",
                        request.name(),
                        self.blocks.safe_mode_message()
                    ),
                )
                .with_value(u64::from(self.blocks.safe_mode_ends_by_itself())));
            }
        }
        let response = self.dispatch(context, request)?;
        Ok(Reply {
            txid: self.applied(),
            response,
        })
    }

    pub(crate) fn require_active(&self) -> Result<(), Fault> {
        match self.ha {
            HaState::Active => Ok(()),
            HaState::Initializing => Err(Fault::new(
                FaultClass::Retry,
                format!("{} is starting; try again", self.config.name),
            )
            .with_hint(self.active_hint.clone())),
            HaState::Standby | HaState::Observer => Err(Fault::new(
                FaultClass::Standby,
                format!(
                    "Operation category READ or WRITE is not supported in state {} of {}; ask the active NameNode{}{}",
                    self.ha,
                    self.config.name,
                    if self.active_hint.is_empty() { "" } else { ", " },
                    self.active_hint
                ),
            )
            .with_hint(self.active_hint.clone())),
        }
    }

    fn service_state(&self) -> Response {
        Response::ServiceState {
            state: self.ha,
            active: if self.ha == HaState::Active {
                self.config.name.clone()
            } else {
                self.active_hint.clone()
            },
        }
    }

    /// A DataNode's call. Answers leave at once: the block manager lets out only commands whose cause is
    /// committed. A block recovery's result makes edits and is answered when they are committed.
    pub fn handle_datanode(
        &mut self,
        now: Tick,
        wall_ms: u64,
        peer: &Principal,
        ticket: u64,
        request: datanode::Request,
    ) {
        self.state.leases.set_now(now);
        if let datanode::Request::CommitBlockSynchronization {
            block,
            recovery_id,
            length,
            nodes,
            delete,
        } = request
        {
            if let Some(fault) = self.require_active().err().or_else(|| self.over_bound()) {
                return self.barrier.send(ticket, Answer::Datanode(Err(fault)));
            }
            let outcome =
                self.commit_synchronization(wall_ms, block, recovery_id, length, &nodes, delete);
            let answer = outcome.map(|()| datanode::Response::Done);
            let seen = self.applied();
            self.barrier.answer(seen, ticket, Answer::Datanode(answer));
        } else {
            if let datanode::Request::ErrorReport { code, message } = &request {
                self.event(Event::DatanodeError {
                    name: peer.name.clone(),
                    code: *code,
                    message: message.clone(),
                });
            }
            let committed = self.committed();
            let answer = self
                .blocks
                .handle_request(now, &peer.name, request, committed);
            self.barrier.send(ticket, Answer::Datanode(answer));
        }
        self.drain_block_events();
    }

    /// An operator's call. Status, statistics, DataNode report and safe mode are answered at once, the rest
    /// like a client's. What concerns images, roles and health is the driver's and answered `Unsupported` here.
    pub fn handle_admin(&mut self, now: Tick, wall_ms: u64, ticket: u64, request: admin::Request) {
        self.state.leases.set_now(now);
        // What operators watch must stay visible while the journal is stuck; it is no part of the namespace.
        let is_watching = matches!(
            request,
            admin::Request::GetStatus
                | admin::Request::NamenodeStats
                | admin::Request::DatanodeReport
                | admin::Request::SafeMode { .. }
        );
        if !is_watching && let Some(fault) = self.over_bound() {
            return self.barrier.send(ticket, Answer::Admin(Err(fault)));
        }
        let answer = Answer::Admin(self.admin_call(now, wall_ms, request));
        if is_watching {
            self.barrier.send(ticket, answer);
        } else {
            self.barrier.answer(self.applied(), ticket, answer);
        }
        self.drain_block_events();
    }

    /// Everything up to `txid` is durable at a majority: what waited for it may leave.
    pub fn handle_committed(&mut self, _now: Tick, txid: TxId) {
        assert!(txid <= self.applied(), "only applied edits are committed");
        self.barrier.commit(txid);
        if let Some(trail) = &mut self.trail {
            trail.committed(txid);
        }
    }

    /// The time [`Self::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Tick, wall_ms: u64) {
        self.state.leases.set_now(now);
        if self.blocks.poll_timeout().is_some_and(|at| at <= now) {
            self.blocks.handle_timeout(now);
        }
        if self.next_lease_check <= now {
            self.next_lease_check = now.after_ms(self.config.lease_check_ms);
            self.check_leases(now, wall_ms);
        }
        self.expire_standby_reads(now);
        self.drain_block_events();
    }

    /// When [`Self::handle_timeout`] wants to be called, at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let leases = Some(self.next_lease_check).filter(|at| *at < Tick::NEVER);
        [
            leases,
            self.blocks.poll_timeout(),
            self.standby_reads.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What to do next; `None` when there is nothing. Edits come first, replies behind them.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.barrier.poll();
        if let Some(Output::Edits { first, records }) = &output
            && let Some(trail) = &mut self.trail
        {
            trail.handed_out(*first, records);
        }
        output
    }
}

/// Making edits.
impl Namesystem {
    /// Applies an edit for a call and sends it on its way. The call's outcome is in the retry cache from here on.
    pub(crate) fn edit(&mut self, context: Context<'_>, op: EditOp) -> TxId {
        self.commit_edit(Edit {
            time_ms: context.wall_ms,
            client: context.client,
            call: context.call,
            op,
        })
    }

    /// Applies an edit of the NameNode's own.
    pub(crate) fn own_edit(&mut self, wall_ms: u64, op: EditOp) -> TxId {
        self.commit_edit(Edit {
            time_ms: wall_ms,
            client: ClientId::default(),
            call: CallId(0),
            op,
        })
    }

    fn commit_edit(&mut self, edit: Edit) -> TxId {
        assert!(self.ha == HaState::Active, "only the active makes edits");
        let txid = self.state.apply(&edit, &mut self.effects);
        self.barrier.push_edit(txid, &edit);
        forward(&mut self.effects, txid, &mut self.blocks);
        self.tell_applied();
        if let Some(trail) = &mut self.trail {
            trail.edited(&self.state);
        }
        txid
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.barrier.emit(Output::Event(event));
    }

    fn drain_block_events(&mut self) {
        while let Some(event) = self.blocks.poll_event() {
            if let BlockEvent::Completed { inode, .. } = &event
                && let Some(attempts) = self.recoveries.get_mut(inode)
            {
                // The lease monitor waited for just this; let it close the file at its next turn.
                attempts.next = Tick::default();
            }
            self.event(Event::Block(event));
        }
    }
}
