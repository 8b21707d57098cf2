//! The directory scanner's comparison (HDFS `DirectoryScanner`): missing, extra and short files.

use super::*;
use crate::testing::{Keep, block_on};
use crate::{DirectoryFindings, VerifyOutcome};
use std::path::{Path, PathBuf};

fn file(n: u64) -> PathBuf {
    format!("/d1/replicas/blk_{n}").into()
}

async fn compare(store: &Store) -> DirectoryFindings {
    store
        .compare_directories(StorageUuid(1), async |_| {})
        .await
        .expect("compares")
}

/// A store with three FINALIZED replicas, an open one and a deleted one: nothing to find.
async fn filled(options: StoreOptions) -> (TestDisk, Store) {
    let disk = &TestDisk::default();
    let (store, _) = open(disk, options).await;
    for n in 1..=4 {
        put(&store, n, 10, &content(n, 9_000), chunk(512)).await;
    }
    let deleted = store.delete(id(4), gs(10)).await.expect("deletes");
    let mut open = store
        .create_rbw(id(5), gs(10), chunk(512))
        .await
        .expect("creates");
    send(&mut open, &content(5, 9_000), 0, 9_000)
        .await
        .expect("sends");
    open.sync().await.expect("syncs");
    let found = compare(&store).await;
    let nothing = DirectoryFindings {
        compared: 3,
        ..DirectoryFindings::default()
    };
    assert_eq!(found, nothing);
    store.collect(deleted).await.expect("collects");
    let disk = disk.after_crash(Keep::All);
    let (store, _) = super::open(&disk, options).await;
    assert_eq!(compare(&store).await, nothing);
    (disk, store)
}

/// A file removed under the store leaves the map once, with its block named; the others stay.
#[test]
fn a_missing_file_leaves_the_map_and_is_named() {
    block_on(async {
        let (disk, store) = filled(files_only()).await;
        disk.remove(&file(2));
        let found = compare(&store).await;
        assert_eq!(found.missing, [block(2, 10, 9_000)]);
        assert_eq!(store.get(id(2)), None);
        let again = compare(&store).await;
        assert_eq!((again.compared, again.missing), (2, Vec::new()));
        assert_eq!(read_all(&store, 1).await, Ok(content(1, 9_000)));
        // The block may come here again.
        put(&store, 2, 11, &content(2, 9_000), chunk(512)).await;
        assert_eq!(compare(&store).await.compared, 3);
    });
}

/// A file cut under the store is to be verified, and does not verify; so does a replica whose extent was cut.
#[test]
fn a_short_file_or_extent_is_suspect_and_bad() {
    for options in [small(), files_only()] {
        block_on(async {
            let (disk, store) = filled(options).await;
            let path = store.locate(id(1)).expect("on disk").0;
            disk.edit(&path, |bytes| {
                bytes.truncate(if options.small_bytes == 0 {
                    5_000
                } else {
                    4_096
                })
            });
            let found = compare(&store).await;
            assert!(found.short.contains(&id(1)), "{found:?}");
            assert!(
                found.missing.is_empty() && found.lost_extents.is_empty(),
                "{found:?}"
            );
            let verified = store.verify(id(1)).await;
            assert!(
                matches!(verified, Ok(VerifyOutcome::Corrupt { .. })),
                "{verified:?}"
            );
        });
    }
}

/// A file of a block the map does not know is named and left alone; a lost extent is named.
#[test]
fn an_extra_file_and_a_lost_extent_are_named() {
    block_on(async {
        let (disk, store) = filled(files_only()).await;
        let copy = disk.edit(&file(1), |bytes| bytes.clone());
        disk.put(&file(77), copy);
        disk.put(Path::new("/d1/replicas/notes"), vec![1]);
        let found = compare(&store).await;
        assert_eq!(found.extra, [file(77)]);
        assert_eq!(found.compared, 3);
    });
    block_on(async {
        let (disk, store) = filled(small()).await;
        let path = store.locate(id(1)).expect("on disk").0;
        disk.remove(&path);
        let found = compare(&store).await;
        assert_eq!(
            (found.lost_extents, found.missing),
            (vec![path], Vec::new())
        );
    });
}

/// A FINALIZED replica whose file is gone counts as bad when it is read.
#[test]
fn a_missing_file_is_bad_when_it_is_verified() {
    block_on(async {
        let (disk, store) = filled(files_only()).await;
        disk.remove(&file(3));
        let verified = store.verify(id(3)).await.expect("the volume is sound");
        assert_eq!(verified, VerifyOutcome::Corrupt { chunk: 0 });
        assert!(store.is_usable(StorageUuid(1)) && !store.is_usable(StorageUuid(2)));
        let next = store.next_finalized(StorageUuid(1), None).expect("some");
        let key = hadal_types::mix(next.block.id);
        assert!((1..=3).all(|n| hadal_types::mix(id(n)) >= key));
    });
}
