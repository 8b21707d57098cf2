//! What hsync promises when the ends of blocks are not durable (`client.sync_on_close` off, as in HDFS).

use super::*;

fn not_on_close(options: &mut ClientOptions) {
    options.sync_on_close = false;
}

/// All DataNodes lose their power, and every byte that is not on a device; they come back, and the file is closed for its
/// writer.
async fn after_a_blackout(scene: &Scene, path: &str) -> Vec<u8> {
    let world = scene.env.world();
    for node in scene.datanodes.iter() {
        world.disk_of(*node).choose_loss(0);
        world.crash(*node, Crash::Power);
    }
    for node in scene.datanodes.iter() {
        world.restart(*node);
    }
    scene.wait(15_000).await;
    let closed = scene.dfs.recover_lease_and_wait(path, 60_000).await;
    assert!(closed.expect("recovered"), "recovery ends");
    scene.read(path).await
}

/// F-08, P4: an hsync that falls on the end of a block covers that block.
#[test]
fn f08_an_hsync_at_the_end_of_a_block_is_on_the_device() {
    for blocks in [1, 2] {
        let cluster = Cluster::start(70 + blocks, 3);
        cluster.run_with(not_on_close, move |scene| async move {
            let all = content(blocks * BLOCK, 70);
            let made = scene.dfs.create("/f", &CreateOptions::default()).await;
            let mut file = made.expect("made");
            for block in all.chunks(BLOCK as usize) {
                file.write_all(block).await.expect("written");
                file.hsync().await.expect("synced");
            }
            drop(file);
            assert!(after_a_blackout(&scene, "/f").await == all);
        });
    }
}

/// F-08, P4: bytes that an hsync in a later block covers are on the device, though they came after the hsync before it.
#[test]
fn f08_the_end_of_a_block_between_two_hsyncs_is_on_the_device() {
    let cluster = Cluster::start(73, 3);
    cluster.run_with(not_on_close, |scene| async move {
        let all = content(2 * BLOCK + 5_000, 73);
        let made = scene.dfs.create("/f", &CreateOptions::default()).await;
        let mut file = made.expect("made");
        file.write_all(&all[..9_000]).await.expect("written");
        file.hsync().await.expect("synced");
        file.write_all(&all[9_000..]).await.expect("written");
        file.hsync().await.expect("synced");
        drop(file);
        assert!(after_a_blackout(&scene, "/f").await == all);
    });
}
