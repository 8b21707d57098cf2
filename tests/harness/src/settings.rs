//! Other settings for the nodes of a cluster.

use crate::TestCluster;

impl TestCluster {
    /// Writes other values into a node's configuration, for its next start. Values are TOML: a string brings its quotes.
    ///
    /// # Panics
    ///
    /// When the configuration has no such key.
    pub fn configure(&self, id: &str, settings: &[(&str, &str)]) {
        let mut config = self.config(id);
        for (key, value) in settings {
            let is_it = |line: &&str| line.split(" =").next() == Some(*key);
            let old = config.lines().find(is_it);
            let old = old.unwrap_or_else(|| panic!("no {key} in the configuration of {id}"));
            config = config.replace(&format!("{old}\n"), &format!("{key} = {value}\n"));
        }
        std::fs::write(self.config_file(id), config).expect("a configuration");
    }

    /// As [`TestCluster::configure`], and starts the node again.
    ///
    /// # Panics
    ///
    /// When it does not start again.
    #[track_caller]
    pub fn reconfigure(&self, id: &str, settings: &[(&str, &str)]) {
        self.configure(id, settings);
        self.dev(&["stop", id]).ok();
        self.start_node(id);
    }
}
