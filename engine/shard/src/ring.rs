//! Getting operations into the kernel while the shard is busy.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// Entries of the submission ring. tokio-uring submits when the thread parks or when the ring has
/// no room, so an always-ready task would keep operations out of the kernel for ever. The ring is
/// therefore tiny, and each operation is followed by as many NOPs as it has entries: the last of
/// them finds it full and forces a submit.
pub(crate) const SUBMISSION_ENTRIES: u32 = 4;

/// Entries of the completion ring: NOPs complete at once and stay there until the thread looks.
/// The kernel keeps what overflows, so this bounds nothing; it avoids that slow path.
pub(crate) const COMPLETION_ENTRIES: u32 = 4096;

/// Drives one operation of the ring, submitting it right after its first poll.
pub(crate) async fn submitted<F: Future>(operation: F) -> F::Output {
    let mut operation = pin!(operation);
    let mut flushed = false;
    std::future::poll_fn(|cx| {
        let poll = operation.as_mut().poll(cx);
        if poll.is_pending() && !flushed {
            flushed = true;
            flush();
        }
        poll
    })
    .await
}

/// Pushes everything before it into the kernel.
fn flush() {
    for _ in 0..SUBMISSION_ENTRIES {
        let mut nop = pin!(tokio_uring::no_op());
        let nop: Pin<&mut _> = nop.as_mut();
        // Queued by its first poll, forgotten when dropped: nobody waits for it.
        match nop.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(_) | Poll::Pending => {}
        }
    }
}
