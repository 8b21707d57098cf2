//! The executor's thread, and how work gets onto it.

use crate::budget::Budget;
use crate::class::DEFAULT_SHARES;
use crate::pulse::{Open, Pulse};
use crate::reading::{MAILBOX_CHUNKS, Reading, Request, read};
use crate::source::Devices;
use crate::supervise::{end_process, supervise_this_thread};
use crate::{Class, StartError};
use async_channel::{Receiver, Sender};
use futures_util::future::LocalBoxFuture;
use glommio::sync::Semaphore;
use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};
use hadal_env::ALIGN;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How often a task that computes is asked to yield. glommio's default of 100 ms would let a finished
/// read wait that long.
const PREEMPT: Duration = Duration::from_micros(500);

/// The same until the first class has work: never. Before [`Pulse::hear`] nobody could wake an executor
/// that was asked to yield before it ran anything (see `pulse.rs`).
const NO_PREEMPT: Duration = Duration::from_secs(3600);

/// Memory of glommio's own for reads under way; beyond it takes fresh memory.
const IO_MEMORY_BYTES: usize = 8 << 20;

/// Work of one class that waits to be started.
const QUEUED_JOBS: usize = 64;

/// Work of one class under way.
const RUNNING_JOBS: u64 = 64;

/// How to start the executor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackgroundOptions {
    /// A directory on each device it will read from. A small file is written to each at the start, and
    /// removed again: glommio must see one that is not empty first.
    pub data_dirs: Vec<PathBuf>,
    /// Bytes in flight in all: being read, or handed over and not yet dropped. Each class has an equal
    /// part of its own, so that a slow consumer of one holds up no other.
    pub budget_bytes: usize,
    /// Shares of the executor's time, in the order of [`Class::ALL`], for when several want it. From 1 to 1000.
    pub shares: [usize; Class::ALL.len()],
}

impl BackgroundOptions {
    /// For these directories, with a budget of 64 MiB and the default shares.
    #[must_use]
    pub fn new(data_dirs: Vec<PathBuf>) -> Self {
        Self {
            data_dirs,
            budget_bytes: 64 << 20,
            shares: DEFAULT_SHARES,
        }
    }

    /// With this budget in bytes.
    #[must_use]
    pub fn budget_bytes(self, bytes: usize) -> Self {
        Self {
            budget_bytes: bytes,
            ..self
        }
    }
}

/// What a job finds on the executor.
struct Shop {
    devices: Devices,
}

type Work = Box<dyn FnOnce(Rc<Shop>) -> LocalBoxFuture<'static, ()> + Send>;

struct Job {
    work: Work,
    open: Open,
}

/// A handle to the executor. Clones share it.
#[derive(Clone)]
pub struct Background {
    shared: Arc<Shared>,
}

struct Shared {
    classes: Vec<ClassHandle>,
    pulse: Arc<Pulse>,
}

impl Drop for Shared {
    /// Ending is work too: the executor has to find its queues closed.
    fn drop(&mut self) {
        std::mem::forget(self.pulse.open());
    }
}

struct ClassHandle {
    jobs: Sender<Job>,
    budget: Arc<Budget>,
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(
                Class::ALL
                    .iter()
                    .map(|class| (class.name(), self.in_flight_bytes(*class))),
            )
            .finish()
    }
}

impl Background {
    /// Starts the executor's thread. Returns once it works and has seen every data directory.
    pub fn start(options: BackgroundOptions) -> Result<Self, StartError> {
        StartError::check_locked_memory()?;
        let each = options.budget_bytes / Class::ALL.len() / ALIGN * ALIGN;
        if each == 0 {
            return Err(StartError::Budget {
                bytes: options.budget_bytes,
                least: Class::ALL.len() * ALIGN,
            });
        }
        let (classes, queues): (Vec<_>, Vec<_>) = Class::ALL
            .into_iter()
            .map(|_| {
                let (jobs, queue) = async_channel::bounded(QUEUED_JOBS);
                (
                    ClassHandle {
                        jobs,
                        budget: Budget::new(each),
                    },
                    queue,
                )
            })
            .unzip();
        let (started, outcome) = mpsc::sync_channel(1);
        let pulse = Arc::new(Pulse::default());
        let starting = pulse.open();
        let beating = Arc::clone(&pulse);
        let body = move || {
            match make() {
                Ok(executor) => {
                    supervise_this_thread();
                    executor.run(serve(options, queues, Arc::clone(&beating), started));
                }
                Err(error) => drop(started.send(Err(error))),
            }
            beating.end();
        };
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)
                .map_err(StartError::Thread)
        };
        spawn("background", Box::new(body))?;
        let beating = Arc::clone(&pulse);
        spawn("background-beat", Box::new(move || beating.beat()))?;
        outcome.recv().unwrap_or_else(|_| {
            end_process("the background executor ended while it was starting")
        })?;
        drop(starting);
        Ok(Self {
            shared: Arc::new(Shared { classes, pulse }),
        })
    }

    /// Reads `range` of the file in order, ahead of the consumer by a few chunks. Ends early where the
    /// file ends. Chunks are `chunk_bytes` long (rounded up to a page, and down to the class's budget);
    /// the first is shorter when `range` does not start at a multiple of that, the last where it ends.
    /// Waits while 64 jobs of the class are queued.
    pub async fn read_file(
        &self,
        class: Class,
        path: impl Into<PathBuf>,
        range: Range<u64>,
        chunk_bytes: usize,
    ) -> Reading {
        let request = Request {
            path: path.into(),
            range,
            chunk_bytes,
        };
        let (consumer, chunks) = async_channel::bounded(MAILBOX_CHUNKS);
        let budget = Arc::clone(&self.class(class).budget);
        let work = move |shop: Rc<Shop>| -> LocalBoxFuture<'static, ()> {
            Box::pin(async move { read(&shop.devices, &budget, request, consumer).await })
        };
        self.submit(class, Box::new(work)).await;
        Reading { chunks }
    }

    /// Runs `work` on the executor and returns its result. It holds up everything else there while it
    /// runs: a millisecond is fine, more is for [`Background::run_stepwise`]. Once started it runs to
    /// its end even if this call is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        class: Class,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let mut work = Some(work);
        self.run_stepwise(class, move || match work.take() {
            Some(work) => ControlFlow::Break(work()),
            None => unreachable!("a step that broke is the last"),
        })
        .await
    }

    /// Runs `step` again and again until it breaks with the result, letting others have their turn
    /// in between. A step should take less than a millisecond. Stops between two steps if this call is dropped.
    pub async fn run_stepwise<T: Send + 'static>(
        &self,
        class: Class,
        mut step: impl FnMut() -> ControlFlow<T> + Send + 'static,
    ) -> T {
        let (reply, result) = async_channel::bounded(1);
        let work = move |_: Rc<Shop>| -> LocalBoxFuture<'static, ()> {
            Box::pin(async move {
                loop {
                    if let ControlFlow::Break(value) = step() {
                        // Whoever asked may have gone.
                        drop(reply.send(value).await);
                        return;
                    }
                    if reply.is_closed() {
                        return;
                    }
                    glommio::yield_if_needed().await;
                }
            })
        };
        self.submit(class, Box::new(work)).await;
        match result.recv().await {
            Ok(value) => value,
            Err(_) => end_process("the background executor lost a job"),
        }
    }

    /// Bytes of this class in flight now, for metrics.
    #[must_use]
    pub fn in_flight_bytes(&self, class: Class) -> usize {
        self.class(class).budget.in_flight()
    }

    /// Most bytes of one class in flight at once.
    #[must_use]
    pub fn class_budget_bytes(&self) -> usize {
        self.shared.classes[0].budget.total()
    }

    fn class(&self, class: Class) -> &ClassHandle {
        &self.shared.classes[class.index()]
    }

    async fn submit(&self, class: Class, work: Work) {
        let open = self.shared.pulse.open();
        let job = Job { work, open };
        if self.class(class).jobs.send(job).await.is_err() {
            end_process("the background executor ended while it was in use");
        }
    }
}

/// Makes the executor on this thread. glommio panics where io_uring is not to be had.
fn make() -> Result<LocalExecutor, StartError> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .name("background")
        .preempt_timer(NO_PREEMPT)
        .io_memory(IO_MEMORY_BYTES);
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(Ok(executor)) => Ok(executor),
        Ok(Err(error)) => Err(StartError::ring(error.to_string())),
        Err(_) => Err(StartError::ring("it is refused to this process".to_owned())),
    }
}

/// The executor's main task: takes work of every class until all handles are gone, and sees it through.
async fn serve(
    options: BackgroundOptions,
    queues: Vec<Receiver<Job>>,
    pulse: Arc<Pulse>,
    started: mpsc::SyncSender<Result<(), StartError>>,
) {
    pulse.hear().await;
    let shop = Rc::new(Shop {
        devices: Devices::default(),
    });
    for directory in &options.data_dirs {
        if let Err(error) = shop.devices.probe(directory).await {
            drop(started.send(Err(error.into())));
            return;
        }
    }
    let mut takers = Vec::new();
    for (class, jobs) in Class::ALL.into_iter().zip(queues) {
        let shares = Shares::Static(options.shares[class.index()].clamp(1, 1000));
        let queue =
            glommio::executor().create_task_queue(shares, Latency::Matters(PREEMPT), class.name());
        let taker = glommio::spawn_local_into(take(jobs, queue, Rc::clone(&shop)), queue);
        takers.push(taker.unwrap_or_else(|error| {
            end_process(&format!("no task queue for {}: {error}", class.name()))
        }));
    }
    // The starter waits for this very message.
    drop(started.send(Ok(())));
    for taker in takers {
        taker.await;
    }
}

/// Starts the jobs of one class, a bounded number at a time.
async fn take(jobs: Receiver<Job>, queue: TaskQueueHandle, shop: Rc<Shop>) {
    let slots = Rc::new(Semaphore::new(RUNNING_JOBS));
    while let Ok(job) = jobs.recv().await {
        let Ok(slot) = slots.acquire_static_permit(1).await else {
            break;
        };
        let work = (job.work)(Rc::clone(&shop));
        let open = job.open;
        let task = glommio::spawn_local_into(
            async move {
                work.await;
                drop((slot, open));
            },
            queue,
        );
        match task {
            Ok(task) => drop(task.detach()),
            Err(error) => end_process(&format!("a background task queue is gone: {error}")),
        }
    }
    // Sees what was started through.
    drop(slots.acquire_static_permit(RUNNING_JOBS).await);
}
