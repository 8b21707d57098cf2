//! Background care on real processes: replicas that rot or vanish at rest are replaced, and nobody read them.

use harness::{SOON, TestClient, TestCluster, alone, eventually};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The scanners look every second.
const EAGER: [(&str, &str); 4] = [
    ("scan_period", "\"1s\""),
    ("scan_rate", "\"64MiB\""),
    ("scan_cursor_interval", "\"1s\""),
    ("directory_scan_interval", "\"1s\""),
];

/// Waits until `dfsadmin -report` says so.
fn await_report(cluster: &TestCluster, texts: &[&str]) {
    eventually("the report says so", SOON, || {
        let report = cluster.run(&["dfsadmin", "-report"]);
        match report.code == 0 && texts.iter().all(|text| report.stdout.contains(text)) {
            true => Ok(()),
            false => Err(format!(
                "{texts:?} not in {}{}",
                report.stdout, report.stderr
            )),
        }
    });
}

/// The replicas of a DataNode: file and offset of the first byte.
fn replicas(cluster: &TestCluster, id: &str) -> Vec<(PathBuf, u64)> {
    let answer = cluster
        .debug(&["dn-replicas", "--id", id])
        .expect("its replicas");
    let list = answer["replicas"].as_array().or_else(|| answer.as_array());
    let list = list.expect("a list");
    let one = |replica: &serde_json::Value| {
        let file = replica["file"].as_str().expect("a file");
        (
            PathBuf::from(file),
            replica["file_offset"].as_u64().expect("an offset"),
        )
    };
    list.iter().map(one).collect()
}

/// of two files with replication 2 on three DataNodes one replica rots, of two others the file is removed;
/// the scanners find both, and the blocks get whole replicas again.
#[test]
fn a39_replicas_that_rot_or_vanish_at_rest_are_replaced_without_a_reader() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    cluster.write_local("small", "small and sound\n".repeat(2_000));
    cluster.write_local("large", "large and sound\n".repeat(200_000));
    for file in ["small", "large"] {
        let to = format!("/{file}");
        cluster.dfs(&["-put", file, &to]).ok();
        cluster.dfs(&["-setrep", "-w", "2", &to]).ok();
    }
    for id in cluster.datanode_ids() {
        cluster.reconfigure(&id, &EAGER);
    }
    cluster.await_healthy("/", SOON);
    // The third ones, made before there were to be two, are gone: what is damaged below is nobody's to delete.
    let client = TestClient::new(&cluster);
    for path in ["/small", "/large"] {
        cluster.await_equal_replicas(&client, &client.dfs(), path, 2, SOON);
    }
    let all: Vec<(PathBuf, u64)> = cluster
        .datanode_ids()
        .iter()
        .flat_map(|id| replicas(&cluster, id))
        .collect();
    let is_large = |(path, _): &&(PathBuf, u64)| path.to_string_lossy().contains("/blk_");
    let (rotten, offset) = all
        .iter()
        .find(|replica| !is_large(replica))
        .expect("in a slot");
    let (gone, _) = all.iter().find(is_large).expect("in a file of its own");
    let file = std::fs::File::options()
        .write(true)
        .open(rotten)
        .expect("opens");
    file.write_all_at(&[0; 512], offset + 1024).expect("writes");
    std::fs::remove_file(gone).expect("removed");
    eventually("both are replaced", SOON, || {
        let said = |needle: &str| {
            let ids = cluster.datanode_ids();
            ids.iter().any(|id| cluster.log(id).contains(needle))
        };
        match said("does not verify") && said("is gone") {
            true => Ok(()),
            false => Err("the scanners have not said so".into()),
        }
    });
    cluster.await_healthy("/", SOON);
    for file in ["small", "large"] {
        let got = cluster.dfs(&["-cat", &format!("/{file}")]).ok().stdout;
        assert_eq!(got.as_bytes(), std::fs::read(cluster.local(file)).unwrap());
    }
}

/// T-B3: a DataNode in maintenance may be stopped, and nothing is copied for it; a decommission that cannot complete says
/// which file holds it up.
#[test]
fn t_b3_datanodes_leave_for_a_while_or_say_what_holds_them_up() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    let [maintenance, exclude] = ["maintenance", "exclude"].map(|list| {
        cluster.write_local(list, "# nobody\n");
        format!("{:?}", cluster.local(list))
    });
    let paths = [
        ("hosts_maintenance", &*maintenance),
        ("hosts_exclude", &*exclude),
    ];
    cluster.reconfigure("nn1", &paths);
    cluster.dfs(&["-mkdir", "/care"]).ok();
    cluster.write_local("three", "three copies\n");
    cluster.dfs(&["-put", "three", "/care/three"]).ok();
    cluster.await_healthy("/", SOON);
    let refresh = || {
        cluster.run(&["dfsadmin", "-refreshNodes"]).ok();
    };
    cluster.write_local("maintenance", "dn1\n");
    refresh();
    await_report(
        &cluster,
        &["In maintenance datanodes (1)", "In Maintenance"],
    );
    cluster.kill_node("dn1");
    await_report(
        &cluster,
        &["Dead datanodes (1)", "State: dead in maintenance"],
    );
    let report = cluster.run(&["dfsadmin", "-report"]).ok().stdout;
    assert!(report.contains("Under replicated blocks: 0"), "{report}");
    cluster.dfs(&["-cat", "/care/three"]).ok();
    cluster.start_node("dn1");
    cluster.write_local("maintenance", "");
    refresh();
    await_report(
        &cluster,
        &["Live datanodes (3)", "Under replicated blocks: 0"],
    );
    // Three copies do not fit on two DataNodes.
    cluster.write_local("exclude", "dn2\n");
    refresh();
    let held = "Held up by: /care/three (blk_";
    await_report(
        &cluster,
        &[
            "Decommission in progress",
            held,
            ": 2 of 3 replicas on DataNodes that stay)",
        ],
    );
    cluster.dfs(&["-setrep", "2", "/care/three"]).ok();
    await_report(&cluster, &["Decommission Status : Decommissioned"]);
}
