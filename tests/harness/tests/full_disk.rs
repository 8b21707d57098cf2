//! Nodes whose disk is full: small file systems in memory in the place of their directories. Mounting them needs root,
//! and the tests say so by failing where they are run by somebody else.

use harness::{Random, SOON, SmallDisk, TestCluster, alone, eventually};

/// Edits to a full journal: more than fit into the space its segment has already.
const EDIT_RUNS: usize = 100;
const EDITS_PER_RUN: usize = 400;

/// `get` onto a full disk fails with the reason and leaves no file that looks whole.
#[test]
fn get_onto_a_full_disk_is_an_error() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let content = Random::default().bytes(3_000_000);
    cluster.write_local("three", &content);
    cluster.dfs(&["-put", "three", "/three"]).ok();
    let disk = SmallDisk::at(&cluster.local("small"), 1);
    let output = cluster.dfs(&["-get", "/three", "small/three"]);
    assert_eq!((output.code, &*output.stdout), (1, ""));
    assert!(
        output.stderr.starts_with("get: ") && output.stderr.contains("No space left on device"),
        "{}",
        output.stderr
    );
    assert!(!cluster.local("small/three").exists());
    drop(disk);
    cluster.dfs(&["-get", "/three", "small/three"]).ok();
    assert!(std::fs::read(cluster.local("small/three")).unwrap() == content);
}

/// A DataNode without space refuses blocks with an error, not a hang; what it holds can be read; it takes blocks again
/// once there is space.
#[test]
fn a_datanode_on_a_full_disk_refuses_blocks_and_goes_on_with_space() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let mut random = Random::default();
    let (kept, more) = (random.bytes(1_000_000), random.bytes(4_000_000));
    cluster.write_local("kept", &kept);
    cluster.write_local("more", &more);
    cluster.kill_node("dn1");
    let disk = SmallDisk::instead_of(&cluster.data("dn1"), 256);
    cluster.start_node("dn1");
    eventually("a put", SOON, || {
        let output = cluster.dfs(&["-put", "-f", "kept", "/kept"]);
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
    let filler = disk.fill();
    let output = cluster.run(&[
        "-D",
        "client.retry_window=5s",
        "dfs",
        "-put",
        "more",
        "/more",
    ]);
    assert_eq!((output.code, &*output.stdout), (1, ""));
    assert!(output.stderr.starts_with("put: "), "{}", output.stderr);
    assert!(cluster.dfs(&["-cat", "/kept"]).ok().bytes == kept);
    std::fs::remove_file(filler).unwrap();
    eventually("a put with space", SOON, || {
        // Unless it runs.
        cluster.start_node("dn1");
        let put = ["dfs", "-put", "-f", "more", "/more"];
        let output = cluster.run(&[&["-D", "client.retry_window=5s"], &put[..]].concat());
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
    assert!(cluster.dfs(&["-cat", "/kept"]).ok().bytes == kept);
    assert!(cluster.dfs(&["-cat", "/more"]).ok().bytes == more);
    cluster.dev(&["down"]).ok();
}

/// Without space on a majority of JournalNodes edits are refused in the end, and all that was acknowledged is there when
/// there is space again.
#[test]
fn journalnodes_on_full_disks_refuse_edits_and_lose_nothing() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/before"]).ok();
    let ids = ["jn1", "jn2"];
    cluster.dev(&["down"]).ok();
    let disks = ids.map(|id| SmallDisk::instead_of(&cluster.data(id), 64));
    cluster.up().ok();
    let mut acknowledged = vec!["/before".to_owned()];
    let fillers = disks.each_ref().map(SmallDisk::fill);
    // Segments are written into space they have already, so many edits are needed until none is left.
    let refused = (0..EDIT_RUNS).find_map(|run| {
        let paths: Vec<String> = (0..EDITS_PER_RUN)
            .map(|edit| format!("/{run}-{edit}-{}", "x".repeat(200)))
            .collect();
        let mut args = vec!["-D", "client.retry_window=5s", "dfs", "-mkdir"];
        args.extend(paths.iter().map(String::as_str));
        let output = cluster.run(&args);
        if output.code == 0 {
            acknowledged.extend(paths);
            return None;
        }
        Some(output.stderr)
    });
    let refused = refused.expect("a full majority refuses edits in the end");
    assert!(refused.starts_with("mkdir: "), "{refused}");
    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    eventually("writes go on with space", SOON, || {
        // Those that run go on.
        for id in cluster.ids() {
            cluster.start_node(&id);
        }
        let mkdir = ["dfs", "-mkdir", "-p", "/after"];
        let output = cluster.run(&[&["-D", "client.retry_window=5s"], &mkdir[..]].concat());
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
    let names = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    for name in &acknowledged {
        assert!(names.lines().any(|line| line == name), "{name}: {names}");
    }
    cluster.dev(&["down"]).ok();
}

/// A NameNode without space: edits go on, for they are the JournalNodes'; an image that finds no room is refused with the
/// reason and leaves nothing that looks like one; the NameNode starts again, and saves once there is space.
#[test]
fn a_namenode_on_a_full_disk_goes_on_and_saves_with_space() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/before"]).ok();
    cluster.kill_node("nn1");
    let disk = SmallDisk::instead_of(&cluster.data("nn1"), 64);
    cluster.start_node("nn1");
    cluster.dfs(&["-mkdir", "/while"]).ok();
    let filler = disk.fill();
    let safe_mode = |verb| cluster.run(&["dfsadmin", "-safemode", verb]).ok();
    let save = || cluster.run(&["dfsadmin", "-saveNamespace"]);
    safe_mode("enter");
    let refused = save();
    refused.fails(1, &["cannot write", "No space left on device"]);
    safe_mode("leave");
    cluster.dfs(&["-mkdir", "/full"]).ok();
    let expected = "/before\n/full\n/while\n";
    let same = || assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, expected);
    same();
    cluster.kill_node("nn1");
    cluster.start_node("nn1");
    same();
    std::fs::remove_file(filler).unwrap();
    safe_mode("enter");
    save().ok();
    safe_mode("leave");
    let stats = cluster.debug(&["nn-stats"]).unwrap();
    assert!(stats["last_checkpoint"].as_u64() > Some(0), "{stats}");
    cluster.kill_node("nn1");
    cluster.start_node("nn1");
    same();
    cluster.dev(&["down"]).ok();
}
