//! The journal's quorum: what goes on with one JournalNode down, what stops with two.

use harness::{TestCluster, alone, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A minority of JournalNodes may fail; without a majority nothing is acknowledged, and work goes on once there is
/// one again.
#[test]
fn work_goes_on_with_a_majority_of_journalnodes_and_waits_for_one() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/before"]).ok();
    cluster.kill_node("jn1");
    for name in ["/one", "/one/a", "/one/b"] {
        cluster.dfs(&["-mkdir", name]).ok();
    }
    cluster.kill_node("jn3");
    let refused = cluster.run(&["-D", "client.retry_window=3s", "dfs", "-mkdir", "/two"]);
    assert_eq!((refused.code, &*refused.stdout), (1, ""));
    assert!(refused.stderr.starts_with("mkdir: "), "{}", refused.stderr);
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
