//! A single-threaded executor for `!Send` futures of many nodes. Which ready task runs next is drawn
//! from the seed, so every interleaving at await points can happen, and any can be had again.

use crate::node::NodeId;
use crate::rng::Rng;
use crate::trace::hash_name;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A task of some node.
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskKey {
    index: u32,
    generation: u32,
}

/// Tasks woken since the executor last looked. Behind a lock only because wakers must be `Send`.
type Woken = Arc<Mutex<Vec<TaskKey>>>;

struct TaskWake {
    key: TaskKey,
    queued: AtomicBool,
    woken: Woken,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.key);
        }
    }
}

struct Task {
    node: NodeId,
    name: &'static str,
    name_hash: u64,
    /// Empty while it is being polled.
    future: Option<TaskFuture>,
    wake: Arc<TaskWake>,
    waker: Waker,
}

struct Slot {
    generation: u32,
    task: Option<Task>,
}

/// A task taken out for one poll.
pub(crate) struct Running {
    pub(crate) key: TaskKey,
    pub(crate) node: NodeId,
    pub(crate) name: &'static str,
    pub(crate) name_hash: u64,
    pub(crate) future: TaskFuture,
    pub(crate) waker: Waker,
}

/// The tasks and which of them are ready.
pub(crate) struct Executor {
    slots: Vec<Slot>,
    free: Vec<u32>,
    woken: Woken,
    ready: Vec<TaskKey>,
}

impl Executor {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            woken: Arc::default(),
            ready: Vec::new(),
        }
    }

    pub(crate) fn spawn(&mut self, node: NodeId, name: &'static str, future: TaskFuture) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                task: None,
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let key = TaskKey {
            index,
            generation: slot.generation,
        };
        let wake = Arc::new(TaskWake {
            key,
            queued: AtomicBool::new(true),
            woken: Arc::clone(&self.woken),
        });
        let waker = Waker::from(Arc::clone(&wake));
        let name_hash = hash_name(name.as_bytes());
        slot.task = Some(Task {
            node,
            name,
            name_hash,
            future: Some(future),
            wake,
            waker,
        });
        self.ready.push(key);
    }

    fn task(&mut self, key: TaskKey) -> Option<&mut Task> {
        let slot = &mut self.slots[key.index as usize];
        if slot.generation == key.generation {
            slot.task.as_mut()
        } else {
            None
        }
    }

    /// Draws the next ready task. `None` when nothing is ready.
    pub(crate) fn next_ready(&mut self, rng: &mut Rng) -> Option<TaskKey> {
        {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            self.ready.append(&mut woken);
        }
        match self.ready.len() {
            0 => None,
            1 => self.ready.pop(),
            count => {
                let choice = rng.below(count as u64) as usize;
                Some(self.ready.swap_remove(choice))
            }
        }
    }

    /// Which node a task belongs to; `None` when it is gone.
    pub(crate) fn node_of(&mut self, key: TaskKey) -> Option<NodeId> {
        self.task(key).map(|task| task.node)
    }

    /// Puts tasks drawn before back among the ready ones.
    pub(crate) fn make_ready(&mut self, keys: Vec<TaskKey>) {
        self.ready.extend(keys);
    }

    /// Takes a task out for one poll.
    pub(crate) fn take(&mut self, key: TaskKey) -> Option<Running> {
        let task = self.task(key)?;
        let future = task.future.take()?;
        task.wake.queued.store(false, Ordering::Relaxed);
        let (node, name, name_hash, waker) =
            (task.node, task.name, task.name_hash, task.waker.clone());
        Some(Running {
            key,
            node,
            name,
            name_hash,
            future,
            waker,
        })
    }

    /// Puts a task back that is not done. Hands the future out when it was killed meanwhile.
    pub(crate) fn put_back(&mut self, key: TaskKey, future: TaskFuture) -> Option<TaskFuture> {
        match self.task(key) {
            Some(task) => {
                task.future = Some(future);
                None
            }
            None => Some(future),
        }
    }

    /// Forgets a task that is done.
    pub(crate) fn finish(&mut self, key: TaskKey) {
        if self.task(key).is_some() {
            self.release(key.index);
        }
    }

    fn release(&mut self, index: u32) -> Option<TaskFuture> {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        slot.task.take().and_then(|task| task.future)
    }

    /// Kills all tasks of a node (all nodes when `None`). The caller drops them, outside any borrow.
    pub(crate) fn kill(&mut self, node: Option<NodeId>) -> Vec<TaskFuture> {
        let mut killed = Vec::new();
        for index in 0..self.slots.len() {
            let Some(task) = &self.slots[index].task else {
                continue;
            };
            if node.is_none_or(|node| task.node == node) {
                killed.extend(self.release(index as u32));
            }
        }
        killed
    }

    /// How many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
