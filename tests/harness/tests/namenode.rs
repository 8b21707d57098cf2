//! The NameNode killed with SIGKILL again and again, while clients write.

use harness::{Random, SOON, TestCluster, alone, eventually};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Kills, unless `HADAL_KILLS` says otherwise.
const KILLS: u32 = 50;
/// Acknowledged operations between two kills, at the most; three or four make a file.
const MOST_BETWEEN: u64 = 12;

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// For a path whether it is there (with this content, when a file) or gone. A path on which an operation is under
    /// way, or failed, is not in it.
    known: Mutex<BTreeMap<String, Option<String>>>,
    /// Operations.
    operations: AtomicU64,
}

/// Writes until told to stop: a directory, a file in it, moved, every third file removed again. Returns how many
/// operations on the namespace failed.
fn write(cluster: &TestCluster, home: &str, acknowledged: &Acknowledged, stop: &AtomicBool) -> u32 {
    let mut failed = 0;
    let know = |path: &str, content: Option<&str>| {
        let mut known = acknowledged.known.lock().unwrap();
        known.insert(path.into(), content.map(str::to_owned));
    };
    let forget = |path: &str| {
        acknowledged.known.lock().unwrap().remove(path);
    };
    let mut done = |args: &[&str]| {
        let output = cluster.dfs(args);
        if output.code != 0 {
            println!("{args:?}: {}", output.stderr);
            // A put may be refused while no DataNode is back; the namespace has no such excuse.
            failed += u32::from(args[0] != "-put");
            return false;
        }
        acknowledged.operations.fetch_add(1, Ordering::Relaxed);
        true
    };
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let dir = format!("{home}/{n}");
        let (file, moved) = (format!("{dir}/f"), format!("{dir}/moved"));
        let local = format!("content{}", home.replace('/', "-"));
        let content = format!("this is {file}\n").repeat(50);
        cluster.write_local(&local, &content);
        if !done(&["-mkdir", &dir]) {
            continue;
        }
        know(&dir, Some("dir"));
        if !done(&["-put", &local, &file]) {
            continue;
        }
        know(&file, Some(&content));
        forget(&file);
        if !done(&["-mv", &file, &moved]) {
            continue;
        }
        know(&file, None);
        know(&moved, Some(&content));
        if n % 3 == 0 {
            forget(&moved);
            if done(&["-rm", &moved]) {
                know(&moved, None);
            }
        }
    }
    failed
}

/// Checks that the tree holds what was acknowledged before it was asked.
fn check(cluster: &TestCluster, acknowledged: &Acknowledged) {
    let before = acknowledged.known.lock().unwrap().clone();
    let tree = cluster.dfs(&["-ls", "-C", "-R", "/"]).ok().stdout;
    let after = acknowledged.known.lock().unwrap().clone();
    let names: std::collections::BTreeSet<&str> = tree.lines().collect();
    for (path, state) in &before {
        // Not when an operation on it began meanwhile.
        if after.get(path) == Some(state) {
            assert_eq!(names.contains(&**path), state.is_some(), "{path}");
        }
    }
}

/// Every acknowledged operation outlives every death of the NameNode (50 of them; `HADAL_KILLS` asks for more), and the
/// clients' retries hide them all.
#[test]
fn acknowledged_operations_outlive_sigkill() {
    let _alone = alone();
    let kills = std::env::var("HADAL_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let cluster = TestCluster::start(3);
    let mut random = Random::default();
    let acknowledged = Acknowledged::default();
    let stop = AtomicBool::new(false);
    for home in ["/a", "/b"] {
        cluster.dfs(&["-mkdir", home]).ok();
    }
    // A failed check must not leave the writers running.
    struct StopAtEnd<'a>(&'a AtomicBool);
    impl Drop for StopAtEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let failed: u32 = std::thread::scope(|scope| {
        let writers = ["/a", "/b"].map(|home| {
            let (cluster, acknowledged, stop) = (&cluster, &acknowledged, &stop);
            scope.spawn(move || write(cluster, home, acknowledged, stop))
        });
        let stopper = StopAtEnd(&stop);
        for _ in 0..kills {
            let done = || acknowledged.operations.load(Ordering::Relaxed);
            let wanted = done() + 1 + random.below(MOST_BETWEEN);
            eventually("further operations are acknowledged", SOON, || {
                let now = done();
                (now >= wanted)
                    .then_some(())
                    .ok_or(format!("{now}, not {wanted}"))
            });
            // The writers go on meanwhile: it dies anywhere within an operation.
            cluster.kill_node("nn1");
            cluster.start_node("nn1");
            check(&cluster, &acknowledged);
        }
        drop(stopper);
        writers.map(|writer| writer.join().unwrap()).iter().sum()
    });
    assert_eq!(failed, 0, "operations failed that should have been retried");
    check(&cluster, &acknowledged);
    let known = acknowledged.known.into_inner().unwrap();
    assert!(known.len() > kills as usize);
    let files: Vec<(&String, &String)> = known
        .iter()
        .filter_map(|(path, state)| Some((path, state.as_ref()?)))
        .filter(|(path, _)| path.ends_with("/moved"))
        .collect();
    let mut cat = vec!["-cat"];
    cat.extend(files.iter().map(|(path, _)| path.as_str()));
    let expected: String = files.iter().map(|(_, content)| content.as_str()).collect();
    // The DataNodes may not have come back to the last NameNode yet.
    eventually("every acknowledged file has its content", SOON, || {
        let output = cluster.dfs(&cat);
        (output.stdout == expected)
            .then_some(())
            .ok_or(output.stderr)
    });
    println!(
        "{kills} kills, {} paths known, {} files",
        known.len(),
        files.len()
    );
}

/// Without a majority a write ends within its time with an error that names the JournalNodes that are gone, nothing that
/// was acknowledged is lost, reads go on, and so do writes once a majority is back.
#[test]
fn a_lost_majority_is_named_to_the_writer() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    for id in ["jn1", "jn2"] {
        cluster.kill_node(id);
    }
    let refused = cluster.run(&["-D", "client.retry_window=15s", "dfs", "-mkdir", "/lost"]);
    assert_eq!((refused.code, &*refused.stdout), (1, ""));
    for text in ["mkdir: ", "jn1", "jn2"] {
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
    }
    // A NameNode configured alone goes on answering reads (protocols.md section 2).
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/kept\n");
    for id in ["jn1", "jn2"] {
        cluster.start_node(id);
    }
    eventually("writes go on by themselves", SOON, || {
        let output = cluster.dfs(&["-mkdir", "-p", "/after"]);
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
    let names = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    for name in ["/kept", "/after"] {
        assert!(names.lines().any(|line| line == name), "{name}: {names}");
    }
}
