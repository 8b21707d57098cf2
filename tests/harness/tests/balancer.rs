//! The balancer on real processes: a DataNode that is added gets its share, and nothing is lost on the way.

use hadal_client::CreateOptions;
use harness::{Pattern, SOON, TestClient, TestCluster, alone, eventually};
use serde_json::Value;
use std::collections::BTreeSet;

const FILES: u64 = 24;
const BYTES: usize = 1 << 20;

/// What `dfsadmin -report` says of a DataNode.
fn reported(cluster: &TestCluster, id: &str) -> Value {
    let report = cluster.run(&["dfsadmin", "-report", "--json"]).ok().stdout;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let nodes = report["datanodes"].as_array().expect("DataNodes");
    let node = nodes.iter().find(|node| node["name"] == id);
    node.expect("it is known").clone()
}

/// Waits until a DataNode has registered on its rack.
fn await_rack(cluster: &TestCluster, id: &str, rack: &str) {
    eventually("it is on its rack", SOON, || {
        let reported = reported(cluster, id);
        let is_there = reported["rack"] == rack;
        is_there.then_some(()).ok_or_else(|| reported.to_string())
    });
}

/// `used` of a DataNode.
fn used(cluster: &TestCluster, id: &str) -> u64 {
    let reported = reported(cluster, id);
    let storages = reported["storages"].as_array();
    let used = storages.expect("storages").iter();
    used.map(|storage| storage["used"].as_u64().expect("bytes"))
        .sum()
}

/// two DataNodes on two racks hold two replicas of everything; a third one, on the second rack, gets some of what
/// is on that rack: nothing of the first rack's, as the blocks would be on one rack then. Every block keeps two replicas
/// on two racks, every byte is there, one balancer runs at a time, and the bandwidth is what was ordered.
#[test]
fn a37_a_new_datanode_gets_its_share_and_no_block_loses_a_replica_or_a_rack() {
    let _alone = alone();
    let mut cluster = TestCluster::start(2);
    cluster.grow(3);
    fn settings(rack: &str) -> [(&str, &str); 2] {
        [("volume_capacity", "\"64MiB\""), ("rack", rack)]
    }
    cluster.reconfigure("dn1", &settings("\"/a\""));
    cluster.reconfigure("dn2", &settings("\"/b\""));
    cluster.kill_node("dn3");
    cluster.await_live(2, SOON);
    await_rack(&cluster, "dn1", "/a");
    await_rack(&cluster, "dn2", "/b");
    let client = TestClient::new(&cluster);
    let dfs = client.dfs_quick(|_| {});
    let options = CreateOptions {
        replication: Some(2),
        block_size: Some(BYTES as u64),
        ..CreateOptions::default()
    };
    for seed in 0..FILES {
        let path = format!("/balance/f{seed}");
        client.block_on(async {
            let mut file = dfs.create(&path, &options).await.expect("create");
            let bytes = Pattern(seed).bytes(0, BYTES);
            file.write_bytes(bytes.into()).await.expect("write");
            file.close().await.expect("close");
        });
    }
    cluster.configure("dn3", &settings("\"/b\""));
    cluster.start_node("dn3");
    cluster.await_live(3, SOON);
    await_rack(&cluster, "dn3", "/b");
    cluster.await_healthy("/", SOON);
    // What the balancer reckons with comes with heartbeats.
    let all_told = |id: &str| {
        eventually("the NameNode knows what is used", SOON, || {
            let used = used(&cluster, id);
            let all = FILES * BYTES as u64;
            (used >= all).then_some(used).ok_or(format!("{id}: {used}"))
        })
    };
    let before = all_told("dn1");
    all_told("dn2");

    let balancer = |words: &[&str]| {
        let all = [&["balancer", "-D", "balancer.min_block_size=1"], words].concat();
        cluster.run(&all)
    };
    // One at a time.
    let lock = "/system/balancer.id";
    let held = client.block_on(dfs.create(lock, &CreateOptions::default()));
    let held = held.expect("nobody balances");
    let refused = balancer(&["-threshold", "15"]);
    assert_eq!(refused.code, 255, "{refused:?}");
    assert!(refused.stderr.contains("Another Balancer is running"));
    client.block_on(dfs.delete(lock, false)).expect("deleted");
    drop(held);

    let done = balancer(&["-threshold", "15", "--json"]);
    assert_eq!(done.code, 0, "{done:?}");
    let told: Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(told["result"], "balanced", "{told}");
    assert!(told["moves"].as_u64() >= Some(4), "{told}");
    assert!(told["bytes_moved"].as_u64() >= Some(4 << 20), "{told}");
    let again = balancer(&["-threshold", "15"]);
    assert_eq!(again.code, 0, "the lock is gone: {again:?}");
    assert!(again.stdout.contains("The cluster is balanced. Exiting..."));

    cluster.await_healthy("/", SOON);
    let mut moved = 0;
    for seed in 0..FILES {
        let path = format!("/balance/f{seed}");
        let replicas = cluster.await_equal_replicas(&client, &dfs, &path, 2, SOON);
        let nodes: BTreeSet<&str> = replicas.iter().map(|it| &*it.datanode).collect();
        assert!(nodes.contains("dn1"), "{path} left rack /a: {nodes:?}");
        moved += u64::from(nodes.contains("dn3"));
        client.block_on(async {
            let mut file = dfs.open(&path).await.expect("open");
            while let Some(bytes) = file.read_chunk().await.expect("read") {
                let at = file.position() - bytes.len() as u64;
                Pattern(seed).check(at, &bytes).expect("the bytes");
            }
            assert_eq!(file.position(), BYTES as u64);
        });
    }
    assert!(moved >= 4, "{moved} blocks are on dn3");
    assert_eq!(used(&cluster, "dn1"), before, "nothing was moved off /a");

    let set = cluster
        .run(&["dfsadmin", "-setBalancerBandwidth", "5m"])
        .ok();
    assert_eq!(set.stdout, "Balancer bandwidth is set to 5242880\n");
    for id in cluster.datanode_ids() {
        eventually("the bandwidth is known", SOON, || {
            let told = cluster.run(&["dfsadmin", "-getBalancerBandwidth", &id]);
            match told.stdout == "Balancer bandwidth is 5242880 bytes per second.\n" {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            }
        });
    }
    let zero = cluster.run(&["dfsadmin", "-setBalancerBandwidth", "0"]);
    assert!(
        zero.code == 1 && zero.stderr.contains("give at least 1"),
        "{zero:?}"
    );
    assert_eq!(balancer(&["-threshold", "0.5"]).code, 251);
}
