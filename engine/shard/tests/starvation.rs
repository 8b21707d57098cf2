//! The guard of `design/runtime.md`, trap 1: a shard that is never idle still gets its disk work done.

mod common;

use common::{dir, on_shard};
use hadal_env::{Disk, File, OpenOptions};
use nix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Processor time of this thread. As it is never idle here, this is the time a write took, less what
/// other processes took of the processor.
fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// How long a slice of the busy task is.
const SLICE: Duration = Duration::from_micros(20);

/// The longest a write may take. Measured is 0.06 ms, the failure this guards against is "for ever"; the bound lies
/// between, with room for a slow disk and for kernel threads that wait for the other processor.
const LONGEST_WRITE: Duration = Duration::from_secs(20);

#[test]
fn a_thousand_writes_complete_beside_a_task_that_is_always_ready() {
    let dir = dir();
    on_shard(async |shard| {
        let disk = shard.disk();
        let file = disk
            .open(&dir.path().join("data"), OpenOptions::create())
            .await
            .unwrap();
        let (turns, started) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(own_time())));
        let (counted, since) = (Rc::clone(&turns), Rc::clone(&started));
        // It also watches: a starved write would otherwise hang the test.
        let busy = tokio::task::spawn_local(poll_fn(move |cx| -> Poll<()> {
            let end = own_time() + SLICE;
            while own_time() < end {
                std::hint::spin_loop();
            }
            let waited = own_time() - since.get();
            assert!(waited < LONGEST_WRITE, "a write has waited {waited:?}");
            counted.set(counted.get() + 1);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));

        let mut buf = disk.buf(4096).await;
        let before = turns.get();
        for number in 0..1000u64 {
            buf.as_mut().fill(u8::try_from(number % 251).unwrap());
            started.set(own_time());
            let (result, returned) = file.write_at(buf, 0..4096, number * 4096).await;
            result.unwrap();
            buf = returned;
        }
        assert!(turns.get() > before + 1000, "the busy task ran meanwhile");
        busy.abort();
        assert_eq!(file.length().await.unwrap(), 4_096_000);
    });
}
