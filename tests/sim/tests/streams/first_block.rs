//! Files whose first block comes with the answer to the create ([`CreateOptions::first_block`]).

use super::*;

async fn create(scene: &Scene, path: &str) -> DfsOutputStream<SimEnv> {
    let options = CreateOptions {
        first_block: true,
        ..CreateOptions::default()
    };
    scene.dfs.create(path, &options).await.expect("made")
}

/// What is closed without a byte has no block, as without the option, and the cluster keeps none for it.
#[test]
fn a_file_closed_without_a_byte_has_no_block() {
    let cluster = Cluster::start(80, 3);
    cluster.run(|scene| async move {
        let before = scene.dfs.fs_stats().await.expect("told").blocks;
        let mut file = create(&scene, "/f").await;
        let open = scene.dfs.fs_stats().await.expect("told").blocks;
        assert_eq!(open, before + 1, "it came with the file");
        file.hflush().await.expect("nothing to flush");
        file.close().await.expect("closed");
        let after = scene.dfs.fs_stats().await.expect("told").blocks;
        assert_eq!(after, before);
        let located = scene.dfs.locations("/f", 0, u64::MAX).await.expect("found");
        assert!(located.blocks.is_empty() && !located.under_construction);
        assert!(scene.read("/f").await.is_empty());
    });
}

/// The block is written without another word to the NameNode, which is dead by then; another process of it, which has the
/// block from the journal, closes the file.
#[test]
fn f06_the_first_block_is_written_while_no_namenode_is_there() {
    let cluster = Cluster::start(81, 3);
    cluster.run(|scene| async move {
        let all = content(BLOCK - 5, 81);
        let mut file = create(&scene, "/f").await;
        let namenode = scene.env.world().node(&namenode_name(0)).expect("it is");
        scene.kill(namenode).await;
        file.write_all(&all[..10_000]).await.expect("written");
        file.hflush().await.expect("flushed");
        scene.env.world().restart(namenode);
        file.write_all(&all[10_000..]).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
        let located = scene.dfs.locations("/f", 0, u64::MAX).await.expect("found");
        assert_eq!(located.blocks.len(), 1);
    });
}

/// A DataNode that died between the create and the first byte is left out, as one that died after an AddBlock.
#[test]
fn a_datanode_of_the_first_block_dies_before_the_first_byte() {
    for position in 0..3 {
        let cluster = Cluster::start(82 + position, 4);
        cluster.run(move |scene| async move {
            let all = content(BLOCK + 100, position);
            let mut file = create(&scene, "/f").await;
            let dead = scene.pipeline_node("/f", position as usize).await;
            scene.kill(dead).await;
            file.write_all(&all).await.expect("written");
            file.close().await.expect("closed");
            assert!(scene.read("/f").await == all);
        });
    }
}
