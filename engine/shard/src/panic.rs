//! A panic on a shard's thread ends the process.
//!
//! Two layers. The hook catches every panic on a shard's thread before anything unwinds, those in
//! tasks that libraries spawn for themselves too (quinn's, whose panics the runtime would swallow).
//! The guard around each task of the seam catches what a hook installed later by somebody else let pass.

use futures_util::FutureExt;
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::pin::pin;
use std::sync::Once;
use std::time::Duration;

/// What the process exits with after a panic on a shard (`EX_SOFTWARE` of sysexits.h).
pub const PANIC_EXIT_CODE: i32 = 70;

/// How long writing the log may hold up the end of a process that panicked.
const LAST_WORDS: Duration = Duration::from_secs(2);

thread_local! {
    static ON_SHARD: Cell<bool> = const { Cell::new(false) };
    static TASK: Cell<&'static str> = const { Cell::new("main") };
}

/// Marks this thread as a shard's as long as it lives.
pub(crate) struct ShardMark(bool);

impl ShardMark {
    pub(crate) fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                before(info);
                if ON_SHARD.try_with(Cell::get).unwrap_or(false) {
                    on_panic(info);
                }
            }));
        });
        Self(ON_SHARD.replace(true))
    }
}

impl Drop for ShardMark {
    fn drop(&mut self) {
        ON_SHARD.set(self.0);
    }
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let place = info
        .location()
        .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    end_after_panic(&format!("panicked at {place}: {}", message(info.payload())));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}

fn end_after_panic(what: &str) -> ! {
    let task = TASK.try_with(Cell::get).unwrap_or("unknown");
    let thread = std::thread::current();
    let text = format!(
        "shard {} task {task} {what}",
        thread.name().unwrap_or("unnamed")
    );
    // The panic may have come from within the logger: the process must end even if that hangs.
    drop(
        std::thread::Builder::new()
            .name("last-words".to_owned())
            .spawn(|| {
                std::thread::sleep(LAST_WORDS);
                std::process::exit(PANIC_EXIT_CODE);
            }),
    );
    stop_process(PANIC_EXIT_CODE, &text)
}

/// Logs and exits. The line also goes to standard error, for when no logger is installed.
pub(crate) fn stop_process(exit_code: i32, reason: &str) -> ! {
    drop(writeln!(
        std::io::stderr(),
        "hadal stops with exit code {exit_code}: {reason}"
    ));
    tracing::error!(exit_code, reason, "process stops");
    std::process::exit(exit_code)
}

/// Runs a task of the seam under its name.
pub(crate) async fn guard_task(name: &'static str, task: impl Future<Output = ()>) {
    let mut task = pin!(AssertUnwindSafe(task).catch_unwind());
    let ended = std::future::poll_fn(|cx| {
        let outer = TASK.replace(name);
        let poll = task.as_mut().poll(cx);
        TASK.set(outer);
        poll
    })
    .await;
    if let Err(payload) = ended {
        TASK.set(name);
        end_after_panic(&format!("panicked: {}", message(&*payload)));
    }
}
