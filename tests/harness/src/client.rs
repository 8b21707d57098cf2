//! The client library inside the test's process.

use crate::TestCluster;
use crate::cluster::RETRY_WINDOW;
use hadal_client::{ClientError, ClientOptions, Dfs, Identity};
use hadal_daemon::Config;
use hadal_env::Expect;
use hadal_proto::admin::{Request, Response};
use hadal_types::{HaState, Role};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Nothing a test does through the client library takes longer, the writing of a large file included.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);
/// One NameNode is asked for its state for this long.
const STATE_WAIT_MS: u64 = 1_500;

/// A runtime of its own with clients of a cluster.
#[derive(Debug)]
pub struct TestClient {
    runtime: Runtime,
    config: Config,
}

impl TestClient {
    /// Clients of this cluster.
    ///
    /// # Panics
    ///
    /// When the cluster's client configuration cannot be read.
    #[must_use]
    pub fn new(cluster: &TestCluster) -> Self {
        Self::of_config(&cluster.root().join("client.toml"))
    }

    /// Clients of the cluster with this client configuration.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn of_config(path: &Path) -> Self {
        let loaded = hadal_daemon::load(Some(path), std::iter::empty::<(String, String)>(), &[]);
        Self {
            config: loaded.expect("the client's configuration").config,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Runs a future to its end.
    ///
    /// # Panics
    ///
    /// When it takes longer than anything of a test may.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let limited = self
            .runtime
            .block_on(async { tokio::time::timeout(LIMIT, future).await });
        limited.unwrap_or_else(|_| panic!("it does not end within {} s", LIMIT.as_secs()))
    }

    /// Where its tasks run.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A file system that knows all NameNodes and has the library's default settings, but for a retry window that a busy
    /// machine does not use up.
    #[must_use]
    pub fn dfs(&self) -> Dfs {
        self.dfs_with(|_| true, |_| {})
    }

    /// A file system with the settings of the client configuration: a dead DataNode is noticed as soon as the nodes of
    /// a development cluster notice it. `set` changes more.
    pub fn dfs_quick(&self, set: impl FnOnce(&mut ClientOptions)) -> Dfs {
        self.dfs_with(
            |_| true,
            |options| {
                let timeout_ms = self.config.cluster.connection_timeout.0;
                options.connection_timeout_ms = u32::try_from(timeout_ms).expect("seconds");
                options.stream_timeout_ms = self.config.client.stream_timeout.0;
                set(options);
            },
        )
    }

    /// A file system that knows only this NameNode and gives a call up after `window`.
    #[must_use]
    pub fn dfs_of(&self, id: &str, window: Duration) -> Dfs {
        let window_ms = u64::try_from(window.as_millis()).expect("a short window");
        self.dfs_with(
            |name| name == id,
            |options| options.failover.window_ms = window_ms,
        )
    }

    /// A file system with other settings, that knows the NameNodes `known`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn dfs_with(
        &self,
        known: impl Fn(&str) -> bool,
        set: impl FnOnce(&mut ClientOptions),
    ) -> Dfs {
        let members = self.config.cluster.namenodes.iter();
        let known = members.filter(|member| known(&member.id));
        let mut options =
            ClientOptions::new(known.map(|member| (member.id.clone(), member.address)));
        options.failover.window_ms = u64::try_from(RETRY_WINDOW.as_millis()).expect("seconds");
        // As the shell on so small a cluster: there is no other DataNode to take a dead one's place.
        options.replacement.best_effort = self.config.client.replace_datanode_best_effort;
        set(&mut options);
        let _inside = self.runtime.enter();
        hadal_client::connect(options, &self.identity()).expect("a client")
    }

    fn identity(&self) -> Identity {
        let (dir, name) = (&self.config.tls.dir, &self.config.tls.name);
        let path = |name: String| dir.join(name);
        let (certificate, key) = (format!("{name}.pem"), format!("{name}-key.pem"));
        Identity::load(&path("ca.pem".into()), &path(certificate), &path(key))
            .expect("the superuser's certificate")
    }

    /// What every NameNode says of itself; `None`: no answer.
    #[must_use]
    pub fn states(&self, dfs: &Dfs) -> Vec<(String, Option<HaState>)> {
        let asked = self.config.cluster.namenodes.iter().map(async |member| {
            let expect = Expect::node(Role::Namenode, member.id.clone());
            let call = dfs.admin(member.address, &expect, &Request::GetStatus);
            let answer = tokio::time::timeout(Duration::from_millis(STATE_WAIT_MS), call).await;
            let state = match answer {
                Ok(Ok(Response::Status { status })) => Some(status.state),
                _ => None,
            };
            (member.id.clone(), state)
        });
        self.block_on(futures_util::future::join_all(asked))
    }
}

/// The class of a refusal in words, for assertions about several.
#[must_use]
pub fn refusal(error: &ClientError) -> String {
    match error.class() {
        Some(class) => format!("{class:?}"),
        None => error.to_string(),
    }
}
