//! The journal's quorum: what goes on with one JournalNode down, what stops with two.

use harness::{SOON, TestCluster, alone, eventually};

/// A minority of JournalNodes may fail; without a majority nothing is acknowledged, and work goes on once there is
/// one again. T-A1: of a NameNode nobody knows there is no state. T-A3, Q35: the health check says what is wrong.
#[test]
fn work_goes_on_with_a_majority_of_journalnodes_and_waits_for_one() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/before"]).ok();
    let unknown = cluster.run(&["haadmin", "-getServiceState", "nn9"]);
    unknown.fails(255, &["no NameNode `nn9'", "it names: nn1"]);
    assert_eq!(unknown.stdout, "");
    let well = cluster.run(&["haadmin", "-checkHealth", "nn1"]).ok();
    assert_eq!((&*well.stdout, &*well.stderr), ("", ""));
    cluster.kill_node("jn1");
    for name in ["/one", "/one/a", "/one/b"] {
        cluster.dfs(&["-mkdir", name]).ok();
    }
    cluster.kill_node("jn3");
    let refused = cluster.run(&["-D", "client.retry_window=3s", "dfs", "-mkdir", "/two"]);
    assert_eq!((refused.code, &*refused.stdout), (1, ""));
    assert!(refused.stderr.starts_with("mkdir: "), "{}", refused.stderr);
    eventually("the health check fails", SOON, || {
        let output = cluster.run(&["haadmin", "-checkHealth", "nn1"]);
        let texts = ["Health check failed: ", "jn1", "jn3"];
        let all = texts.iter().all(|text| output.stderr.contains(text));
        match (output.code, all) {
            (255, true) => Ok(()),
            _ => Err(format!("{}: {}", output.code, output.stderr)),
        }
    });
    cluster.start_node("jn1");
    eventually("a mkdir with two JournalNodes", SOON, || {
        let output = cluster.dfs(&["-mkdir", "-p", "/three"]);
        (output.code == 0).then_some(()).ok_or(output.stderr)
    });
    let names = cluster.dfs(&["-ls", "-C", "-R", "/"]).ok().stdout;
    let acknowledged = ["/before", "/one", "/one/a", "/one/b", "/three"];
    // The unacknowledged one may be there or not.
    let there: Vec<&str> = names.lines().filter(|name| *name != "/two").collect();
    assert_eq!(there, acknowledged);
    // A NameNode that has to recover the journal knows the same.
    cluster.start_node("jn3");
    cluster.kill_node("nn1");
    cluster.start_node("nn1");
    assert_eq!(cluster.dfs(&["-ls", "-C", "-R", "/"]).ok().stdout, names);
}

/// T-N1: edits that are only in the quorum outlive restarts of the NameNode. T-N4: a JournalNode that is down is told as
/// lagging by the edits it misses, and not at all as written to after a restart of the NameNode.
#[test]
fn t_n1_t_n4_edits_in_the_quorum_outlive_restarts_and_lag_is_told() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let restart = || {
        cluster.dev(&["stop", "nn1"]).ok();
        cluster.start_node("nn1");
        eventually("the NameNode leaves safe mode", SOON, || {
            let output = cluster.run(&["dfsadmin", "-safemode", "get"]);
            (output.stdout.contains("OFF"))
                .then_some(())
                .ok_or(output.stdout + &output.stderr)
        });
    };
    cluster.dfs(&["-mkdir", "/one"]).ok();
    restart();
    cluster.dfs(&["-mkdir", "/two"]).ok();
    restart();
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/one\n/two\n");
    let lag_of_jn3 = |wanted: &dyn Fn(&serde_json::Value) -> bool| {
        eventually("the lag of jn3", SOON, || {
            let stats = cluster.debug(&["nn-stats"])?;
            let lags = stats["journal_lag"].as_array().ok_or("no list")?.clone();
            let known = lags.iter().find(|lag| lag["name"] == "jn3");
            let behind = known.ok_or(stats.to_string())?["behind"].clone();
            wanted(&behind)
                .then_some(())
                .ok_or_else(|| stats.to_string())
        });
    };
    lag_of_jn3(&|behind| *behind == 0);
    cluster.kill_node("jn3");
    cluster.dfs(&["-mkdir", "/three"]).ok();
    lag_of_jn3(&|behind| *behind == 1);
    restart();
    lag_of_jn3(&serde_json::Value::is_null);
    let names = cluster.dfs(&["-ls", "-C", "/"]).ok().stdout;
    assert_eq!(names, "/one\n/three\n/two\n");
}
