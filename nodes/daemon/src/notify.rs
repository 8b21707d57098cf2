//! A wake-up between tasks of one shard.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

#[derive(Default)]
struct Inner {
    /// Counts wake-ups, so that one between two waits is not lost.
    count: u64,
    wakers: Vec<Waker>,
}

/// Wakes every task of this shard that waits on it. Clones share it.
#[derive(Clone, Default)]
pub struct Notify {
    inner: Rc<RefCell<Inner>>,
}

impl Notify {
    /// A fresh one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes all that wait, and makes the next wait with an older mark return at once.
    pub fn notify(&self) {
        let wakers = {
            let mut inner = self.inner.borrow_mut();
            inner.count += 1;
            std::mem::take(&mut inner.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A mark of this moment, for [`Notify::changed`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.inner.borrow().count
    }

    /// Resolves once there was a wake-up after `mark`. Cancel-safe.
    pub async fn changed(&self, mark: u64) {
        poll_fn(|context| {
            let mut inner = self.inner.borrow_mut();
            if inner.count != mark {
                return Poll::Ready(());
            }
            if !inner
                .wakers
                .iter()
                .any(|waker| waker.will_wake(context.waker()))
            {
                inner.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}
