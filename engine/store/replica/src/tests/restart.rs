//! Restarts: what is found, kept, removed, reported.

use super::*;
use crate::testing::{Keep, block_on};
use std::path::{Path, PathBuf};

fn file_of(disk: &TestDisk, prefix: &str) -> PathBuf {
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_str().unwrap().starts_with(prefix))
    };
    disk.files().into_iter().find(named).expect("file")
}

/// The disk after the process was killed with an RBW of `length` flushed bytes.
async fn killed(options: StoreOptions, data: &[u8], bytes_per_checksum: u32) -> TestDisk {
    let disk = TestDisk::default();
    let (store, _) = open(&disk, options).await;
    let mut writer = store
        .create_rbw(id(1), gs(10), chunk(bytes_per_checksum))
        .await
        .unwrap();
    send(&mut writer, data, 0, data.len()).await.unwrap();
    writer.flush().await.unwrap();
    disk.after_crash(Keep::All)
}

/// T-R3, E-09, first half: an RBW becomes an RWR of what was flushed, unreadable, outside pipelines (E-10).
#[test]
fn t_r3_rbw_becomes_rwr_of_its_length() {
    for options in [small(), files_only()] {
        for length in [0, 1, 515, 4096, 16_384, 20_000, 70_000] {
            block_on(async {
                let data = content(1, length);
                let disk = killed(options, &data, 512).await;
                let (store, report) = open(&disk, options).await;
                assert_eq!((report.waiting, report.finalized), (1, 0));
                let info = store.get(id(1)).unwrap();
                assert_eq!(
                    (info.state, info.block),
                    (ReplicaState::Rwr, block(1, 10, length as u64))
                );
                assert!(matches!(
                    store.visible_length(id(1), gs(10)),
                    Err(StoreError::NotReadable { .. })
                ));
                assert_eq!(read_recovered(&store, 1).await, Ok(data));
            });
        }
    }
}

/// Synced in a slot, grown into a file of its own, killed, started, then without power: the start threw the slot away
/// while the file was only in the page cache (found by the simulator: `cluster` seeds 47 and 51, two minutes).
#[test]
fn synced_bytes_survive_a_kill_and_then_a_power_failure() {
    for keep in [Keep::Mask(0), Keep::Torn(1), Keep::Torn(2), Keep::Torn(3)] {
        for grown in [20_000, 70_000, 140_000] {
            block_on(async {
                let disk = TestDisk::default();
                let (store, _) = open(&disk, small()).await;
                let data = content(1, grown);
                let mut writer = store.create_rbw(id(1), gs(10), chunk(512)).await.unwrap();
                send(&mut writer, &data, 0, 1531).await.unwrap();
                writer.sync().await.unwrap();
                send(&mut writer, &data, 1531, grown).await.unwrap();
                writer.flush().await.unwrap();
                let disk = disk.after_crash(Keep::Cached);
                drop(open(&disk, small()).await);
                let (store, report) = open(&disk.after_crash(keep), small()).await;
                assert!(report.corrupt.is_empty(), "{:?}", report.corrupt);
                let length = store.get(id(1)).expect("it is there").block.length;
                assert!(length >= 1531, "{length} of {grown} with {keep:?}");
            });
        }
    }
}

/// What a killed process left to the kernel only is flushed at the start: the next durable write elsewhere says of every
/// slot before it that it is durable, and a power failure must not make a lie of that.
#[test]
fn slots_left_to_the_kernel_are_durable_before_the_next_one_is_d12() {
    for keep in (0..24)
        .map(Keep::Torn)
        .chain([Keep::Mask(0), Keep::Mask(0b10)])
    {
        block_on(async {
            let disk = TestDisk::default();
            let (store, _) = open(&disk, small()).await;
            let (data, other) = (content(1, 3_000), content(2, 12_000));
            let mut writer = store.create_rbw(id(1), gs(10), chunk(512)).await.unwrap();
            send(&mut writer, &data, 0, 3_000).await.unwrap();
            writer.finish(false).await.unwrap();
            let disk = disk.after_crash(Keep::Cached);
            let (store, report) = open(&disk, small()).await;
            assert_eq!(report.finalized, 1);
            // Of another size, and so in another file, which alone is flushed for it.
            put(&store, 2, 10, &other, chunk(512)).await;
            assert_ne!(
                store.locate(id(1)).map(|(path, _)| path),
                store.locate(id(2)).map(|(path, _)| path)
            );
            let (store, report) = open(&disk.after_crash(keep), small()).await;
            assert_eq!((report.finalized, report.waiting), (2, 0), "{keep:?}");
            assert_eq!(read_all(&store, 1).await, Ok(data), "{keep:?}");
            assert_eq!(read_all(&store, 2).await, Ok(other), "{keep:?}");
        });
    }
}

/// T-R3, second half: 515 bytes whose last one is lost are 512 (the last chunk that verifies).
#[test]
fn t_r3_a_cut_rbw_is_its_last_verified_chunk() {
    block_on(async {
        let data = content(1, 515);
        for options in [small(), files_only()] {
            let disk = killed(options, &data, 512).await;
            let path = if options.small_bytes > 0 {
                file_of(&disk, "x")
            } else {
                file_of(&disk, "blk_1")
            };
            disk.edit(&path, |bytes| {
                let at = bytes
                    .windows(16)
                    .position(|w| w == &data[499..])
                    .expect("the tail is there")
                    + 15;
                bytes[at] ^= 0x40;
            });
            let (store, report) = open(&disk, options).await;
            assert_eq!((report.waiting, report.corrupt.len()), (1, 0));
            assert_eq!(store.get(id(1)).unwrap().block, block(1, 10, 512));
            assert_eq!(read_recovered(&store, 1).await.as_deref(), Ok(&data[..512]));
        }
    });
}

/// T-L20: with the last chunk's checksum gone, the recovered length is one chunk less.
#[test]
fn t_l20_without_its_last_checksum_a_chunk_does_not_count() {
    block_on(async {
        let data = content(1, 32_768);
        let disk = killed(files_only(), &data, 4096).await;
        let geometry = crate::Geometry::new(4096, small().group_bytes).unwrap();
        disk.edit(&file_of(&disk, "blk_1"), |bytes| {
            let entry = geometry.group_offset(1) as usize + 3 * 4;
            bytes[entry..entry + 4].fill(0);
        });
        let (store, _) = open(&disk, files_only()).await;
        assert_eq!(store.get(id(1)).unwrap().block.length, 32_768 - 4096);
        assert_eq!(
            read_recovered(&store, 1).await.as_deref(),
            Ok(&data[..32_768 - 4096])
        );
    });
}

/// T-R4, E-12: leftovers of copies and deletions go, the FINALIZED replicas stay as they are.
#[test]
fn t_r4_leftovers_are_removed_and_finalized_replicas_stay() {
    block_on(async {
        let disk = TestDisk::default();
        let (store, _) = open(&disk, small()).await;
        for n in 1..=4 {
            put(&store, n, 10, &content(n, n as usize * 9000), chunk(512)).await;
        }
        put(&store, 6, 10, &content(6, 40_000), chunk(512)).await;
        let mut copy = store
            .create_temporary(id(5), gs(10), chunk(512))
            .await
            .unwrap();
        send(&mut copy, &content(5, 40_000), 0, 40_000)
            .await
            .unwrap();
        copy.sync().await.unwrap();
        let _never_collected = store.delete(id(6), gs(10)).await.unwrap();
        let disk = disk.after_crash(Keep::All);
        let (store, report) = open(&disk, small()).await;
        assert_eq!(
            (report.finalized, report.waiting, report.removed),
            (4, 0, 2)
        );
        for n in 1..=4 {
            assert_eq!(read_all(&store, n).await, Ok(content(n, n as usize * 9000)));
        }
        let left = disk
            .files()
            .iter()
            .filter(|path| path.parent() == Some(Path::new("/d1/replicas")))
            .count();
        assert_eq!(left, 3, "files of 2, 3 and 4");
    });
}

/// hsync survives the loss of everything unsynced; so does a durable finish (P4).
#[test]
fn p4_synced_bytes_survive_the_loss_of_all_else() {
    for options in [small(), files_only()] {
        for (synced, more) in [
            (1, 600),
            (515, 516),
            (4096, 9000),
            (9000, 9001),
            (16_384, 16_385),
            (20_000, 60_000),
        ] {
            block_on(async {
                let disk = TestDisk::default();
                let (store, _) = open(&disk, options).await;
                let data = content(1, more);
                let mut writer = store.create_rbw(id(1), gs(10), chunk(512)).await.unwrap();
                send(&mut writer, &data, 0, synced).await.unwrap();
                assert_eq!(writer.sync().await.unwrap(), synced as u64);
                send(&mut writer, &data, synced, more).await.unwrap();
                writer.flush().await.unwrap();
                for keep in [Keep::Mask(0), Keep::All] {
                    let (store, report) = open(&disk.after_crash(keep), options).await;
                    assert_eq!(report.waiting, 1);
                    let least = if matches!(keep, Keep::All) {
                        more
                    } else {
                        synced
                    };
                    let got = read_recovered(&store, 1).await.unwrap();
                    assert!(
                        got.len() >= least && got == data[..got.len()],
                        "{} of {least}",
                        got.len()
                    );
                }
            });
        }
    }
}

/// An RBW whose bytes below the hsynced length rotted is corrupt, not short: it must not shorten the others in recovery.
#[test]
fn an_rbw_below_its_synced_length_is_corrupt() {
    block_on(async {
        let data = content(1, 30_000);
        let disk = TestDisk::default();
        let (store, _) = open(&disk, files_only()).await;
        let mut writer = store.create_rbw(id(1), gs(10), chunk(512)).await.unwrap();
        send(&mut writer, &data, 0, 20_000).await.unwrap();
        writer.sync().await.unwrap();
        send(&mut writer, &data, 20_000, 30_000).await.unwrap();
        writer.flush().await.unwrap();
        let disk = disk.after_crash(Keep::All);
        let geometry = crate::Geometry::new(512, small().group_bytes).unwrap();
        disk.edit(&file_of(&disk, "blk_1"), |bytes| {
            bytes[geometry.data_offset(5000) as usize] ^= 1
        });
        let (store, report) = open(&disk, files_only()).await;
        assert_eq!((report.waiting, report.corrupt.len()), (0, 1));
        assert_eq!(report.corrupt[0].id, id(1));
        assert_eq!(store.get(id(1)), None);
        assert!(
            disk.files()
                .contains(report.corrupt[0].kept.as_ref().unwrap())
        );
        assert!(
            store.create_rbw(id(1), gs(11), chunk(512)).await.is_ok(),
            "the block can come back"
        );
    });
}

/// P6: bytes from before a truncation never come back, however the append after it ended.
#[test]
fn p6_truncated_bytes_do_not_return() {
    for options in [small(), files_only()] {
        for (long, cut) in [
            (15_000, 1),
            (15_000, 8192),
            (15_000, 8192 + 700),
            (70_000, 33_000),
            (70_000, 32_768),
            (70_000, 4096),
        ] {
            block_on(async {
                let disk = TestDisk::default();
                let (store, _) = open(&disk, options).await;
                let old = content(1, long);
                put(&store, 1, 10, &old, chunk(512)).await;
                store
                    .init_recovery(id(1), gs(10), gs(11))
                    .await
                    .unwrap()
                    .unwrap();
                store
                    .update_recovered(id(1), gs(11), long as u64, cut as u64)
                    .await
                    .unwrap();
                let mut data = old[..cut].to_vec();
                data.extend(content(2, 3000));
                let mut writer = store
                    .append(block(1, 11, cut as u64), gs(12), 1 << 20)
                    .await
                    .unwrap();
                let check = async |disk: &TestDisk, least: usize| {
                    for keep in [
                        Keep::All,
                        Keep::Mask(0),
                        Keep::Torn(1),
                        Keep::Torn(2),
                        Keep::Torn(3),
                    ] {
                        let (store, report) = open(&disk.after_crash(keep), options).await;
                        let got = read_recovered(&store, 1).await;
                        let got = got
                            .unwrap_or_else(|e| panic!("{e}, cut at {cut}, {keep:?}: {report:?}"));
                        assert!(
                            got.len() >= least && data.starts_with(&got),
                            "{} of {least}, cut at {cut}",
                            got.len()
                        );
                    }
                };
                check(&disk, cut).await;
                send(&mut writer, &data, cut, cut + 1000).await.unwrap();
                writer.flush().await.unwrap();
                check(&disk, cut).await;
                send(&mut writer, &data, cut + 1000, data.len())
                    .await
                    .unwrap();
                writer.finish(true).await.unwrap();
                check(&disk, data.len()).await;
                assert_eq!(read_all(&store, 1).await, Ok(data));
            });
        }
    }
}

#[test]
fn a_directory_of_somebody_else_or_in_use_is_refused_by_name() {
    block_on(async {
        let disk = TestDisk::default();
        let (store, _) = open(&disk, small()).await;
        let again = ReplicaStore::open(disk.clone(), vec![volume(1)], identity(), small())
            .await
            .err();
        assert!(matches!(again, Some(StoreError::Disk(error)) if error.is_locked()));
        drop(store);
        let mut other = identity();
        other.namespace.cluster_id = ClusterId("CID-other".to_owned());
        let refused = ReplicaStore::open(disk.clone(), vec![volume(1)], other, small())
            .await
            .err();
        assert!(
            matches!(
                refused,
                Some(StoreError::WrongIdentity {
                    field: "cluster id",
                    ..
                })
            ),
            "{refused:?}"
        );
        let mut other = identity();
        other.datanode = DatanodeUuid(10);
        let refused = ReplicaStore::open(disk.clone(), vec![volume(1)], other, small())
            .await
            .err();
        assert!(matches!(
            refused,
            Some(StoreError::WrongIdentity {
                field: "datanode uuid",
                ..
            })
        ));
        let known = crate::read_identity(&disk, Path::new("/d1"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (known.datanode, known.storage),
            (DatanodeUuid(9), StorageUuid(1))
        );
        assert_eq!(
            crate::read_identity(&disk, Path::new("/d2")).await.unwrap(),
            None
        );
        assert!(
            ReplicaStore::open(disk.clone(), vec![volume(1)], identity(), small())
                .await
                .is_ok()
        );
    });
}

/// A failed write fails its volume, finally; the others keep serving.
#[test]
fn a_failed_volume_leaves_the_others_serving() {
    block_on(async {
        let disk = TestDisk::default();
        let specs = vec![volume(1), volume(2)];
        let (store, _) = ReplicaStore::open(disk.clone(), specs.clone(), identity(), small())
            .await
            .unwrap();
        for n in 0..6 {
            put(
                &store,
                n,
                1,
                &content(n, 3000 + 9000 * n as usize),
                chunk(512),
            )
            .await;
        }
        let lost: Vec<Block> = store.finalized(StorageUuid(1));
        assert_eq!(
            (lost.len(), store.finalized(StorageUuid(2)).len()),
            (3, 3),
            "by turns"
        );
        disk.break_path(Path::new("/d1"));
        let mut failures = 0;
        for n in 10..16 {
            let Ok(mut writer) = store.create_rbw(id(n), gs(1), chunk(512)).await else {
                continue;
            };
            let data = content(n, 5000);
            if send(&mut writer, &data, 0, 5000).await.is_err()
                || writer.finish(true).await.is_err()
            {
                failures += 1;
            }
        }
        assert_eq!(
            failures, 1,
            "after the first failure nothing goes to the failed volume"
        );
        let status = store.volumes();
        assert!(status[0].failed.is_some() && status[1].failed.is_none());
        assert_eq!((status[0].replicas, status[1].replicas), (0, 8));
        for block in lost {
            assert_eq!(store.get(block.id), None);
        }
        for replica in store.finalized(StorageUuid(2)) {
            assert!(read_all(&store, replica.id.0).await.is_ok());
        }
        drop(store);
        let (store, report) = ReplicaStore::open(disk, specs, identity(), small())
            .await
            .unwrap();
        assert_eq!((report.failed.len(), report.finalized), (1, 8));
        assert_eq!(store.volumes().len(), 1);
    });
}

/// The same block on two volumes: the newer one stays.
#[test]
fn a_block_on_two_volumes_is_kept_once() {
    block_on(async {
        let disk = TestDisk::default();
        for (number, stamp) in [(1, 5), (2, 6)] {
            let specs = vec![volume(number)];
            let (store, _) = ReplicaStore::open(disk.clone(), specs, identity(), small())
                .await
                .unwrap();
            put(&store, 1, stamp, &content(stamp, 5000), chunk(512)).await;
            put(
                &store,
                2,
                11 - stamp,
                &content(11 - stamp, 50_000),
                chunk(512),
            )
            .await;
        }
        let specs = vec![volume(1), volume(2)];
        for _ in 0..2 {
            let (store, _) = ReplicaStore::open(disk.clone(), specs.clone(), identity(), small())
                .await
                .unwrap();
            assert_eq!(store.get(id(1)).unwrap().block, block(1, 6, 5000));
            assert_eq!(store.get(id(2)).unwrap().block, block(2, 6, 50_000));
            assert_eq!(read_all(&store, 1).await, Ok(content(6, 5000)));
            assert_eq!(read_all(&store, 2).await, Ok(content(6, 50_000)));
        }
    });
}
