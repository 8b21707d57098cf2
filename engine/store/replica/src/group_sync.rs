//! One device flush for everybody who waits for one.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

/// Shares a flush: a caller is served by any flush that *starts* after its call. The first caller runs it; if
/// that caller is dropped meanwhile, another takes over.
#[derive(Debug, Default)]
pub(crate) struct GroupSync {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    started: u64,
    done: u64,
    running: bool,
    wakers: Vec<Waker>,
}

struct Running<'a>(&'a GroupSync);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let wakers = {
            let mut state = self.0.state.borrow_mut();
            state.running = false;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl GroupSync {
    /// Returns once a flush that started after this call has succeeded. `flush` runs if nobody else's is
    /// to be joined. An error is the caller's to make final; others then run their own flush and meet it too.
    pub(crate) async fn run<E, F>(&self, flush: impl Fn() -> F) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let needed = self.state.borrow().started + 1;
        loop {
            let lead = poll_fn(|cx| {
                let mut state = self.state.borrow_mut();
                if state.done >= needed {
                    return Poll::Ready(false);
                }
                if !state.running {
                    state.running = true;
                    state.started += 1;
                    return Poll::Ready(true);
                }
                if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            })
            .await;
            if !lead {
                return Ok(());
            }
            let number = self.state.borrow().started;
            let running = Running(self);
            flush().await?;
            self.state.borrow_mut().done = number;
            drop(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use std::cell::Cell;

    fn yield_once() -> impl Future<Output = ()> {
        let mut polled = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn many_callers_share_two_flushes() {
        let (sync, flushes) = (GroupSync::default(), Cell::new(0));
        let all = join_all((0..50).map(|_| {
            sync.run(|| async {
                flushes.set(flushes.get() + 1);
                yield_once().await;
                Ok::<(), ()>(())
            })
        }));
        assert!(crate::testing::block_on(all).iter().all(Result::is_ok));
        assert!(flushes.get() <= 2, "{} flushes", flushes.get());
    }

    #[test]
    fn a_dropped_leader_hands_over() {
        let (sync, flushes) = (GroupSync::default(), Cell::new(0));
        let mut leader = Box::pin(sync.run(|| async {
            std::future::pending::<()>().await;
            Ok::<(), ()>(())
        }));
        assert!((&mut leader).now_or_never().is_none());
        let mut follower = Box::pin(sync.run(|| async {
            flushes.set(flushes.get() + 1);
            Ok::<(), ()>(())
        }));
        assert!((&mut follower).now_or_never().is_none());
        drop(leader);
        assert_eq!(follower.now_or_never(), Some(Ok(())));
        assert_eq!(flushes.get(), 1);
    }
}
