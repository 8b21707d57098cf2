//! The executor on a real disk, and in child processes what ends them.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join;
use hadal_background::{
    Background, BackgroundOptions, Class, PANIC_EXIT_CODE, Reading, StartError,
};
use hadal_env::DiskOp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::future::Future;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use tempfile::TempDir;

/// Waits for a future on a thread without a runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// A directory under the target directory: a real file system, where `/tmp` may be memory.
fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn start(dir: &TempDir) -> Background {
    Background::start(BackgroundOptions::new(vec![dir.path().to_owned()])).unwrap()
}

/// A file in which every four bytes tell where they are.
fn numbered(dir: &TempDir, name: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
    let mut content: Vec<u8> = (0..u32::try_from(bytes.div_ceil(4)).unwrap())
        .flat_map(u32::to_le_bytes)
        .collect();
    content.truncate(bytes);
    let path = dir.path().join(name);
    std::fs::write(&path, &content).unwrap();
    (path, content)
}

async fn gather(mut reading: Reading) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut sizes) = (Vec::new(), Vec::new());
    while let Some(chunk) = reading.next().await {
        let chunk = chunk.unwrap();
        sizes.push(chunk.len());
        all.extend_from_slice(&chunk);
    }
    (all, sizes)
}

#[test]
fn a_file_is_read_whole_and_in_order() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "image", 5_000_003);
    let (read, sizes) = wait(async {
        gather(
            background
                .read_file(Class::Transfer, &path, 0..u64::MAX, 1 << 20)
                .await,
        )
        .await
    });
    assert!(read == content);
    assert_eq!(
        sizes,
        [1 << 20, 1 << 20, 1 << 20, 1 << 20, 5_000_003 - (4 << 20)]
    );
    assert_eq!(background.in_flight_bytes(Class::Transfer), 0);
}

#[test]
fn any_range_is_cut_out_exactly() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "block", 100_001);
    for range in [
        0..1,
        5..9,
        4095..4097,
        4096..8192,
        12_345..98_765,
        99_999..100_001,
        100_000..200_000,
        100_001..100_005,
        7..7,
        200_000..300_000,
    ] {
        let (read, _) = wait(async {
            gather(
                background
                    .read_file(Class::Scan, &path, range.clone(), 10_000)
                    .await,
            )
            .await
        });
        let clamped = usize::try_from(range.start).unwrap().min(content.len())
            ..usize::try_from(range.end).unwrap().min(content.len());
        assert!(
            read == content.get(clamped).unwrap_or_default(),
            "range {range:?}"
        );
    }
}

#[test]
fn an_empty_file_has_no_chunks_and_one_that_is_not_there_is_an_error() {
    let dir = dir();
    let background = start(&dir);
    std::fs::write(dir.path().join("empty"), "").unwrap();
    wait(async {
        assert!(
            background
                .read_file(Class::Scan, dir.path().join("empty"), 0..u64::MAX, 4096)
                .await
                .next()
                .await
                .is_none()
        );
        let mut missing = background
            .read_file(Class::Scan, dir.path().join("missing"), 0..u64::MAX, 4096)
            .await;
        let error = missing.next().await.unwrap().unwrap_err();
        assert!(
            error.is_not_found() && error.op == DiskOp::Open && error.path.ends_with("missing")
        );
        assert!(missing.next().await.is_none());
        let error = background
            .read_file(Class::Scan, dir.path(), 0..1, 4096)
            .await
            .next()
            .await
            .unwrap()
            .unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    });
}

#[test]
fn a_file_removed_while_it_is_read_is_read_to_its_end() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "doomed", 3 << 20);
    let read = wait(async {
        let mut reading = background
            .read_file(Class::Rereplication, &path, 0..u64::MAX, 4096)
            .await;
        let mut all = reading.next().await.unwrap().unwrap().to_vec();
        std::fs::remove_file(&path).unwrap();
        all.extend(gather(reading).await.0);
        all
    });
    assert!(read == content);
}

#[test]
fn no_more_is_in_flight_than_the_budget_allows_and_dropping_lets_it_go_on() {
    let dir = dir();
    let options = BackgroundOptions::new(vec![dir.path().to_owned()]).budget_bytes(5 * 16_384);
    let background = Background::start(options).unwrap();
    assert_eq!(background.class_budget_bytes(), 16_384);
    let (path, content) = numbered(&dir, "block", 1 << 20);
    wait(async {
        let mut reading = background
            .read_file(Class::Balance, &path, 0..u64::MAX, 4096)
            .await;
        let mut held: Vec<Bytes> = Vec::new();
        for _ in 0..4 {
            held.push(reading.next().await.unwrap().unwrap());
        }
        assert_eq!(background.in_flight_bytes(Class::Balance), 16_384);
        // Another job of the class passes through the executor: had the reading been able to go on, it would have.
        background.run(Class::Balance, || ()).await;
        assert!(reading.next().now_or_never().is_none());
        // Another class has a budget of its own.
        let (other, _) = gather(
            background
                .read_file(Class::Checkpoint, &path, 0..8192, 4096)
                .await,
        )
        .await;
        assert!(other == content[..8192]);
        assert!(reading.next().now_or_never().is_none());

        let mut all: Vec<u8> = held.iter().flatten().copied().collect();
        thread::spawn(move || drop(held)).join().unwrap();
        while let Some(chunk) = reading.next().await {
            assert!(background.in_flight_bytes(Class::Balance) <= 16_384);
            all.extend_from_slice(&chunk.unwrap());
        }
        assert!(all == content);
    });
    assert_eq!(background.in_flight_bytes(Class::Balance), 0);
}

#[test]
fn chunks_larger_than_the_budget_are_cut_down_to_it() {
    let dir = dir();
    let options = BackgroundOptions::new(vec![dir.path().to_owned()]).budget_bytes(5 * 8192);
    let background = Background::start(options).unwrap();
    let (path, content) = numbered(&dir, "block", 20_000);
    let (read, sizes) = wait(async {
        gather(
            background
                .read_file(Class::Scan, &path, 100..u64::MAX, 1 << 30)
                .await,
        )
        .await
    });
    assert!(read == content[100..]);
    assert_eq!(sizes, [8092, 8192, 20_000 - 16_384]);
}

#[test]
fn a_reading_nobody_wants_gives_its_budget_back() {
    let dir = dir();
    let options = BackgroundOptions::new(vec![dir.path().to_owned()]).budget_bytes(5 * 8192);
    let background = Background::start(options).unwrap();
    let (path, content) = numbered(&dir, "block", 1 << 20);
    wait(async {
        let mut dropped = background
            .read_file(Class::Scan, &path, 0..u64::MAX, 4096)
            .await;
        dropped.next().await.unwrap().unwrap();
        drop(dropped);
        let (read, _) = gather(
            background
                .read_file(Class::Scan, &path, 0..u64::MAX, 8192)
                .await,
        )
        .await;
        assert!(read == content);
    });
    assert_eq!(background.in_flight_bytes(Class::Scan), 0);
}

/// glommio sleeps with runnable tasks when its thread is descheduled at the wrong moment; the pulse wakes it.
#[test]
fn reading_goes_on_though_the_processors_are_busy() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "block", 1 << 20);
    let done = AtomicBool::new(false);
    // A failed check must not leave the processors busy.
    struct DoneAtEnd<'a>(&'a AtomicBool);
    impl Drop for DoneAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let _at_end = DoneAtEnd(&done);
        for _ in 0..4 * thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..16 {
            let reading = wait(background.read_file(Class::Scan, &path, 0..u64::MAX, 4096));
            assert!(wait(gather(reading)).0 == content);
        }
    });
}

#[test]
fn many_readings_of_all_classes_share_the_executor() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "block", 300_000);
    let (background, path, content) = (&background, &path, &content);
    thread::scope(|scope| {
        for class in Class::ALL {
            for _ in 0..20 {
                scope.spawn(move || {
                    let reading = wait(background.read_file(class, path, 0..u64::MAX, 65_536));
                    assert!(wait(gather(reading)).0 == *content);
                });
            }
        }
    });
}

#[test]
fn work_runs_on_the_executor_and_a_long_one_lets_others_pass() {
    let dir = dir();
    let background = start(&dir);
    let (path, content) = numbered(&dir, "block", 100_000);
    let (turns, counted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&counted);
    let goal = Arc::clone(&turns);
    wait(async {
        assert_eq!(
            background
                .run(Class::Checkpoint, || thread::current()
                    .name()
                    .map(str::to_owned))
                .await
                .as_deref(),
            Some("background")
        );
        // Goes on until the reading beside it is through: it can only end if that gets its turns.
        let long = background.run_stepwise(Class::Checkpoint, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            if goal.load(Ordering::Relaxed) == 1 {
                ControlFlow::Break("done")
            } else {
                ControlFlow::Continue(())
            }
        });
        let reading = async {
            let (read, _) = gather(
                background
                    .read_file(Class::Scan, &path, 0..u64::MAX, 4096)
                    .await,
            )
            .await;
            turns.store(1, Ordering::Relaxed);
            read
        };
        let (done, read) = join(long, reading).await;
        assert!(done == "done" && read == content);
    });
    assert!(counted.load(Ordering::Relaxed) > 0);
}

#[test]
fn stepwise_work_nobody_waits_for_stops_and_the_last_handle_ends_the_executor() {
    let dir = dir();
    let background = start(&dir);
    let (gone, met) = (Arc::new(()), Arc::new(Barrier::new(2)));
    let (held, meet) = (Arc::clone(&gone), Arc::clone(&met));
    let mut begun = false;
    let mut endless = Box::pin(background.run_stepwise::<()>(Class::Scan, move || {
        let _held = &held;
        if !std::mem::replace(&mut begun, true) {
            meet.wait();
        }
        ControlFlow::Continue(())
    }));
    assert!((&mut endless).now_or_never().is_none());
    met.wait();
    drop(endless);
    drop(background);
    // The closure is dropped once the job has stopped.
    while Arc::strong_count(&gone) > 1 {
        thread::yield_now();
    }
}

#[test]
fn a_data_directory_that_is_not_there_and_a_budget_of_nothing_are_refused() {
    let dir = dir();
    let error =
        Background::start(BackgroundOptions::new(vec![dir.path().join("missing")])).unwrap_err();
    assert!(
        matches!(&error, StartError::DataDir(error) if error.is_not_found()),
        "{error}"
    );
    let error = Background::start(BackgroundOptions::new(vec![]).budget_bytes(1000)).unwrap_err();
    assert!(
        matches!(error, StartError::Budget { bytes: 1000, .. }),
        "{error}"
    );
    // The probe leaves nothing behind.
    drop(start(&dir));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The environment variable that tells a child what to be.
const ROLE: &str = "HADAL_BACKGROUND_TEST_ROLE";

/// What the children do; without a role this is no test of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    if role == "memlock" {
        let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
        setrlimit(Resource::RLIMIT_MEMLOCK, 256 << 10, hard).unwrap();
        let error = Background::start(BackgroundOptions::new(vec![])).unwrap_err();
        assert!(
            matches!(
                error,
                StartError::LockedMemory {
                    limit_bytes: 262_144
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("ulimit -l"), "{error}");
        return;
    }
    let background = Background::start(BackgroundOptions::new(vec![PathBuf::from(role)])).unwrap();
    wait(background.run(Class::Scan, || panic!("the scanner broke")));
}

fn child_process(role: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_panic_on_the_executor_ends_the_process() {
    let dir = dir();
    let (code, stderr) = child_process(dir.path());
    assert_eq!(code, Some(PANIC_EXIT_CODE), "{stderr}");
    assert!(
        stderr.contains("background executor panicked") && stderr.contains("the scanner broke"),
        "{stderr}"
    );
}

#[test]
fn too_little_locked_memory_is_told_with_the_remedy() {
    let (code, stderr) = child_process(Path::new("memlock"));
    assert_eq!(code, Some(0), "{stderr}");
}
