//! Pipelines whose nodes stall and die at every moment, and writers that pause or leave in the middle.

use super::*;
use futures_util::future::{Either, select};
use std::pin::pin;

/// T-P19: a program that pauses for longer than every time-out finds its pipeline as it left it, also in the middle of a
/// chunk.
#[test]
fn t_p19_a_pause_keeps_the_pipeline() {
    let cluster = Cluster::start(20, 3);
    cluster.run(|scene| async move {
        let all = content(15_000, 20);
        let mut file = scene.create("/f", None).await;
        file.write_all(&all[..5_000]).await.expect("written");
        file.hflush().await.expect("flushed");
        let (before, nodes) = (scene.stamp("/f").await, file.pipeline_nodes());
        for part in all[5_000..].chunks(5_000) {
            scene.wait(600_000).await;
            file.write_all(part).await.expect("written");
            file.hflush().await.expect("flushed");
        }
        assert_eq!(scene.stamp("/f").await, before, "no recovery");
        assert_eq!(file.pipeline_nodes(), nodes);
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P3: of a pipeline in which one node stops, that one goes and the others stay.
#[test]
fn t_p3_the_node_that_stalls_is_left_out_not_its_neighbour() {
    for position in 0..3 {
        let cluster = Cluster::start(21 + position as u64, 3);
        let never = |options: &mut ClientOptions| {
            options.replacement.policy = ReplacePolicy::Never;
        };
        cluster.run_with(never, move |scene| async move {
            let all = content(20_000, 21);
            let mut file = scene.create("/f", None).await;
            file.write_all(&all[..7_000]).await.expect("written");
            file.hflush().await.expect("flushed");
            let mut nodes = file.pipeline_nodes();
            assert_eq!(nodes.len(), 3);
            let stalled = nodes.remove(position);
            let world = scene.env.world();
            world.pause(world.node(&stalled).expect("a DataNode"));
            file.write_all(&all[7_000..]).await.expect("written");
            file.hflush().await.expect("flushed");
            assert_eq!(file.pipeline_nodes(), nodes, "{stalled} stalls");
            file.close().await.expect("closed");
            assert!(scene.read("/f").await == all);
        });
    }
}

/// T-P4: acknowledgements that come late, but within the time-outs, break nothing.
#[test]
fn t_p4_late_acknowledgements_are_waited_for() {
    let cluster = Cluster::start(24, 3);
    cluster.run(|scene| async move {
        let all = content(10_000, 24);
        let mut file = scene.create("/f", None).await;
        file.write_all(&all[..5_000]).await.expect("written");
        file.hflush().await.expect("flushed");
        let before = scene.stamp("/f").await;
        for position in 0..3 {
            let late = scene.pipeline_node("/f", position).await;
            let world = scene.env.world();
            world.pause(late);
            world.at(Duration::from_millis(3_500), move |world| {
                world.resume(late);
            });
            file.write_all(&all[5_000 + position * 1_000..][..1_000])
                .await
                .expect("written");
            file.hflush().await.expect("flushed");
        }
        assert_eq!(scene.stamp("/f").await, before, "no recovery");
        file.write_all(&all[8_000..]).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P2: around the last packet of every block a node of its pipeline dies; it comes back later.
#[test]
fn t_p2_a_node_dies_at_the_end_of_every_block() {
    let cluster = Cluster::start(25, 5);
    cluster.run(|scene| async move {
        let blocks = 9;
        let all = content(blocks * BLOCK, 25);
        let mut file = scene.create("/f", None).await;
        for (round, block) in all.chunks(BLOCK as usize).enumerate() {
            let (most, last) = block.split_at(block.len() - 1);
            file.write_all(most).await.expect("written");
            file.hflush().await.expect("flushed");
            let victim = scene.pipeline_node("/f", round % 3).await;
            let world = scene.env.world();
            world.at(Duration::from_micros(150 * round as u64), move |world| {
                world.crash(victim, Crash::Process);
            });
            file.write_all(last).await.expect("the block ends");
            scene.wait(1_000).await;
            scene.env.world().restart(victim);
            scene.wait(3_000).await;
        }
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}

/// T-P11: a node dies at any moment of a close; the file is closed, whole, and known with as many bytes.
#[test]
fn t_p11_a_node_dies_at_any_moment_of_the_close() {
    let cluster = Cluster::start(26, 4);
    cluster.run(|scene| async move {
        for step in 0..24_u64 {
            let path = format!("/f{step}");
            let all = content(9_000 + step, step);
            let mut file = scene.create(&path, None).await;
            file.write_all(&all).await.expect("written");
            file.hflush().await.expect("flushed");
            let victim = scene.pipeline_node(&path, step as usize % 3).await;
            let world = scene.env.world();
            world.at(Duration::from_micros(50 * step), move |world| {
                world.crash(victim, Crash::Process);
            });
            let closed = file.close().await;
            closed.unwrap_or_else(|error| panic!("step {step}: {error}"));
            assert!(scene.read(&path).await == all, "step {step}");
            assert_eq!(scene.length(&path).await, all.len() as u64);
            scene.env.world().restart(victim);
            scene.wait(3_000).await;
        }
    });
}

/// T-P20: a caller drops writes, flushes and the close at any moment and goes on later; every byte that was taken is there
/// once, and a flush that ended holds.
#[test]
fn t_p20_what_is_dropped_in_the_middle_goes_on_later() {
    let cluster = Cluster::start(27, 3);
    cluster.run(|scene| async move {
        let all = content(3 * BLOCK, 27);
        let mut left = 0;
        for step in 0..30_u64 {
            let path = format!("/f{step}");
            let mut file = scene.create(&path, None).await;
            for round in 0..12_u64 {
                let at = file.position() as usize;
                let piece = &all[at..(at + 5_003).min(all.len())];
                let pause = Duration::from_micros(40 * step + 7 * round);
                let mut over = pin!(scene.env.world().sleep(pause));
                let work = async {
                    file.write_all(piece).await?;
                    match round % 3 {
                        0 => file.hflush().await,
                        1 => file.hsync().await,
                        _ => Ok(()),
                    }
                };
                match select(pin!(work), over.as_mut()).await {
                    Either::Left((done, _)) => done.expect("written"),
                    Either::Right(_) => left += 1,
                }
            }
            let written = file.position() as usize;
            file.hflush().await.expect("flushed");
            assert!(scene.read(&path).await == all[..written], "step {step}");
            {
                let pause = Duration::from_micros(60 * step);
                let mut over = pin!(scene.env.world().sleep(pause));
                if let Either::Left((done, _)) = select(pin!(file.close()), over.as_mut()).await {
                    done.expect("closed");
                    continue;
                }
            }
            file.close().await.expect("closed");
            assert!(scene.read(&path).await == all[..written], "step {step}");
        }
        assert!(left > 100, "only {left} calls were dropped");
    });
}

/// T-P21, T-L22, T-L14: a reader sees half a block while it is open; its writer leaves, and after the soft limit another
/// client takes the file over and appends the other half.
#[test]
fn t_p21_another_appends_after_the_soft_limit() {
    let cluster = Cluster::start(28, 3);
    let other = cluster.dfs(|_| {});
    cluster.run(|scene| async move {
        let all = content(BLOCK, 28);
        let (one, two) = all.split_at(all.len() / 2);
        let mut file = scene.create("/f", None).await;
        file.write_all(one).await.expect("written");
        file.hflush().await.expect("flushed");
        assert!(scene.read("/f").await == one);
        let options = AppendOptions::default();
        let refused = other
            .append("/f", &options)
            .await
            .err()
            .expect("it is open");
        assert_eq!(
            refused.class(),
            Some(FaultClass::AlreadyBeingCreated),
            "{refused}"
        );
        drop(file);
        scene.wait(61_000).await;
        let mut tries = 0;
        let mut file = loop {
            match other.append("/f", &options).await {
                Ok(file) => break file,
                Err(error) => assert!(tries < 60, "{error}"),
            }
            tries += 1;
            scene.wait(500).await;
        };
        assert_eq!(file.position(), one.len() as u64);
        file.write_all(two).await.expect("written");
        file.close().await.expect("closed");
        assert!(scene.read("/f").await == all);
    });
}
