//! The replicas of a file, as its DataNodes hold them.

use crate::{TestClient, TestCluster, eventually};
use hadal_client::Dfs;
use std::time::Duration;

/// One replica.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Replica {
    /// Which block.
    pub block: u64,
    /// Its generation stamp.
    pub stamp: u64,
    /// Its bytes.
    pub length: u64,
    /// Its state (`FINALIZED`).
    pub state: String,
    /// On which DataNode.
    pub datanode: String,
}

impl TestCluster {
    /// Waits until every block of a closed file has exactly `count` replicas on its DataNodes, all FINALIZED, of one
    /// length and one generation stamp; returns them.
    ///
    /// # Panics
    ///
    /// When that is not so within `limit`.
    pub fn await_equal_replicas(
        &self,
        client: &TestClient,
        dfs: &Dfs,
        path: &str,
        count: usize,
        limit: Duration,
    ) -> Vec<Replica> {
        eventually("equal replicas", limit, || {
            let located = client.block_on(dfs.locations(path, 0, u64::MAX));
            let located = located.map_err(|error| error.to_string())?;
            let mut found = Vec::new();
            for id in self.datanode_ids() {
                let told = self.debug(&["dn-replicas", "--id", &id])?;
                let all = told["replicas"].as_array().cloned().unwrap_or_default();
                found.extend(all.iter().map(|replica| Replica {
                    block: replica["block"].as_u64().expect("an id"),
                    stamp: replica["generation_stamp"].as_u64().expect("a stamp"),
                    length: replica["length"].as_u64().expect("a length"),
                    state: replica["state"].as_str().expect("a state").to_owned(),
                    datanode: id.clone(),
                }));
            }
            found.retain(|replica| located.blocks.iter().any(|b| b.block.id.0 == replica.block));
            found.sort();
            for block in located.blocks.iter().map(|located| located.block) {
                let of_it: Vec<_> = found.iter().filter(|r| r.block == block.id.0).collect();
                let as_told = |replica: &&Replica| {
                    replica.stamp == block.generation_stamp.0
                        && replica.length == block.length
                        && replica.state.eq_ignore_ascii_case("FINALIZED")
                };
                if of_it.len() != count || !of_it.iter().all(as_told) {
                    return Err(format!("the NameNode has {block}, the DataNodes {of_it:?}"));
                }
            }
            Ok(found)
        })
    }
}
