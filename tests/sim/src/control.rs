//! Adding, crashing, starting and pausing nodes; their clocks.

use crate::disk::{DiskCell, SimDisk};
use crate::env::SimEnv;
use crate::node::{Crash, Machine, MachineClock, Node, NodeId, NodeSpec, Start, Status};
use crate::report::Counters;
use crate::rng::{Rng, Stream};
use crate::trace::Tag;
use crate::world::{HOST, Handle};
use hadal_types::{Principal, Role};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

const HOUR_NS: u64 = 3_600_000_000_000;

impl Handle {
    pub(crate) fn add_host(&self) {
        let addr = SocketAddr::from(([10, 255, 0, 1], 1));
        let host = self.register(&NodeSpec::new("world", Role::Admin, addr), None);
        assert_eq!(host, HOST, "the host is the first node");
    }

    fn register(&self, spec: &NodeSpec, start: Option<Start>) -> NodeId {
        assert!(
            !spec.endpoints.is_empty(),
            "node {} needs an endpoint",
            spec.name
        );
        let shared = &self.shared;
        let id =
            NodeId(u16::try_from(shared.nodes.borrow().len()).expect("fewer than 65536 nodes"));
        let machine = match spec.machine_of {
            Some(other) => shared.nodes.borrow()[other.index()].machine,
            None => {
                let mut machines = shared.machines.borrow_mut();
                let index = machines.len();
                let mut rng = Rng::new(self.seed(), Stream::Clock, index as u64);
                // Ticks of two machines must not be comparable by accident.
                let clock = MachineClock::new(shared.now.get(), rng.range(HOUR_NS, 1000 * HOUR_NS));
                let disk = DiskCell::new(self.seed(), index, shared.config.disk.clone());
                machines.push(Machine { clock, disk, rng });
                index
            }
        };
        let endpoints = shared.net.borrow_mut().add_endpoints(id, &spec.endpoints);
        shared.nodes.borrow_mut().push(Node {
            principal: Principal {
                role: spec.role,
                name: spec.name.clone(),
            },
            machine,
            endpoints,
            start,
            status: Status::Up,
            incarnation: 1,
            parked: Vec::new(),
            rng: Rng::new(self.seed(), Stream::Env, u64::from(id.0)),
        });
        id
    }

    /// Adds a daemon with one endpoint and a machine of its own, and starts it: `start` is called now
    /// and at every restart, with a fresh environment on the same disk. The future it returns is the
    /// node's first task.
    pub fn add_node<F>(&self, name: &str, role: Role, addr: SocketAddr, start: F) -> NodeId
    where
        F: Fn(SimEnv) -> Pin<Box<dyn Future<Output = ()>>> + 'static,
    {
        self.add_node_with(&NodeSpec::new(name, role, addr), start)
    }

    /// Adds a daemon made to order, and starts it.
    pub fn add_node_with<F>(&self, spec: &NodeSpec, start: F) -> NodeId
    where
        F: Fn(SimEnv) -> Pin<Box<dyn Future<Output = ()>>> + 'static,
    {
        let id = self.register(spec, Some(Rc::new(start)));
        self.launch(id);
        id
    }

    /// Adds a client machine of user `name`: nothing runs on it until something is spawned there.
    pub fn add_client(&self, name: &str) -> NodeId {
        let number = self.shared.nodes.borrow().len() as u16;
        let [high, low] = number.to_be_bytes();
        let addr = SocketAddr::from(([10, 200, high, low], 40_000));
        self.register(&NodeSpec::new(name, Role::Client, addr), None)
    }

    fn launch(&self, id: NodeId) {
        let start = self.shared.nodes.borrow()[id.index()].start.clone();
        if let Some(start) = start {
            let main = start(self.env_of(id));
            self.shared.executor.borrow_mut().spawn(id, "main", main);
        }
    }

    /// The environment of a node's present life (shard 0).
    #[must_use]
    pub fn env_of(&self, node: NodeId) -> SimEnv {
        SimEnv::new(self, node, 0)
    }

    /// A node's disk, with the controls of its faults.
    #[must_use]
    pub fn disk_of(&self, node: NodeId) -> SimDisk {
        let nodes = self.shared.nodes.borrow();
        let entry = &nodes[node.index()];
        let cell = Rc::clone(&self.shared.machines.borrow()[entry.machine].disk);
        SimDisk::new(Rc::clone(&self.shared), cell, node, entry.incarnation)
    }

    /// A node's name.
    #[must_use]
    pub fn name(&self, node: NodeId) -> String {
        self.shared.nodes.borrow()[node.index()]
            .principal
            .name
            .clone()
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeId> {
        let nodes = self.shared.nodes.borrow();
        nodes
            .iter()
            .position(|node| node.principal.name == name)
            .map(|index| NodeId(index as u16))
    }

    /// What a node is doing.
    #[must_use]
    pub fn status(&self, node: NodeId) -> Status {
        self.shared.nodes.borrow()[node.index()].status.clone()
    }

    /// Whether the node's process exists and runs.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.status(node) == Status::Up
    }

    /// Counts the lives of a node: another number means that it ended, or ended and was started, in between.
    #[must_use]
    pub fn life(&self, node: NodeId) -> u32 {
        self.shared.nodes.borrow()[node.index()].incarnation
    }

    /// Ends a node at the await points its tasks stand at. No effect when it is down. A power failure
    /// takes all nodes of the machine with it.
    pub fn crash(&self, node: NodeId, crash: Crash) {
        if crash == Crash::Process {
            self.end(node, Status::Down, "crash");
            return;
        }
        let machine = self.shared.nodes.borrow()[node.index()].machine;
        let count = self.shared.nodes.borrow().len();
        for id in (1..count).map(|index| NodeId(index as u16)) {
            if self.shared.nodes.borrow()[id.index()].machine == machine {
                self.end(id, Status::Down, "power failure");
            }
        }
        let now = self.shared.now.get();
        let cell = {
            let mut machines = self.shared.machines.borrow_mut();
            let machine = &mut machines[machine];
            let base = machine.rng.range(1_000_000_000, 60_000_000_000);
            machine.clock.reboot(now, base);
            Rc::clone(&machine.disk)
        };
        cell.power_failure();
    }

    pub(crate) fn exit(&self, node: NodeId, code: i32, reason: &str) {
        self.end(
            node,
            Status::Exited {
                code,
                reason: reason.to_owned(),
            },
            reason,
        );
    }

    fn end(&self, node: NodeId, status: Status, why: &str) {
        assert_ne!(node, HOST, "the world itself does not crash");
        let shared = &self.shared;
        let (old, machine) = {
            let mut nodes = shared.nodes.borrow_mut();
            let entry = &mut nodes[node.index()];
            if !entry.exists() {
                return;
            }
            entry.status = status;
            let old = entry.incarnation;
            entry.incarnation += 1;
            entry.parked.clear();
            (old, entry.machine)
        };
        shared.note(Tag::Node, u64::from(node.0), 1, || {
            format!("{} ends: {why}", self.name(node))
        });
        let cell = Rc::clone(&shared.machines.borrow()[machine].disk);
        cell.process_ended(node, old);
        crate::network::node_ended(shared, node);
        let killed = shared.executor.borrow_mut().kill(Some(node));
        shared.bury(killed);
    }

    /// Starts a node that is down, on the disk it left. No effect when it is up.
    pub fn restart(&self, node: NodeId) {
        {
            let mut nodes = self.shared.nodes.borrow_mut();
            let entry = &mut nodes[node.index()];
            if entry.exists() {
                return;
            }
            entry.status = Status::Up;
            entry.incarnation += 1;
        }
        self.shared.note(Tag::Node, u64::from(node.0), 2, || {
            format!("{} starts", self.name(node))
        });
        crate::network::node_started(&self.shared, node);
        self.launch(node);
    }

    /// Stops a running node in its tracks. Its disk operations go on, its peers hear nothing from it.
    pub fn pause(&self, node: NodeId) {
        {
            let mut nodes = self.shared.nodes.borrow_mut();
            if nodes[node.index()].status != Status::Up {
                return;
            }
            nodes[node.index()].status = Status::Paused;
        }
        self.shared.note(Tag::Node, u64::from(node.0), 3, || {
            format!("{} pauses", self.name(node))
        });
        crate::network::hearing_changed(&self.shared);
    }

    /// Lets a paused node go on.
    pub fn resume(&self, node: NodeId) {
        let parked = {
            let mut nodes = self.shared.nodes.borrow_mut();
            if nodes[node.index()].status != Status::Paused {
                return;
            }
            nodes[node.index()].status = Status::Up;
            std::mem::take(&mut nodes[node.index()].parked)
        };
        self.shared.note(Tag::Node, u64::from(node.0), 4, || {
            format!("{} goes on", self.name(node))
        });
        self.shared.executor.borrow_mut().make_ready(parked);
        crate::network::hearing_changed(&self.shared);
    }

    /// Makes a node's monotonic clock run fast or slow by parts per million, at most 5 %.
    pub fn set_clock_rate_ppm(&self, node: NodeId, rate_ppm: i32) {
        let machine = self.shared.nodes.borrow()[node.index()].machine;
        let now = self.shared.now.get();
        self.shared.machines.borrow_mut()[machine]
            .clock
            .set_rate_ppm(now, rate_ppm);
    }

    /// Puts a node's wall clock so far ahead (or behind) of true time.
    pub fn set_wall_offset_ms(&self, node: NodeId, offset_ms: i64) {
        let machine = self.shared.nodes.borrow()[node.index()].machine;
        self.shared.machines.borrow_mut()[machine]
            .clock
            .wall_offset_ms = offset_ms;
    }

    pub(crate) fn add_disk_counters(&self, counters: &mut Counters) {
        for machine in self.shared.machines.borrow().iter() {
            machine.disk.add_counters(counters);
        }
    }
}
