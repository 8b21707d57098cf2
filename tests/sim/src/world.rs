//! The world: nodes, their network and disks, one virtual clock, one seed.

use crate::disk::{DiskCell, DiskConfig, OpKey};
use crate::executor::{Executor, Running, TaskFuture};
use crate::network::{NetConfig, NetEvent, NetState};
use crate::node::{Machine, Node, NodeId, Status};
use crate::report::{self, Counters, Promise, Violation};
use crate::rng::{Rng, Stream};
use crate::timers::{TimerKey, Timers};
use crate::trace::{Tag, Trace, hash_name};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Write;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What a world starts with. Everything not set here follows from the seed.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// The seed.
    pub seed: u64,
    /// Delays, time-outs and bounds of the network.
    pub net: NetConfig,
    /// Latencies and sizes of every disk.
    pub disk: DiskConfig,
    /// How many polls may happen without virtual time moving before it counts as spinning.
    pub poll_limit: u64,
    /// The command that repeats this run, for the message of a panic.
    pub repeat: String,
}

impl WorldConfig {
    /// The usual world under this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            net: NetConfig::default(),
            disk: DiskConfig::default(),
            poll_limit: 200_000,
            repeat: format!("World::new({seed}) in this test"),
        }
    }
}

/// What happens when a timer fires.
pub(crate) enum Fire {
    Wake(Waker),
    Disk { cell: Rc<DiskCell>, op: OpKey },
    Net(NetEvent),
    Call(Box<dyn FnOnce(&Handle)>),
}

/// Everything of one world. All borrows of its cells are short and never held while user code runs.
pub(crate) struct Shared {
    pub(crate) config: WorldConfig,
    pub(crate) now: Cell<u64>,
    pub(crate) executor: RefCell<Executor>,
    pub(crate) timers: RefCell<Timers<Fire>>,
    pub(crate) trace: RefCell<Trace>,
    pub(crate) nodes: RefCell<Vec<Node>>,
    pub(crate) machines: RefCell<Vec<Machine>>,
    pub(crate) net: RefCell<NetState>,
    schedule: RefCell<Rng>,
    /// Futures of killed tasks, dropped only when no task is being polled.
    graveyard: RefCell<Vec<TaskFuture>>,
    polling: Cell<bool>,
    polls: Cell<u64>,
    polls_total: Cell<u64>,
    ending: Cell<bool>,
    violation: RefCell<Option<Violation>>,
    counters: RefCell<Counters>,
}

impl Shared {
    #[inline]
    pub(crate) fn note(&self, tag: Tag, a: u64, b: u64, words: impl FnOnce() -> String) {
        self.trace
            .borrow_mut()
            .event(self.now.get(), tag, a, b, words);
    }

    pub(crate) fn arm(&self, at: u64, fire: Fire) -> TimerKey {
        self.timers.borrow_mut().arm(at.max(self.now.get()), fire)
    }

    pub(crate) fn arm_in(&self, delay: u64, fire: Fire) -> TimerKey {
        self.arm(self.now.get().saturating_add(delay), fire)
    }

    /// That life of the node is still going on.
    pub(crate) fn alive(&self, node: NodeId, incarnation: u32) -> bool {
        let nodes = self.nodes.borrow();
        let node = &nodes[node.index()];
        node.incarnation == incarnation && node.exists()
    }

    /// The world is being taken down: handles that are dropped have nobody to tell.
    pub(crate) fn ending(&self) -> bool {
        self.ending.get()
    }

    pub(crate) fn bury(&self, futures: Vec<TaskFuture>) {
        self.graveyard.borrow_mut().extend(futures);
        if !self.polling.get() {
            self.fill_graves();
        }
    }

    fn fill_graves(&self) {
        loop {
            let dead = std::mem::take(&mut *self.graveyard.borrow_mut());
            if dead.is_empty() {
                return;
            }
            drop(dead);
        }
    }
}

/// A cloneable handle on the world, for controllers, checkers and fault schedules that run inside it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Rc<Shared>,
}

/// A simulated world. Derefs to [`Handle`], which has the controls. Taken down when dropped.
pub struct World {
    handle: Handle,
}

impl Deref for World {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        shared.ending.set(true);
        let killed = shared.executor.borrow_mut().kill(None);
        drop(killed);
        shared.fill_graves();
        let timers = shared.timers.borrow_mut().drain();
        drop(timers);
        // Start closures may hold handles on this world.
        let starts: Vec<_> = shared
            .nodes
            .borrow_mut()
            .iter_mut()
            .map(|node| node.start.take())
            .collect();
        drop(starts);
    }
}

impl World {
    /// The usual world under this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_config(WorldConfig::new(seed))
    }

    /// A world made to order.
    #[must_use]
    pub fn with_config(config: WorldConfig) -> Self {
        let seed = config.seed;
        let shared = Rc::new(Shared {
            now: Cell::new(0),
            executor: RefCell::new(Executor::new()),
            timers: RefCell::new(Timers::new()),
            trace: RefCell::new(Trace::new(seed)),
            nodes: RefCell::new(Vec::new()),
            machines: RefCell::new(Vec::new()),
            net: RefCell::new(NetState::new(seed, config.net.clone())),
            schedule: RefCell::new(Rng::new(seed, Stream::Schedule, 0)),
            graveyard: RefCell::new(Vec::new()),
            polling: Cell::new(false),
            polls: Cell::new(0),
            polls_total: Cell::new(0),
            ending: Cell::new(false),
            violation: RefCell::new(None),
            counters: RefCell::new(Counters::default()),
            config,
        });
        let handle = Handle { shared };
        handle.add_host();
        Self { handle }
    }

    /// A handle for code that runs inside the world.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Virtual nanoseconds of a duration.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The world's own pseudo-node: controllers and checkers run on it; it never fails.
pub(crate) const HOST: NodeId = NodeId(0);

impl Handle {
    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.shared.config.seed
    }

    /// Virtual time since the start of the world.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.shared.now.get())
    }

    /// The hash over all that happened so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.shared.trace.borrow().hash()
    }

    /// How many events were folded into the trace.
    #[must_use]
    pub fn trace_events(&self) -> u64 {
        self.shared.trace.borrow().events()
    }

    /// How many times tasks were polled.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.shared.polls_total.get()
    }

    /// How many tasks live.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.shared.executor.borrow().len()
    }

    /// Writes every event in words to `log` from now on. Does not change the run or its hash.
    pub fn log_to(&self, log: Box<dyn Write>) {
        self.shared.trace.borrow_mut().log_to(Some(log));
    }

    /// Folds an event of the test's own into the trace (and the log). Makes a divergence easier to find.
    pub fn trace_note(&self, name: &'static str, value: u64) {
        self.shared
            .note(Tag::Note, hash_name(name.as_bytes()), value, || {
                format!("{name} {value}")
            });
    }

    /// A random stream that depends only on the seed, `purpose` and `index`.
    #[must_use]
    pub fn rng(&self, purpose: Stream, index: u64) -> Rng {
        // Odd salts keep streams given out apart from those the world draws from itself.
        Rng::new(
            self.seed(),
            purpose,
            index.wrapping_mul(2).wrapping_add(0x8000_0001),
        )
    }

    /// Adds to a counter of the run (reliability.md S11).
    pub fn count(&self, name: &'static str, by: u64) {
        self.shared.counters.borrow_mut().add(name, by);
    }

    /// The run's counters: those counted by the test, and the world's own faults.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut all = self.shared.counters.borrow().clone();
        self.add_disk_counters(&mut all);
        self.add_net_counters(&mut all);
        all
    }

    /// Records that a promise was broken; the first one counts. Runs end at once, also from inside a task.
    pub fn violate(&self, promise: Promise, detail: impl Into<String>) {
        let mut slot = self.shared.violation.borrow_mut();
        if slot.is_none() {
            *slot = Some(Violation {
                promise,
                detail: detail.into(),
            });
        }
    }

    /// The broken promise, if any.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.shared.violation.borrow().clone()
    }

    /// Waits in virtual time; for controllers inside the world.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        let at = self.shared.now.get().saturating_add(nanos(duration));
        WorldSleep {
            shared: Rc::clone(&self.shared),
            at,
            timer: None,
        }
    }

    /// Runs a controller or checker inside the world, on no node: no fault touches it.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.spawn_on(HOST, name, task);
    }

    /// Runs a task on a node, in its present life. Dropped at once when the node is down.
    pub fn spawn_on(
        &self,
        node: NodeId,
        name: &'static str,
        task: impl Future<Output = ()> + 'static,
    ) {
        if !self.shared.ending() && self.shared.nodes.borrow()[node.index()].exists() {
            self.shared
                .executor
                .borrow_mut()
                .spawn(node, name, Box::pin(task));
        }
    }

    /// Does something at a later virtual time.
    pub fn at(&self, delay: Duration, action: impl FnOnce(&Self) + 'static) {
        self.shared
            .arm_in(nanos(delay), Fire::Call(Box::new(action)));
    }

    /// Runs the world for so long. Ends earlier when a promise was violated.
    pub fn run_for(&self, duration: Duration) {
        let limit = self.shared.now.get().saturating_add(nanos(duration));
        self.run(limit, || false);
    }

    /// Runs until `done` says so, asked whenever nothing is ready at the present instant. False when
    /// `limit` of virtual time passed first or a promise was violated.
    pub fn run_until(&self, limit: Duration, done: impl FnMut() -> bool) -> bool {
        let limit = self.shared.now.get().saturating_add(nanos(limit));
        self.run(limit, done)
    }

    /// Runs `task` on a node to its end and hands its result out.
    ///
    /// # Panics
    /// When it did not end within one virtual hour, or the node went down under it.
    pub fn block_on<T: 'static>(&self, node: NodeId, task: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let result = Rc::clone(&slot);
        self.spawn_on(node, "block_on", async move {
            let value = task.await;
            *result.borrow_mut() = Some(value);
        });
        self.run_until(Duration::from_secs(3600), || slot.borrow().is_some());
        let value = slot.borrow_mut().take();
        value.unwrap_or_else(|| {
            panic!(
                "seed {}: the task did not end within an hour of virtual time; violation: {:?}",
                self.seed(),
                self.violation()
            )
        })
    }

    fn run(&self, limit: u64, mut done: impl FnMut() -> bool) -> bool {
        let shared = &self.shared;
        loop {
            while shared.violation.borrow().is_none() && self.poll_one() {}
            if shared.violation.borrow().is_some() {
                return false;
            }
            if done() {
                return true;
            }
            let next = shared.timers.borrow_mut().next_at();
            let Some(at) = next.filter(|at| *at <= limit) else {
                if limit != u64::MAX {
                    shared.now.set(limit);
                }
                return false;
            };
            if at > shared.now.get() {
                shared.now.set(at);
                shared.polls.set(0);
            }
            loop {
                let fire = shared.timers.borrow_mut().pop_due(at);
                let Some(fire) = fire else { break };
                self.fire(fire);
            }
        }
    }

    fn fire(&self, fire: Fire) {
        match fire {
            Fire::Wake(waker) => waker.wake(),
            Fire::Disk { cell, op } => crate::disk::complete(self, &cell, op),
            Fire::Net(event) => crate::network::happen(&self.shared, event),
            Fire::Call(action) => action(self),
        }
    }

    /// Polls one ready task. False when none is ready.
    fn poll_one(&self) -> bool {
        let shared = &self.shared;
        let next = shared
            .executor
            .borrow_mut()
            .next_ready(&mut shared.schedule.borrow_mut());
        let Some(key) = next else { return false };
        let Some(node) = shared.executor.borrow_mut().node_of(key) else {
            return true;
        };
        {
            let mut nodes = shared.nodes.borrow_mut();
            let node = &mut nodes[node.index()];
            if node.status == Status::Paused {
                node.parked.push(key);
                return true;
            }
        }
        let Some(running) = shared.executor.borrow_mut().take(key) else {
            return true;
        };
        let Running {
            key,
            node,
            name,
            name_hash,
            mut future,
            waker,
        } = running;
        shared.polls_total.set(shared.polls_total.get() + 1);
        shared.polls.set(shared.polls.get() + 1);
        assert!(
            shared.polls.get() <= shared.config.poll_limit,
            "seed {}: task '{name}' of {} spins: {} polls at the same virtual instant; repeat with: {}",
            self.seed(),
            self.name(node),
            shared.config.poll_limit,
            shared.config.repeat,
        );
        shared.note(Tag::Poll, u64::from(node.0), name_hash, || {
            format!("{} {name}", self.name(node))
        });
        shared.polling.set(true);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        match polled {
            Ok(Poll::Pending) => {
                let killed = shared.executor.borrow_mut().put_back(key, future);
                drop(killed);
            }
            Ok(Poll::Ready(())) => {
                shared.executor.borrow_mut().finish(key);
                drop(future);
            }
            Err(panic) => {
                shared.executor.borrow_mut().finish(key);
                shared.polling.set(false);
                report::panicked(&format!(
                    "seed {}: task '{name}' of {} panicked at virtual {:.6} s (trace hash {:#018x}); repeat with: {}",
                    self.seed(),
                    self.name(node),
                    shared.now.get() as f64 / 1e9,
                    self.trace_hash(),
                    shared.config.repeat,
                ));
                resume_unwind(panic);
            }
        }
        shared.fill_graves();
        shared.polling.set(false);
        true
    }
}

/// Waits for a world time.
struct WorldSleep {
    shared: Rc<Shared>,
    at: u64,
    timer: Option<TimerKey>,
}

impl Future for WorldSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        poll_until(&self.shared.clone(), self.at, &mut self.timer, cx)
    }
}

impl Drop for WorldSleep {
    fn drop(&mut self) {
        disarm(&self.shared, &mut self.timer);
    }
}

/// Ready once the world is at `at`; arms or refreshes the timer otherwise.
pub(crate) fn poll_until(
    shared: &Shared,
    at: u64,
    timer: &mut Option<TimerKey>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if shared.now.get() >= at {
        disarm(shared, timer);
        return Poll::Ready(());
    }
    let fire = Fire::Wake(cx.waker().clone());
    let mut timers = shared.timers.borrow_mut();
    match *timer {
        Some(key) => {
            // Already fired but not yet due: the clock's rate changed meanwhile.
            let waker = cx.waker().clone();
            if !timers.replace(key, fire) {
                *timer = Some(timers.arm(at, Fire::Wake(waker)));
            }
        }
        None => *timer = Some(timers.arm(at, fire)),
    }
    Poll::Pending
}

/// Takes a timer back.
pub(crate) fn disarm(shared: &Shared, timer: &mut Option<TimerKey>) {
    if let Some(key) = timer.take() {
        let fire = shared.timers.borrow_mut().cancel(key);
        drop(fire);
    }
}

/// Runs what a test does on a node to its end.
#[cfg(test)]
pub(crate) fn on<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    node: NodeId,
    work: impl FnOnce(crate::SimEnv) -> F,
) -> T {
    world.block_on(node, work(world.env_of(node)))
}
