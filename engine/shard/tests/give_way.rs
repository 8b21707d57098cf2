//! A task that gives way lets the others run that live outside the shard's set of local tasks, too.

mod common;

use common::{NoNet, on_shard};
use hadal_env::Env;
use hadal_shard::udp;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Times a task gives way before what was ready when it began must have run. A task that only wakes itself goes on more
/// often than that before anything outside has its turn.
const TIMES: usize = 4;

#[test]
fn quinns_tasks_and_the_main_future_run_when_a_task_gives_way() {
    on_shard(async |shard| {
        let env = shard.env(NoNet);
        let (sent, seen) = (Arc::new(AtomicBool::new(false)), Rc::new(Cell::new(false)));
        let (of_task, of_main) = (Arc::clone(&sent), Rc::clone(&seen));
        let waker = Rc::new(Cell::new(None));
        let wake_main = Rc::clone(&waker);
        let giver = env.clone();
        let (done, mut ended) = tokio::sync::oneshot::channel();
        env.spawn("gives way", async move {
            // As quinn spawns the driver of a connection.
            let driver = async move { sent.store(true, Ordering::Relaxed) };
            udp::runtime().spawn(Box::pin(driver));
            let main: Option<std::task::Waker> = wake_main.take();
            main.expect("the main future waits").wake();
            for _ in 0..TIMES {
                giver.give_way().await;
            }
            let told = done.send((of_task.load(Ordering::Relaxed), of_main.get()));
            assert!(told.is_ok(), "the main future waits");
        });
        let mut first = true;
        let outcome = poll_fn(|cx| {
            if !std::mem::take(&mut first) {
                seen.set(true);
            }
            waker.set(Some(cx.waker().clone()));
            std::pin::Pin::new(&mut ended).poll(cx)
        });
        assert_eq!(outcome.await, Ok((true, true)));
    });
}
