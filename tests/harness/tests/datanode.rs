//! DataNodes that die.

use harness::{Random, TestCluster, alone, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

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
    eventually("the NameNode gives the DataNode up", SOON, || {
        let live = &cluster.debug(&["nn-stats"])?["live_datanodes"];
        (live == 3).then_some(()).ok_or(format!("{live} are alive"))
    });
    let told = cluster.await_healthy("/", SOON).stdout;
    assert!(told.contains("Average block replication:\t3.0"), "{told}");
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
