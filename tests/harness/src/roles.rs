//! The roles of a cluster's NameNodes, and signals to its processes.

use crate::{SOON, TestClient, TestCluster, eventually};
use hadal_client::Dfs;
use hadal_types::HaState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Who is what, asked through connections that stay.
pub struct Roles<'a> {
    cluster: &'a TestCluster,
    client: &'a TestClient,
    dfs: Dfs,
}

impl<'a> Roles<'a> {
    /// The roles in this cluster.
    #[must_use]
    pub fn new(cluster: &'a TestCluster, client: &'a TestClient) -> Self {
        Self {
            cluster,
            client,
            dfs: client.dfs(),
        }
    }

    /// What every NameNode says of itself now.
    #[must_use]
    pub fn states(&self) -> Vec<(String, Option<HaState>)> {
        self.client.states(&self.dfs)
    }

    /// The active NameNode, once there is one that is none of `but`.
    pub fn active_but(&self, but: &[&str]) -> String {
        eventually("a NameNode is active", SOON, || {
            let states = self.states();
            let is_new = |id: &str, state| state == Some(HaState::Active) && !but.contains(&id);
            let found = states.iter().find(|(id, state)| is_new(id, *state));
            found
                .map(|(id, _)| id.clone())
                .ok_or_else(|| format!("{states:?}"))
        })
    }

    /// The active NameNode, and those that stand by, once one is active and all others stand by and have applied what
    /// is committed.
    pub fn settled(&self) -> (String, Vec<String>) {
        eventually("one active, the others standby", SOON, || {
            let states = self.states();
            let with = |wanted: HaState| -> Vec<String> {
                let found = states.iter().filter(|(_, state)| *state == Some(wanted));
                found.map(|(id, _)| id.clone()).collect()
            };
            let (active, standby) = (with(HaState::Active), with(HaState::Standby));
            match &active[..] {
                [one] if standby.len() + 1 == states.len() => Ok((one.clone(), standby)),
                _ => Err(format!("{states:?}")),
            }
        })
    }

    /// Waits until all these NameNodes have the same tree at the same txid. Nobody may write meanwhile.
    pub fn await_equal_digests(&self, ids: &[&str]) {
        eventually("equal digests", SOON, || {
            let digest = |id: &&str| self.cluster.debug(&["namespace-digest", "--id", id]);
            let digests: Result<Vec<_>, _> = ids.iter().map(digest).collect();
            let digests = digests?;
            let equal = digests.windows(2).all(|pair| pair[0] == pair[1]);
            equal.then_some(()).ok_or_else(|| format!("{digests:?}"))
        });
    }
}

impl TestCluster {
    /// Sends a signal to a node's process, at once.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn signal(&self, id: &str, signal: Signal) {
        let path = self.root().join("run").join(format!("{id}.pid"));
        let text = std::fs::read_to_string(path).expect("a pid file");
        let pid: i32 = text.trim().parse().expect("a process id");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{id}: {error}"));
    }

    /// What a node has logged so far.
    #[must_use]
    pub fn log(&self, id: &str) -> String {
        let path = self.root().join("logs").join(format!("{id}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }
}
