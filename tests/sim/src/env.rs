//! The seam as nodes of the world see it.

use crate::disk::SimDisk;
use crate::network::SimNet;
use crate::node::NodeId;
use crate::report::Promise;
use crate::timers::TimerKey;
use crate::world::{Handle, Shared, disarm, poll_until};
use hadal_env::{Clock, Compute, Env, Random, Seam};
use hadal_types::Tick;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// One shard of one life of a node. What an older life holds does nothing any more: its sends vanish,
/// its waits never end.
#[derive(Clone)]
pub struct SimEnv {
    pub(crate) shared: Rc<Shared>,
    pub(crate) node: NodeId,
    pub(crate) incarnation: u32,
    net: SimNet,
    disk: SimDisk,
}

impl SimEnv {
    pub(crate) fn new(handle: &Handle, node: NodeId, shard: usize) -> Self {
        let shared = Rc::clone(&handle.shared);
        let nodes = shared.nodes.borrow();
        let entry = &nodes[node.index()];
        let incarnation = entry.incarnation;
        let cell = Rc::clone(&shared.machines.borrow()[entry.machine].disk);
        let endpoint = *entry
            .endpoints
            .get(shard)
            .unwrap_or_else(|| panic!("{} has no shard {shard}", entry.principal));
        let net = SimNet::new(Rc::clone(&shared), node, incarnation, endpoint);
        let disk = SimDisk::new(Rc::clone(&shared), cell, node, incarnation);
        drop(nodes);
        Self {
            shared,
            node,
            incarnation,
            net,
            disk,
        }
    }

    /// The node this is the environment of.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The environment of another shard of the same process, with its own endpoint.
    ///
    /// # Panics
    /// When the node has no such shard.
    #[must_use]
    pub fn shard(&self, shard: usize) -> Self {
        let mut env = Self::new(&self.world(), self.node, shard);
        env.incarnation = self.incarnation;
        env
    }

    /// The world around it.
    #[must_use]
    pub fn world(&self) -> Handle {
        Handle {
            shared: Rc::clone(&self.shared),
        }
    }

    fn machine(&self) -> usize {
        self.shared.nodes.borrow()[self.node.index()].machine
    }
}

impl Clock for SimEnv {
    fn now(&self) -> Tick {
        let now = self.shared.now.get();
        Tick(
            self.shared.machines.borrow()[self.machine()]
                .clock
                .tick(now),
        )
    }

    fn wall_ms(&self) -> u64 {
        let now = self.shared.now.get();
        self.shared.machines.borrow()[self.machine()]
            .clock
            .wall_ms(now)
    }

    fn sleep_until(&self, deadline: Tick) -> impl Future<Output = ()> {
        Sleep {
            shared: Rc::clone(&self.shared),
            machine: self.machine(),
            deadline,
            timer: None,
        }
    }
}

impl Random for SimEnv {
    fn random_u64(&self) -> u64 {
        self.shared.nodes.borrow_mut()[self.node.index()]
            .rng
            .next_u64()
    }
}

impl Seam for SimEnv {
    type Net = SimNet;

    fn net(&self) -> &SimNet {
        &self.net
    }

    fn happened(&self, what: &'static str) {
        self.world().count(what, 1);
    }
}

/// Inline: one order of events.
impl Compute for SimEnv {}

impl Env for SimEnv {
    type Disk = SimDisk;

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        if self.shared.alive(self.node, self.incarnation) && !self.shared.ending() {
            self.shared
                .executor
                .borrow_mut()
                .spawn(self.node, name, Box::pin(task));
        }
    }

    fn stop(&self, exit_code: i32, reason: &str) {
        if self.shared.alive(self.node, self.incarnation) && !self.shared.ending() {
            self.world().exit(self.node, exit_code, reason);
        }
    }

    fn queue_length(&self, queue: &'static str, length: usize, most: usize) {
        let world = self.world();
        world.count("queue lengths told", 1);
        if length > most {
            let name = world.name(self.node);
            let detail = format!("{length} {queue} wait at {name}, {most} are the most");
            world.violate(Promise::P9, detail);
        }
    }
}

/// Waits for a time of the machine's own clock.
struct Sleep {
    shared: Rc<Shared>,
    machine: usize,
    deadline: Tick,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let at = this.shared.machines.borrow()[this.machine]
            .clock
            .world_time(this.deadline.0);
        poll_until(&this.shared, at, &mut this.timer, cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        disarm(&self.shared, &mut self.timer);
    }
}
