//! What ends a process, and what two processes may not both have.

mod common;

use common::{NoNet, ROLE, child_process, dir};
use hadal_env::{Clock, Disk, Env, Random};
use hadal_shard::{PANIC_EXIT_CODE, Shard, ShardOptions, StartError};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

/// What the children do; without a role this is no test of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let shard = Shard::spawn(ShardOptions::new("doomed"), move |shard| async move {
        let env = shard.env(NoNet);
        match role.as_str() {
            "task" => env.spawn("fragile", async { panic!("task broke") }),
            "library" => drop(tokio::spawn(async { panic!("library broke") })),
            "main" => panic!("main broke"),
            "hook" => {
                std::panic::set_hook(Box::new(|_| {}));
                env.spawn("fragile", async { panic!("task broke") });
            }
            "stop" => env.stop(3, "the operator said so"),
            path => {
                let _held = env.disk().lock(&PathBuf::from(path)).await.unwrap();
                println!("locked");
                std::io::stdout().flush().unwrap();
                std::future::pending::<()>().await;
            }
        }
        std::future::pending::<()>().await;
    });
    shard.unwrap().join();
}

fn outcome(role: &str) -> (Option<i32>, String) {
    let output = child_process(role).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_panic_in_any_task_of_a_shard_ends_the_process() {
    for (role, task, text) in [
        ("task", "fragile", "task broke"),
        ("library", "main", "library broke"),
        ("main", "main", "main broke"),
        ("hook", "fragile", "task broke"),
    ] {
        let (code, stderr) = outcome(role);
        assert_eq!(code, Some(PANIC_EXIT_CODE), "{role}: {stderr}");
        assert!(
            stderr.contains(&format!("shard doomed task {task} panicked")) && stderr.contains(text),
            "{role}: {stderr}"
        );
    }
}

#[test]
fn stop_ends_the_process_with_its_code_and_reason() {
    let (code, stderr) = outcome("stop");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(
        stderr.contains("exit code 3: the operator said so"),
        "{stderr}"
    );
}

#[test]
fn a_lock_holds_against_another_process_until_that_ends() {
    let dir = dir();
    let path = dir.path().join("in_use.lock");
    let mut holder = child_process(path.to_str().unwrap()).spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().ends_with("locked") {}
    let try_lock = || {
        let path = path.clone();
        let shard = Shard::spawn(ShardOptions::new("other"), move |shard| async move {
            shard.disk().lock(&path).await.map(drop)
        });
        shard.unwrap().join()
    };
    assert!(try_lock().unwrap_err().is_locked());
    holder.kill().unwrap();
    holder.wait().unwrap();
    try_lock().unwrap();
}

#[test]
fn a_shard_that_cannot_be_pinned_says_so() {
    let error = Shard::spawn(ShardOptions::new("astray").pinned(1023), |_| async {})
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Pin {
                processor: 1023,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("astray"), "{error}");
}

#[test]
fn a_pinned_shard_runs_where_it_was_told_and_gives_its_result_back() {
    fn processors() -> Vec<usize> {
        let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let all = 0..nix::sched::CpuSet::count();
        all.filter(|number| set.is_set(*number).unwrap()).collect()
    }
    // A container may not have the first one.
    let last = *processors().last().unwrap();
    let options = ShardOptions::new("pinned").pinned(last);
    let pinned = Shard::spawn(options, |shard| async move {
        let name = std::thread::current().name().map(str::to_owned);
        (shard.name().to_owned(), name, processors())
    });
    assert_eq!(
        pinned.unwrap().join(),
        ("pinned".to_owned(), Some("pinned".to_owned()), vec![last])
    );
}

#[test]
fn clocks_go_on_and_random_numbers_differ() {
    let shard = Shard::spawn(ShardOptions::new("clock"), |shard| async move {
        let env = shard.env(NoNet);
        let before = env.now();
        env.sleep_until(before).await;
        let deadline = before.after_ms(20);
        env.sleep_until(deadline).await;
        assert!(env.now() >= deadline);
        // 2020-01-01; the clock of a machine that runs this is past it.
        assert!(env.wall_ms() > 1_577_836_800_000);
        (env.random_u64(), env.random_u64())
    });
    let (one, two) = shard.unwrap().join();
    assert_ne!(one, two);
}
