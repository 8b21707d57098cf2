//! Misuse of what recovery offers (issue 5): each is refused by name, with exit code 1, and changes nothing.

use hadal_client::AppendOptions;
use harness::{SOON, TestClient, TestCluster, Writer, alone, eventually};

const WRITER: &str = env!("CARGO_BIN_EXE_harness-writer");

/// Append, truncate, lease recovery and replication where they cannot be.
#[test]
fn appends_truncates_lease_recoveries_and_factors_that_cannot_be_t_l22_t_l24_t_t3() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    cluster.write_local("five", "12345");
    cluster.dfs(&["-mkdir", "/d"]).ok();
    cluster.dfs(&["-put", "five", "/f"]).ok();
    let mut writer = Writer::create(WRITER, &cluster, "/open", 1);
    writer.write(1_000, "hflush");
    let recover = |path: &str| cluster.run(&["debug", "recoverLease", "-path", path]);
    let refused = [
        // Append to a directory, to a file under another's lease, to nothing's parent that is a file.
        (cluster.dfs(&["-appendToFile", "five", "/d"]), "directory"),
        (cluster.dfs(&["-appendToFile", "five", "/open"]), "/open"),
        (cluster.dfs(&["-appendToFile", "five", "/f/g"]), "/f"),
        // Truncate beyond the end, to a negative length, a directory, an open file, what is not there.
        (cluster.dfs(&["-truncate", "6", "/f"]), "larger"),
        (cluster.dfs(&["-truncate", "-1", "/f"]), "-1"),
        (cluster.dfs(&["-truncate", "0", "/d"]), "/d"),
        (cluster.dfs(&["-truncate", "0", "/open"]), "/open"),
        (cluster.dfs(&["-truncate", "0", "/none"]), "/none"),
        // Lease recovery of what is not there, and of a directory.
        (recover("/none"), "/none"),
        (recover("/d"), "/d"),
        // More copies than the maximum, and none.
        (cluster.dfs(&["-setrep", "513", "/f"]), "512"),
        (cluster.dfs(&["-setrep", "0", "/f"]), ">= 1"),
    ];
    for (number, (output, word)) in refused.iter().enumerate() {
        assert_ne!(output.code, 0, "misuse {number}");
        assert!(
            output.stderr.contains(word),
            "misuse {number} does not name `{word}': {}",
            output.stderr
        );
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    }
    // A closed file needs no recovery, and says so at the first try (T-L15).
    assert_eq!(recover("/f").ok().stdout, "recoverLease SUCCEEDED on /f\n");
    assert_eq!(cluster.dfs(&["-cat", "/f"]).ok().stdout, "12345");
    // The open file's writer noticed nothing.
    writer.write(1_000, "hsync");
    assert_eq!(writer.order("close"), Ok(2_000));
    // Taken from its writer, it is the writer that is refused (T-L16).
    let mut writer = Writer::append(WRITER, &cluster, "/open", 1).expect("it is closed");
    let kept = writer.write(1_000, "hflush");
    cluster
        .run(&["debug", "recoverLease", "-path", "/open", "-retries", "100"])
        .ok();
    let late = writer
        .order("write 1000")
        .and_then(|_| writer.order("hflush"));
    let late = late.and_then(|_| writer.order("close"));
    assert!(late.is_err(), "the old writer closed at {late:?}");
    let length = cluster.dfs(&["-stat", "%b", "/open"]).ok().stdout;
    assert_eq!(length.trim(), kept.to_string());
}

/// A decommission that cannot end, as no DataNode is left for the third copies: fsck names the files that hold it up, and
/// it ends once they ask for no more. Of the files that are open those are listed that hold it up.
#[test]
fn a_decommission_that_cannot_end_names_the_files_that_hold_it() {
    let _alone = alone();
    let cluster = TestCluster::start(3);
    cluster.write_local("five", "12345");
    cluster.dfs(&["-put", "five", "/three"]).ok();
    cluster.dfs(&["-put", "five", "/two"]).ok();
    cluster.dfs(&["-setrep", "2", "/two"]).ok();
    let exclude = cluster.local("exclude");
    std::fs::write(&exclude, "").expect("a file");
    let path = format!("{exclude:?}");
    cluster.reconfigure("nn1", &[("hosts_exclude", &path)]);
    cluster.await_healthy("/", SOON);
    // Open, with a first block that wants its three copies; another one has its only block still open.
    let (client, mut writer) = (
        TestClient::new(&cluster),
        Writer::create(WRITER, &cluster, "/writing", 1),
    );
    writer.write(1_000, "hflush");
    cluster.dfs(&["-put", "five", "/held"]).ok();
    let dfs = client.dfs();
    let new_block = AppendOptions { new_block: true };
    let held = client.block_on(dfs.append("/held", &new_block));
    let mut held = held.expect("appended to");
    let blocking = |more: &[&str]| {
        let all = [
            &["dfsadmin", "-listOpenFiles", "-blockingDecommission"],
            more,
        ]
        .concat();
        let told = cluster.run(&all).ok().stdout;
        let lines = told.lines().skip(1).map(|line| {
            let path = line.split('\t').next_back().unwrap_or_default();
            path.to_owned()
        });
        lines.collect::<Vec<_>>()
    };
    assert!(blocking(&[]).is_empty(), "nobody leaves");
    std::fs::write(&exclude, "dn2\n").expect("a file");
    cluster.run(&["dfsadmin", "-refreshNodes"]).ok();
    let status = |wanted: &str| {
        eventually(wanted, SOON, || {
            let told = cluster.run(&["dfsadmin", "-report"]).stdout;
            let line = format!("Decommission Status : {wanted}");
            told.contains(&line).then_some(()).ok_or(told)
        });
    };
    status("Decommission in progress");
    // The file of two copies may have had one of them on dn2: it is listed until the third DataNode has a copy.
    eventually("fsck names /three alone", SOON, || {
        let told = cluster.run(&["fsck", "/"]).stdout;
        let held = told
            .lines()
            .any(|line| line.starts_with("/three:") && line.contains("nder"));
        (held && !told.contains("/two:")).then_some(()).ok_or(told)
    });
    eventually("/held is listed alone", SOON, || {
        let listed = blocking(&[]);
        (listed == ["/held"]).then_some(()).ok_or(listed.join(" "))
    });
    assert_eq!(blocking(&["-path", "/held"]), ["/held"]);
    assert!(blocking(&["-path", "/writing"]).is_empty());
    let all = cluster.run(&["dfsadmin", "-listOpenFiles"]).ok().stdout;
    assert!(all.contains("/held") && all.contains("/writing"), "{all}");
    client.block_on(held.close()).expect("closed");
    assert_eq!(writer.order("close"), Ok(1_000));
    for path in ["/held", "/writing"] {
        cluster.dfs(&["-rm", path]).ok();
    }
    cluster.dfs(&["-setrep", "2", "/three"]).ok();
    status("Decommissioned");
    assert!(cluster.dfs(&["-cat", "/three"]).ok().stdout == "12345");
}
