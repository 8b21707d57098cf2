//! Readers that meet wrong bytes.

use super::*;
use hadal_client::LocatedBlock;
use hadal_env::Expect;
use hadal_proto::admin::{ReplicaStatus, Request, Response};
use std::path::Path;

impl Scene {
    async fn only_block(&self, path: &str) -> LocatedBlock {
        let located = self.dfs.locations(path, 0, u64::MAX).await.expect("found");
        let [block] = &located.blocks[..] else {
            panic!("{} blocks", located.blocks.len());
        };
        block.clone()
    }

    /// Turns a bit of the replica of this block on a DataNode.
    async fn rot(&self, name: &str, block: &LocatedBlock) {
        let index: usize = name[2..].parse().expect("dnN");
        let expect = Expect::node(Role::Datanode, name.to_owned());
        let (after, limit) = (0, 1_000);
        let request = Request::Replicas { after, limit };
        let answer = self
            .dfs
            .admin(datanode_address(index - 1), &expect, &request);
        let Ok(Response::Replicas { replicas, .. }) = answer.await else {
            panic!("no list of replicas");
        };
        let is_it = |replica: &&ReplicaStatus| replica.block.id == block.block.id;
        let replica = replicas.iter().find(is_it).expect("a replica");
        let disk = self
            .env
            .world()
            .disk_of(self.env.world().node(name).expect("it"));
        let bit = (replica.file_offset + 5_000) * 8;
        assert!(disk.flip_bit(Path::new(&replica.file), bit));
    }
}

/// to a reader with bad memory every replica looks wrong: it condemns none of them. (Here all of them are wrong, which
/// to a reader is the same.)
#[test]
fn a39_a_reader_to_which_every_replica_is_wrong_condemns_none() {
    let cluster = Cluster::start(60, 3);
    cluster.run(|scene| async move {
        scene.make("/f", &content(20_000, 60)).await;
        let block = scene.only_block("/f").await;
        for node in &block.locations {
            scene.rot(&node.name, &block).await;
        }
        let mut file = scene.dfs.open("/f").await.expect("it opens");
        let error = file.read_to_end().await.expect_err("no replica is right");
        assert!(matches!(error, ClientError::BlockMissing { .. }), "{error}");
        scene.wait(3_000).await;
        let block = scene.only_block("/f").await;
        assert_eq!((block.corrupt_replicas, block.corrupt), (0, false));
        assert_eq!(block.locations.len(), 3);
    });
}

/// what was wrong before another replica gave the same bytes is reported, all of it.
#[test]
fn a39_wrong_replicas_are_reported_once_another_is_right() {
    let cluster = Cluster::start(61, 3);
    cluster.run(|scene| async move {
        let all = content(20_000, 61);
        scene.make("/f", &all).await;
        let block = scene.only_block("/f").await;
        for node in &block.locations[..2] {
            scene.rot(&node.name, &block).await;
        }
        let mut reads = 0;
        while scene.only_block("/f").await.corrupt_replicas < 2 {
            assert!(scene.read("/f").await == all);
            reads += 1;
            assert!(reads < 50, "nobody is told");
        }
        let now = scene.only_block("/f").await;
        let good: Vec<_> = now.locations.iter().map(|node| &node.name).collect();
        assert_eq!(good, [&block.locations[2].name]);
    });
}

/// A block with a single replica: nothing to compare it with.
#[test]
fn a39_the_only_replica_is_reported_at_once() {
    let cluster = Cluster::start(62, 1);
    cluster.run(|scene| async move {
        let options = CreateOptions {
            replication: Some(1),
            ..CreateOptions::default()
        };
        let mut file = scene.dfs.create("/f", &options).await.expect("made");
        file.write_all(&content(20_000, 62)).await.expect("written");
        file.close().await.expect("closed");
        let block = scene.only_block("/f").await;
        scene.rot("dn1", &block).await;
        let mut file = scene.dfs.open("/f").await.expect("it opens");
        file.read_to_end().await.expect_err("it is wrong");
        assert!(scene.only_block("/f").await.corrupt);
    });
}
