//! quinn's runtime on the world: its clock, its executor.

use super::Hub;
use crate::env::SimEnv;
use crate::node::NodeId;
use crate::timers::TimerKey;
use crate::world::{Shared, disarm, poll_until};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What tick 0 of every machine is to quinn. Only differences count.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// The life of a node whose tasks and timers quinn's are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) hub: usize,
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
}

impl Life {
    pub(super) fn new(hub: usize, env: &SimEnv) -> Self {
        Self {
            hub,
            node: env.node,
            incarnation: env.incarnation,
        }
    }

    /// The world, as long as this life goes on in it.
    fn world(self) -> Option<std::rc::Rc<Shared>> {
        let (_, shared) = Hub::find(self.hub)?;
        (shared.alive(self.node, self.incarnation) && !shared.ending()).then_some(shared)
    }

    fn with_clock<T>(self, shared: &Shared, f: impl FnOnce(&crate::node::MachineClock) -> T) -> T {
        let machine = shared.nodes.borrow()[self.node.index()].machine;
        f(&shared.machines.borrow()[machine].clock)
    }
}

#[derive(Debug)]
pub(super) struct SimRuntime(Life);

impl SimRuntime {
    pub(super) fn new(hub: usize, env: &SimEnv) -> Self {
        Self(Life::new(hub, env))
    }
}

impl Runtime for SimRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(SimTimer {
            life: self.0,
            deadline,
            armed: None,
        })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(shared) = self.0.world() {
            let mut executor = shared.executor.borrow_mut();
            executor.spawn(self.0.node, "quinn", future);
        }
    }

    fn wrap_udp_socket(&self, _socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a simulated node has no sockets of the machine; use Datagrams::env",
        ))
    }

    fn now(&self) -> Instant {
        match Hub::find(self.0.hub) {
            Some((_, shared)) => {
                let now = shared.now.get();
                origin() + Duration::from_nanos(self.0.with_clock(&shared, |clock| clock.tick(now)))
            }
            None => origin(),
        }
    }
}

#[derive(Debug)]
struct SimTimer {
    life: Life,
    deadline: Instant,
    armed: Option<TimerKey>,
}

impl AsyncTimer for SimTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.disarm();
        self.deadline = deadline;
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = self.life.world() else {
            return Poll::Pending;
        };
        let ahead = self.deadline.saturating_duration_since(origin());
        let tick = u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        let at = self
            .life
            .with_clock(&shared, |clock| clock.world_time(tick));
        poll_until(&shared, at, &mut self.armed, cx)
    }
}

impl SimTimer {
    fn disarm(&mut self) {
        match Hub::find(self.life.hub) {
            Some((_, shared)) => disarm(&shared, &mut self.armed),
            None => self.armed = None,
        }
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}
