//! glommio swallows a panic in a task, or lets its executor end, and leaves the process alive. Here
//! either ends the process: a DataNode that no longer scans or re-replicates must not look healthy.

use std::cell::Cell;
use std::io::Write;
use std::sync::Once;
use std::time::Duration;

/// What the process exits with after a panic (`EX_SOFTWARE` of sysexits.h).
pub const PANIC_EXIT_CODE: i32 = 70;

/// How long writing the log may hold up the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

thread_local! {
    static SUPERVISED: Cell<bool> = const { Cell::new(false) };
}

/// From here on a panic on this thread ends the process.
pub(crate) fn supervise_this_thread() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            if SUPERVISED.try_with(Cell::get).unwrap_or(false) {
                let place = info
                    .location()
                    .map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
                let payload = info.payload_as_str().unwrap_or("(no message)");
                end_process(&format!(
                    "background executor panicked at {place}: {payload}"
                ));
            }
        }));
    });
    SUPERVISED.set(true);
}

/// Runs `work`, which may panic without ending the process.
pub(crate) fn unsupervised<T>(work: impl FnOnce() -> T) -> T {
    let before = SUPERVISED.replace(false);
    let result = work();
    SUPERVISED.set(before);
    result
}

/// Logs and exits.
pub(crate) fn end_process(reason: &str) -> ! {
    // The panic may have come from within the logger: the process must end even if that hangs.
    drop(
        std::thread::Builder::new()
            .name("last-words".to_owned())
            .spawn(|| {
                std::thread::sleep(LAST_WORDS);
                std::process::exit(PANIC_EXIT_CODE);
            }),
    );
    drop(writeln!(
        std::io::stderr(),
        "hadal stops with exit code {PANIC_EXIT_CODE}: {reason}"
    ));
    tracing::error!(exit_code = PANIC_EXIT_CODE, reason, "process stops");
    std::process::exit(PANIC_EXIT_CODE)
}
