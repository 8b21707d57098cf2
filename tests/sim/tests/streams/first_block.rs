//! Files whose first block comes with the answer to the create ([`CreateOptions::first_block`]).

use super::*;
use futures_util::future::{Either, select};
use std::pin::pin;

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

/// A flush before the first byte gives the block back: nobody could say how long a block is that no DataNode has.
#[test]
fn a_file_that_was_flushed_empty_can_be_read() {
    let cluster = Cluster::start(86, 3);
    cluster.run(|scene| async move {
        let all = content(10_000, 86);
        let mut file = create(&scene, "/f").await;
        file.hsync().await.expect("nothing to flush");
        assert!(scene.read("/f").await.is_empty());
        file.write_all(&all).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P20: a close that gives the block back is dropped at every moment; what is flushed afterwards is in the file.
#[test]
fn t_p20_after_a_dropped_close_what_is_flushed_can_be_read() {
    let cluster = Cluster::start(87, 3);
    cluster.run(|scene| async move {
        let mut flushed = 0;
        for step in 0..100_u64 {
            let all = content(10_000, step);
            let path = format!("/f{step}");
            let mut file = create(&scene, &path).await;
            {
                let over = pin!(scene.env.world().sleep(Duration::from_micros(40 * step)));
                if let Either::Left((done, _)) = select(pin!(file.close()), over).await {
                    done.expect("closed");
                    break;
                }
            }
            let written = async {
                file.write_all(&all).await?;
                file.hflush().await
            };
            // The close may have got as far as the file itself.
            if written.await.is_ok() {
                flushed += 1;
                assert!(scene.read(&path).await == all, "step {step}");
                file.close().await.expect("closed");
                assert!(scene.read(&path).await == all, "step {step}");
            }
        }
        assert!(
            flushed > 3,
            "only {flushed} closes were dropped early enough"
        );
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
