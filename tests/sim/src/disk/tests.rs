//! What the disk promises and what it may take.

use super::{DiskFault, Omissions};
use crate::world::on;
use crate::{Crash, NodeId, SimDisk, SimEnv, SimFile, World};
use hadal_env::{ALIGN, Disk, DiskError, Env, File, OpenOptions};
use hadal_types::Role;
use std::collections::BTreeSet;
use std::path::Path;

const FILE: &str = "/d/f";

fn world(seed: u64) -> (World, NodeId) {
    let world = World::new(seed);
    let addr = "10.0.0.1:8485".parse().expect("an address");
    let node = world.add_node("jn1", Role::Journalnode, addr, |_| Box::pin(async {}));
    world.block_on(node, {
        let env = world.env_of(node);
        async move {
            env.disk()
                .create_dir_all(Path::new("/d"))
                .await
                .expect("a directory")
        }
    });
    (world, node)
}

async fn write(disk: &SimDisk, file: &SimFile, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
    let mut buf = disk.buf(bytes.len()).await;
    buf.as_mut()[..bytes.len()].copy_from_slice(bytes);
    file.write_at(buf, 0..bytes.len(), offset).await.0
}

async fn create(env: &SimEnv, options: OpenOptions) -> SimFile {
    let file = env
        .disk()
        .open(Path::new(FILE), options)
        .await
        .expect("a file");
    env.disk()
        .sync_dir(Path::new("/d"))
        .await
        .expect("a durable name");
    file
}

async fn available(env: &SimEnv) -> u64 {
    let space = env.disk().space(Path::new("/d")).await;
    space.expect("known").available
}

fn after_power_failure(world: &World, node: NodeId) -> Option<Vec<u8>> {
    world.crash(node, Crash::Power);
    world.restart(node);
    world.disk_of(node).peek(Path::new(FILE))
}

#[test]
fn synced_bytes_survive_and_unsynced_ones_are_lost_kept_or_torn() {
    let mut seen = BTreeSet::new();
    for seed in 0..120 {
        let (world, node) = world(seed);
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            write(env.disk(), &file, &[1; 8192], 0)
                .await
                .expect("written");
            file.sync_data().await.expect("synced");
            write(env.disk(), &file, &[2; 8192], 8192)
                .await
                .expect("written");
        });
        let bytes = after_power_failure(&world, node).expect("the name is durable");
        assert_eq!(
            &bytes[..8192],
            &[1; 8192][..],
            "seed {seed}: synced bytes changed"
        );
        let sectors: Vec<u8> = bytes[8192..].chunks(512).map(|sector| sector[0]).collect();
        for sector in bytes[8192..].chunks(512) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "seed {seed}: a sector is not atomic"
            );
        }
        let written = sectors.iter().filter(|byte| **byte == 2).count();
        seen.insert(match written {
            0 if bytes.len() > 8192 => "length without bytes",
            0 => "lost",
            16 => "kept",
            8 if sectors[..8].iter().all(|byte| *byte == sectors[0]) => "torn at 4096",
            _ => "torn at 512",
        });
    }
    let all = [
        "kept",
        "length without bytes",
        "lost",
        "torn at 4096",
        "torn at 512",
    ];
    assert_eq!(seen, BTreeSet::from(all), "120 seeds show every outcome");
}

#[test]
fn writes_are_reordered_but_an_older_one_never_comes_back_over_a_newer() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let (world, node) = world(seed);
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            for (byte, offset) in [(1, 0), (2, 512), (3, 0)] {
                write(env.disk(), &file, &[byte; 512], offset)
                    .await
                    .expect("written");
            }
        });
        let mut bytes = after_power_failure(&world, node).expect("the name is durable");
        bytes.resize(1024, 0);
        outcomes.insert((bytes[0], bytes[512]));
    }
    assert!(
        outcomes.contains(&(0, 2)),
        "the later write without the earlier one: {outcomes:?}"
    );
    assert!(
        outcomes.contains(&(3, 0)),
        "the last one alone: {outcomes:?}"
    );
    assert!(
        outcomes.contains(&(1, 0)),
        "the first version alone: {outcomes:?}"
    );
    for seed in 0..100 {
        let (world, node) = world(seed);
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            write(env.disk(), &file, &[1; 512], 0)
                .await
                .expect("written");
            drop(file);
            let file = create(&env, OpenOptions::write().dsync()).await;
            write(env.disk(), &file, &[2; 512], 0)
                .await
                .expect("written");
        });
        assert_eq!(
            after_power_failure(&world, node).expect("named"),
            vec![2; 512],
            "seed {seed}"
        );
    }
}

#[test]
fn dsync_writes_are_durable_and_direct_ones_alone_are_not() {
    let mut direct_lost = false;
    for seed in 0..60 {
        for dsync in [false, true] {
            let (world, node) = world(seed);
            on(&world, node, move |env| async move {
                let options = OpenOptions::create().direct();
                let file = create(&env, if dsync { options.dsync() } else { options }).await;
                write(env.disk(), &file, &[7; ALIGN], 0)
                    .await
                    .expect("written");
            });
            let kept = after_power_failure(&world, node).expect("named") == vec![7; ALIGN];
            assert!(kept || !dsync, "seed {seed}: a dsync write is gone");
            direct_lost |= !kept;
        }
    }
    assert!(direct_lost, "O_DIRECT without a sync can be lost");
}

#[test]
fn names_are_durable_only_after_sync_dir() {
    let (mut lost, mut undone) = (0, 0);
    for seed in 0..60 {
        let (world, node) = world(seed);
        on(&world, node, |env| async move {
            let file = env
                .disk()
                .open(Path::new(FILE), OpenOptions::create())
                .await
                .expect("a file");
            write(env.disk(), &file, b"x", 0).await.expect("written");
            file.sync_data().await.expect("synced");
        });
        lost += u32::from(after_power_failure(&world, node).is_none());
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            file.truncate(0).await.expect("cut");
            write(env.disk(), &file, b"old", 0).await.expect("written");
            file.sync_data().await.expect("synced");
            let new = env
                .disk()
                .open(Path::new("/d/new"), OpenOptions::create_new())
                .await
                .expect("a file");
            write(env.disk(), &new, b"new", 0).await.expect("written");
            new.sync_data().await.expect("synced");
            env.disk()
                .rename(Path::new("/d/new"), Path::new(FILE))
                .await
                .expect("renamed");
        });
        let bytes = after_power_failure(&world, node).expect("old or new, never none");
        assert!(bytes == b"old" || bytes == b"new", "seed {seed}: {bytes:?}");
        undone += u32::from(bytes == b"old");
    }
    assert!(lost > 5 && lost < 55, "creations are lost and kept: {lost}");
    assert!(
        undone > 5 && undone < 55,
        "renames are undone and kept: {undone}"
    );
}

#[test]
fn a_killed_process_leaves_its_page_cache() {
    for seed in 0..20 {
        let (world, node) = world(seed);
        on(&world, node, |env| async move {
            let file = env
                .disk()
                .open(Path::new(FILE), OpenOptions::create())
                .await
                .expect("a file");
            write(env.disk(), &file, b"unsynced", 0)
                .await
                .expect("written");
        });
        world.crash(node, Crash::Process);
        world.restart(node);
        assert_eq!(
            world.disk_of(node).peek(Path::new(FILE)).expect("there"),
            b"unsynced"
        );
    }
}

/// X5's tool: the k-th operation fails, and a failed sync stays failed although the next succeeds.
#[test]
fn planned_faults_strike_the_named_operation_and_a_failed_sync_is_final() {
    let mut lost = false;
    for seed in 0..40 {
        let (world, node) = world(seed);
        let disk = world.disk_of(node);
        on(&world, node, move |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            disk.fail_op(disk.operations(), DiskFault::Full);
            let error = write(env.disk(), &file, &[1; 4096], 0)
                .await
                .expect_err("planned");
            assert!(error.is_full(), "{error}");
            file.truncate(0).await.expect("cut");
            write(env.disk(), &file, &[1; 4096], 0)
                .await
                .expect("written");
            disk.fail_op(disk.operations(), DiskFault::Eio);
            assert!(file.sync_data().await.is_err());
            file.sync_data().await.expect("the second sync lies");
        });
        assert_eq!(world.disk_of(node).disk_counters().errors, 1);
        lost |= after_power_failure(&world, node).expect("named") != vec![1; 4096];
    }
    assert!(lost, "bytes of a failed sync can be gone");
}

/// X6's tool: the node crashes at the k-th operation, before or after its effect.
#[test]
fn crashes_can_be_planned_before_and_after_an_operation() {
    for (fault, expected) in [
        (DiskFault::CrashBefore(Crash::Process), 0),
        (DiskFault::CrashAfter(Crash::Process), 4),
    ] {
        let (world, node) = world(1);
        let env = world.env_of(node);
        let disk = world.disk_of(node);
        world.spawn_on(node, "writer", async move {
            let file = create(&env, OpenOptions::create()).await;
            disk.fail_op(disk.operations(), fault);
            let _ = write(env.disk(), &file, b"four", 0).await;
            panic!("the node is gone before it hears of its write");
        });
        assert!(world.run_until(std::time::Duration::from_secs(9), || !world.is_up(node)));
        assert_eq!(
            world
                .disk_of(node)
                .peek(Path::new(FILE))
                .expect("named")
                .len(),
            expected
        );
    }
}

#[test]
fn space_runs_out_and_comes_back() {
    let (world, node) = world(3);
    let disk = world.disk_of(node);
    disk.set_capacity(10_000);
    on(&world, node, move |env| async move {
        let file = create(&env, OpenOptions::create()).await;
        write(env.disk(), &file, &[1; 8000], 0).await.expect("fits");
        assert!(
            write(env.disk(), &file, &[1; 8000], 8000)
                .await
                .expect_err("does not fit")
                .is_full()
        );
        assert!(
            file.allocate(0, 20_000)
                .await
                .expect_err("does not fit")
                .is_full()
        );
        write(env.disk(), &file, &[2; 8000], 0)
            .await
            .expect("overwriting needs no room");
        assert_eq!(available(&env).await, 2000);
        drop(file);
        env.disk()
            .remove_file(Path::new(FILE))
            .await
            .expect("removed");
        assert_eq!(available(&env).await, 10_000);
    });
}

#[test]
#[should_panic(expected = "must be multiples of 4096")]
fn unaligned_direct_io_is_a_bug() {
    let (world, node) = world(4);
    on(&world, node, |env| async move {
        let file = create(&env, OpenOptions::create().direct()).await;
        let _ = write(env.disk(), &file, &[1; 100], 0).await;
    });
}

#[test]
fn buffers_are_aligned_and_bounded() {
    let (world, node) = world(5);
    on(&world, node, |env| async move {
        let first = env.disk().buf(60 << 20).await;
        assert_eq!(first.as_ref().as_ptr().align_offset(ALIGN), 0);
        let other = env.clone();
        env.spawn("second", async move {
            let _second = other.disk().buf(60 << 20).await;
            other.world().count("second buffer", 1);
        });
        env.world().sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(
            env.world().counters().get("second buffer"),
            0,
            "waits at the bound"
        );
        drop(bytes::Bytes::from_owner(first).slice(5..10));
        env.world().sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(env.world().counters().get("second buffer"), 1);
    });
}

#[test]
fn locks_exclude_and_end_with_their_process() {
    let (world, node) = world(6);
    let path = Path::new("/d/lock");
    let env = world.env_of(node);
    world.spawn_on(node, "holder", async move {
        let _lock = env.disk().lock(path).await.expect("free");
        let again = env.disk().lock(path).await.err().expect("held");
        assert!(again.is_locked(), "{again}");
        std::future::pending::<()>().await;
    });
    world.run_for(std::time::Duration::from_secs(1));
    world.crash(node, Crash::Process);
    world.restart(node);
    on(&world, node, move |env| async move {
        drop(env.disk().lock(path).await.expect("free after the crash"));
        drop(env.disk().lock(path).await.expect("free after the drop"));
    });
}

#[test]
fn disks_rot_lie_are_wiped_and_put_back() {
    let (world, node) = world(7);
    let disk = world.disk_of(node);
    let image = on(&world, node, {
        let disk = disk.clone();
        move |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            write(env.disk(), &file, &[0; 4096], 0)
                .await
                .expect("written");
            file.sync_data().await.expect("synced");
            let image = disk.image();
            disk.fail_op(disk.operations(), DiskFault::LostWrite);
            write(env.disk(), &file, &[9; 4096], 0)
                .await
                .expect("confirmed");
            file.sync_data().await.expect("synced");
            image
        }
    });
    assert_eq!(
        after_power_failure(&world, node).expect("named"),
        vec![0; 4096],
        "the lost write never was"
    );
    assert!(disk.flip_bit(Path::new(FILE), 8 * 100 + 3));
    assert_eq!(disk.peek(Path::new(FILE)).expect("named")[100], 8);
    assert_eq!(disk.rot(), Some(FILE.into()));
    disk.wipe();
    assert!(disk.files().is_empty());
    disk.put_back(&image);
    assert_eq!(disk.peek(Path::new(FILE)).expect("back"), vec![0; 4096]);
    on(&world, node, |env| async move {
        let file = env
            .disk()
            .open(Path::new(FILE), OpenOptions::create().direct().dsync())
            .await
            .expect("a file");
        let disk = env.world().disk_of(env.node());
        disk.fail_op(disk.operations(), DiskFault::Misdirected);
        write(env.disk(), &file, &[5; ALIGN], 0)
            .await
            .expect("confirmed");
        assert_eq!(
            disk.peek(Path::new(FILE)).expect("named")[..ALIGN],
            [0; ALIGN],
            "it landed elsewhere"
        );
        assert!(file.length().await.expect("known") > ALIGN as u64);
    });
    assert_eq!(disk.disk_counters().lies, 2);
}

#[test]
fn omissions_make_syncs_lie() {
    let mut lost = false;
    for seed in 0..30 {
        let (world, node) = world(seed);
        world.disk_of(node).set_omissions(Omissions {
            file_sync: true,
            ..Omissions::default()
        });
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            write(env.disk(), &file, &[1; 512], 0)
                .await
                .expect("written");
            file.sync_data().await.expect("believed");
        });
        lost |= after_power_failure(&world, node).expect("named").is_empty();
    }
    assert!(lost);
}

#[test]
fn dropped_operations_still_take_effect() {
    let (world, node) = world(8);
    on(&world, node, |env| async move {
        let file = create(&env, OpenOptions::create()).await;
        let mut write = Box::pin(write(env.disk(), &file, b"late", 0));
        // The buffer is there at once; the second poll submits the write.
        for _ in 0..2 {
            assert!(futures_util::poll!(write.as_mut()).is_pending());
        }
        drop(write);
        assert_eq!(file.length().await.expect("known"), 0);
        env.world().sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(file.length().await.expect("known"), 4);
    });
}

/// X6's tool: every subset of unsynced changes can be had.
#[test]
fn the_subset_a_power_failure_keeps_can_be_chosen() {
    let mut seen = BTreeSet::new();
    for kept in 0..8 {
        let (world, node) = world(9);
        on(&world, node, |env| async move {
            let file = create(&env, OpenOptions::create()).await;
            for place in 0..3 {
                write(env.disk(), &file, &[1; 1], place)
                    .await
                    .expect("written");
            }
        });
        let disk = world.disk_of(node);
        assert_eq!(disk.unsynced_changes(), 3);
        disk.choose_loss(kept);
        let mut bytes = after_power_failure(&world, node).expect("named");
        bytes.resize(3, 0);
        assert_eq!(
            bytes,
            [kept & 1, kept >> 1 & 1, kept >> 2 & 1].map(|bit| bit as u8)
        );
        seen.insert(bytes);
    }
    assert_eq!(seen.len(), 8);
}

/// A write in the middle of which the node loses power is there, torn or not there, `O_DSYNC` or not.
#[test]
fn a_crash_during_a_write_tears_it() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let (world, node) = world(seed);
        let (env, disk) = (world.env_of(node), world.disk_of(node));
        world.spawn_on(node, "writer", async move {
            let file = create(&env, OpenOptions::create().direct().dsync()).await;
            write(env.disk(), &file, &[1; 2 * ALIGN], 0)
                .await
                .expect("written");
            disk.fail_op(disk.operations(), DiskFault::CrashDuring(Crash::Power));
            let _ = write(env.disk(), &file, &[2; 2 * ALIGN], 0).await;
        });
        assert!(world.run_until(std::time::Duration::from_secs(9), || !world.is_up(node)));
        let bytes = world.disk_of(node).peek(Path::new(FILE)).expect("named");
        seen.insert(match bytes.iter().filter(|byte| **byte == 2).count() {
            0 => "not there",
            count if count == 2 * ALIGN => "there",
            _ => "torn",
        });
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
