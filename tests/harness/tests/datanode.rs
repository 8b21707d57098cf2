//! DataNodes that die and replicas that rot.

use harness::{Random, SOON, TestClient, TestCluster, alone, eventually};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Where a DataNode's replica of this block has bytes like these: the file and the offset in it. Files may have bytes of
/// replicas that are no more.
fn find(cluster: &TestCluster, id: &str, block: u64, pattern: &[u8]) -> Option<(PathBuf, usize)> {
    let told = cluster.debug(&["dn-replicas", "--id", id]).ok()?;
    let replicas = told["replicas"].as_array()?;
    let replica = replicas.iter().find(|replica| replica["block"] == block)?;
    let path = PathBuf::from(replica["file"].as_str()?);
    let start = usize::try_from(replica["file_offset"].as_u64()?).ok()?;
    let bytes = std::fs::read(&path).ok()?;
    let at = (start..bytes.len().checked_sub(pattern.len() - 1)?)
        .find(|&at| bytes[at] == pattern[0] && bytes[at..].starts_with(pattern))?;
    Some((path, at))
}

/// A dead DataNode's replicas are made again on the others; a cluster whose DataNodes all died has everything still.
#[test]
fn blocks_outlive_their_datanodes() {
    let _alone = alone();
    let cluster = TestCluster::start(4);
    let mut random = Random::default();
    let contents = [100, 70_000, 3_000_000].map(|length| random.bytes(length));
    for (n, content) in contents.iter().enumerate() {
        cluster.write_local(&format!("f{n}"), content);
        cluster.dfs(&["-put", &format!("f{n}"), "/"]).ok();
    }
    let same = |when: &str| {
        for (n, content) in contents.iter().enumerate() {
            let bytes = cluster.dfs(&["-cat", &format!("/f{n}")]).ok().bytes;
            assert!(bytes == *content, "/f{n} differs {when}");
        }
    };
    cluster.await_healthy("/", SOON);
    cluster.kill_node("dn2");
    same("with a DataNode down");
    cluster.await_live(3, SOON);
    cluster.await_fsck("/", &["Average block replication:\t3.0"], SOON);
    same("after replication");
    for id in ["dn1", "dn3", "dn4"] {
        cluster.kill_node(id);
    }
    for id in cluster.datanode_ids() {
        cluster.start_node(&id);
    }
    cluster.await_healthy("/", SOON);
    same("after all DataNodes died");
}

/// One or two of three replicas rot on disk: readers get the right bytes, the rotten ones are found, reported and replaced
/// until there are three good ones, and `fsck` says so.
#[test]
fn rotten_replicas_are_found_by_readers_and_replaced() {
    let _alone = alone();
    let cluster = TestCluster::start(4);
    let mut random = Random::default();
    // Below and above the size from which a replica has a file of its own; how many of its replicas rot.
    let plan = [
        ("small1", 20_000, 1),
        ("large1", 1_500_000, 1),
        ("small2", 20_000, 2),
        ("large2", 1_500_000, 2),
    ];
    let contents = plan.map(|(name, length, _)| {
        let content = random.bytes(length);
        cluster.write_local(name, &content);
        cluster.dfs(&["-put", name, "/"]).ok();
        content
    });
    let client = TestClient::new(&cluster);
    let dfs = client.dfs();
    for ((name, length, rotten), content) in plan.iter().zip(&contents) {
        let path = format!("/{name}");
        let replicas = cluster.await_equal_replicas(&client, &dfs, &path, 3, SOON);
        let block = replicas[0].block;
        let pattern = &content[length / 2..][..64];
        let holders = || -> Vec<_> {
            let ids = cluster.datanode_ids();
            ids.iter()
                .filter_map(|id| find(&cluster, id, block, pattern))
                .collect()
        };
        let before = holders();
        assert_eq!(before.len(), 3, "{name}");
        for (path, at) in &before[..*rotten] {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let flipped = [pattern[0] ^ 0x10];
            file.write_all_at(&flipped, *at as u64).unwrap();
            file.sync_all().unwrap();
        }
        let left = holders();
        let is_left = |place| left.contains(place);
        assert!(!before[..*rotten].iter().any(is_left), "{name}: {left:?}");
        eventually("there are three good replicas again", SOON, || {
            let read = cluster.dfs(&["-cat", &path]).ok();
            assert!(read.bytes == *content, "wrong bytes were read from {path}");
            let good = holders().len();
            (good >= 3).then_some(()).ok_or_else(|| {
                let stats = cluster.debug(&["nn-stats"]);
                format!("{path}: {good} are good; {stats:?}")
            })
        });
    }
    cluster.await_fsck("/", &["Average block replication:\t3.0"], SOON);
    eventually("the rotten replicas are deleted", SOON, || {
        let stats = cluster.debug(&["nn-stats"])?;
        let none = |key: &str| stats[key] == 0;
        let done = none("corrupt") && none("missing") && none("pending_deletion");
        done.then_some(()).ok_or_else(|| stats.to_string())
    });
    let rotten: usize = plan.iter().map(|(_, _, rotten)| rotten).sum();
    // Whichever is active.
    let ids = cluster.ids();
    let namenodes = ids.iter().filter(|id| id.starts_with("nn"));
    let reported: usize = namenodes
        .map(|id| cluster.log(id).matches("is corrupt").count())
        .sum();
    assert!(
        reported >= rotten,
        "{reported} of {rotten} rotten replicas were reported"
    );
}
