//! Wakes the executor at short intervals while there is work for it.
//!
//! glommio 0.9 goes to sleep with runnable tasks when its preemption timer fires between arming it and
//! the first look at the task queues (a thread that is descheduled there is enough; mended upstream by
//! glommio/glommio#53, not released). Nothing inside the executor can help: a timer task would be one
//! of the tasks that are not run. So a thread beside it wakes it from outside, and a sleep of this kind
//! lasts no longer than [`INTERVAL`].

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// How long the executor may sleep though it has something to do.
const INTERVAL: Duration = Duration::from_millis(5);

/// Counts the work there is, and wakes the executor while it is not done.
#[derive(Default)]
pub(crate) struct Pulse {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Work handed over and not done; the executor's start and its end count too.
    open: usize,
    /// Of the executor's main task, until the executor has ended.
    executor: Option<Waker>,
    ended: bool,
    thread: Option<Thread>,
}

/// Something the executor has to do, until dropped.
pub(crate) struct Open(Arc<Pulse>);

impl Pulse {
    /// Tells that there is something to do.
    pub(crate) fn open(self: &Arc<Self>) -> Open {
        let mut state = self.state();
        state.open += 1;
        if state.open == 1
            && let Some(thread) = &state.thread
        {
            thread.unpark();
        }
        Open(Arc::clone(self))
    }

    /// First thing on the executor: the task it wakes is the one that calls.
    pub(crate) async fn hear(&self) {
        poll_fn(|cx| {
            self.state().executor = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
    }

    /// The executor has ended: nobody is to be woken any more.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.executor = None;
        if let Some(thread) = &state.thread {
            thread.unpark();
        }
    }

    /// The thread's loop, until [`Pulse::end`].
    pub(crate) fn beat(&self) {
        self.state().thread = Some(thread::current());
        loop {
            let state = self.state();
            if state.ended {
                return;
            }
            let idle = state.open == 0;
            if !idle && let Some(executor) = &state.executor {
                executor.wake_by_ref();
            }
            drop(state);
            if idle {
                thread::park();
            } else {
                thread::park_timeout(INTERVAL);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}
