//! Sectors that cannot be read at a start: what is lost is the replica they belong to.

use super::*;
use crate::testing::{Keep, block_on};
use crate::unreadable::UNREADABLE_MAX;
use std::path::{Path, PathBuf};

fn file_of(n: u64) -> PathBuf {
    format!("/d1/replicas/blk_{n}").into()
}

/// A disk with `count` FINALIZED replicas, as found after the process ended.
async fn with_replicas(options: StoreOptions, count: u64, length: usize) -> TestDisk {
    let disk = TestDisk::default();
    let (store, _) = open(&disk, options).await;
    for n in 1..=count {
        put(&store, n, 10, &content(n, length), chunk(512)).await;
    }
    disk.after_crash(Keep::All)
}

/// X5, T-R3: an unreadable header, or tail, of one replica in a file of its own: that one is reported and kept aside, the
/// others serve, and so does the volume; the next start finds the same without it.
#[test]
fn x5_an_unreadable_sector_takes_one_file() {
    for bytes in [0..512, 4096..4608, 4 * 4096..4 * 4096 + 1] {
        block_on(async {
            let disk = with_replicas(files_only(), 4, 20_001).await;
            disk.break_sector(&file_of(2), bytes.clone());
            let (store, report) = open(&disk, files_only()).await;
            assert!(report.failed.is_empty(), "{:?}", report.failed);
            let found: Vec<_> = report.corrupt.iter().map(|corrupt| corrupt.id).collect();
            assert_eq!((found, report.finalized), (vec![id(2)], 3), "{bytes:?}");
            assert!(report.corrupt[0].kept.is_some());
            assert_eq!(store.get(id(2)), None);
            for n in [1, 3, 4] {
                assert_eq!(read_all(&store, n).await, Ok(content(n, 20_001)));
            }
            // A copy of it comes back here.
            put(&store, 2, 10, &content(2, 20_001), chunk(512)).await;
            drop(store);
            let (store, report) = open(&disk.after_crash(Keep::All), files_only()).await;
            assert_eq!((report.finalized, report.corrupt.len()), (4, 0));
            assert_eq!(read_all(&store, 2).await, Ok(content(2, 20_001)));
        });
    }
}

/// X5: the same in a shared extent: the other slots of the read that failed are found, and the one slot is not used.
#[test]
fn x5_an_unreadable_sector_takes_one_slot() {
    block_on(async {
        let disk = with_replicas(small(), 6, 3_000).await;
        let (path, data) = {
            let (store, _) = open(&disk, small()).await;
            store.locate(id(3)).expect("it has a slot")
        };
        disk.break_sector(&path, data - 1..data);
        let (store, report) = open(&disk, small()).await;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!((report.finalized, report.corrupt.len()), (5, 0));
        let slot = data - 4096;
        assert_eq!(report.unreadable_slots, [(path.clone(), slot)]);
        assert_eq!(store.get(id(3)), None);
        for n in 10..20 {
            put(&store, n, 10, &content(n, 3_000), chunk(512)).await;
            assert_ne!(store.locate(id(n)), Some((path.clone(), data)));
        }
        for n in [1, 2, 4, 5, 6, 12] {
            assert_eq!(read_all(&store, n).await, Ok(content(n, 3_000)));
        }
    });
}

/// X5: a slot whose data had to be read, as it was never known to be durable, and cannot be.
#[test]
fn x5_unreadable_data_of_an_open_slot_is_a_corrupt_replica() {
    block_on(async {
        let disk = TestDisk::default();
        let (store, _) = open(&disk, small()).await;
        put(&store, 1, 10, &content(1, 3_000), chunk(512)).await;
        let mut writer = store.create_rbw(id(2), gs(10), chunk(512)).await.unwrap();
        send(&mut writer, &content(2, 3_000), 0, 3_000)
            .await
            .unwrap();
        writer.sync().await.unwrap();
        let (path, data) = store.locate(id(2)).expect("it has a slot");
        let disk = disk.after_crash(Keep::All);
        disk.break_sector(&path, data..data + 512);
        let (store, report) = open(&disk, small()).await;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let found: Vec<_> = report.corrupt.iter().map(|corrupt| corrupt.id).collect();
        assert_eq!((found, report.waiting), (vec![id(2)], 0));
        assert_eq!(read_all(&store, 1).await, Ok(content(1, 3_000)));
    });
}

/// More than a few are a failing disk: the volume is given up, and no file of it renamed.
#[test]
fn x5_many_unreadable_sectors_take_the_volume() {
    block_on(async {
        let many = u64::from(UNREADABLE_MAX) + 1;
        let disk = with_replicas(files_only(), many + 3, 5_000).await;
        for n in 1..=many {
            disk.break_sector(&file_of(n), 0..1);
        }
        let specs = vec![volume(1), volume(2)];
        let opened = ReplicaStore::open(disk.clone(), specs, identity(), files_only()).await;
        let (store, report) = opened.expect("the other volume serves");
        let failed: Vec<_> = report.failed.iter().map(|(dir, _)| dir.as_path()).collect();
        assert_eq!(failed, [Path::new("/d1")]);
        assert_eq!(report.finalized, 0);
        assert!(store.volumes()[0].failed.is_some());
        for n in 1..=many {
            assert!(disk.files().contains(&file_of(n)), "{n} was renamed");
        }
    });
}
