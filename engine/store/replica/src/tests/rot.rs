//! C1 and C2: no flipped bit, cut, or misplaced sector makes a reader see other bytes.

use super::*;
use crate::VerifyOutcome;
use crate::testing::{Keep, block_on};
use std::path::PathBuf;

fn file_with(disk: &TestDisk, n: u64, options: StoreOptions) -> PathBuf {
    if options.small_bytes == 0 {
        return format!("/d1/replicas/blk_{n}").into();
    }
    disk.files()
        .into_iter()
        .find(|path| path.starts_with("/d1/extents"))
        .expect("an extent")
}

/// A disk with one FINALIZED replica of these bytes.
async fn with_replica(options: StoreOptions, data: &[u8], bytes_per_checksum: u32) -> TestDisk {
    let disk = TestDisk::default();
    let (store, _) = open(&disk, options).await;
    put(&store, 1, 10, data, chunk(bytes_per_checksum)).await;
    disk.after_crash(Keep::All)
}

/// C1: every bit of a 64 KiB replica and its header, in a slot and in a file, as it rots under an open store: the read
/// fails or gives the right bytes, and the scanner sees what the reader sees.
#[test]
fn c1_every_flipped_bit_of_a_64_kib_replica_is_noticed_when_read() {
    for small_bytes in [1 << 20, 0] {
        let options = StoreOptions {
            small_bytes,
            extent_bytes: 70 << 10,
            allocate_step: 4096,
            ..StoreOptions::default()
        };
        block_on(async {
            let data = content(1, 65_536 - 100);
            let disk = with_replica(options, &data, 4096).await;
            let (store, _) = open(&disk, options).await;
            let path = file_with(&disk, 1, options);
            let length = disk.edit(&path, |bytes| bytes.len());
            let (mut noticed, mut unchanged) = (0, 0);
            for byte in 0..length {
                for bit in 0..8 {
                    // Every bit where bits differ in meaning, one of eight inside the data.
                    if bit != byte % 8 && byte % 4096 >= 512 {
                        continue;
                    }
                    disk.flip(&path, byte, 1 << bit);
                    match read_all(&store, 1).await {
                        Ok(got) => {
                            assert!(got == data, "bit {bit} of byte {byte}: wrong bytes");
                            unchanged += 1;
                        }
                        Err(_) => noticed += 1,
                    }
                    disk.flip(&path, byte, 1 << bit);
                }
            }
            assert!(
                noticed > 65_000 && unchanged > 0,
                "{noticed} noticed, {unchanged} without effect"
            );
            assert_eq!(read_all(&store, 1).await, Ok(data));
        });
    }
}

/// C1 over a restart: flips are noticed at start or when read; a replica is never shorter and FINALIZED.
#[test]
fn c1_every_flipped_bit_is_noticed_over_a_restart() {
    for options in [small(), files_only()] {
        block_on(async {
            let data = content(1, 9000);
            let disk = with_replica(options, &data, 512).await;
            let path = file_with(&disk, 1, options);
            let length = disk.edit(&path, |bytes| bytes.len());
            for byte in 0..length {
                let bits = if byte % 4096 < 512 {
                    0..8
                } else {
                    byte % 8..byte % 8 + 1
                };
                for bit in bits {
                    disk.edit(&path, |bytes| bytes[byte] ^= 1 << bit);
                    let (store, _) = open(&disk.after_crash(Keep::All), options).await;
                    if state(&store, 1) == Some(ReplicaState::Finalized) {
                        assert_eq!(store.get(id(1)).unwrap().block, block(1, 10, 9000));
                        let got = read_all(&store, 1).await;
                        assert!(got.is_err() || got.as_ref() == Ok(&data), "byte {byte}");
                        let verified = store.verify(id(1)).await.unwrap();
                        assert_eq!(
                            got.is_ok(),
                            verified == VerifyOutcome::Ok { bytes: 9000 },
                            "byte {byte}"
                        );
                    }
                    disk.edit(&path, |bytes| bytes[byte] ^= 1 << bit);
                }
            }
        });
    }
}

/// C2: a file cut anywhere is corrupt at the start or when read, never shorter.
#[test]
fn c2_a_cut_file_is_never_a_shorter_replica() {
    block_on(async {
        let data = content(1, 40_000);
        let disk = with_replica(files_only(), &data, 512).await;
        let path = file_with(&disk, 1, files_only());
        let length = disk.edit(&path, |bytes| bytes.len());
        for cut in (0..length).step_by(97).chain(length - 3..length) {
            let copy = disk.after_crash(Keep::All);
            copy.edit(&path, |bytes| bytes.truncate(cut));
            let (store, report) = open(&copy, files_only()).await;
            assert_eq!(store.get(id(1)), None, "cut at {cut}");
            let empty = cut == 0;
            assert_eq!(
                (report.corrupt.len(), report.removed),
                (usize::from(!empty), usize::from(empty)),
                "cut at {cut}"
            );
        }
    });
}

/// C2: a sector of zeros, of older content (a lost write), of another replica (a misdirected one), anywhere.
#[test]
fn c2_lost_and_misdirected_sectors_are_noticed() {
    for options in [small(), files_only()] {
        block_on(async {
            let data = content(1, 15_000);
            let (first, other) = (
                with_replica(options, &data, 512).await,
                with_replica(options, &content(2, 15_000), 512).await,
            );
            let path = file_with(&first, 1, options);
            let foreign = other.edit(&path, |bytes| bytes.clone());
            let length = first.edit(&path, |bytes| bytes.len());
            for sector in 0..length / 512 {
                for kind in 0..3 {
                    let disk = first.after_crash(Keep::All);
                    disk.edit(&path, |bytes| {
                        let from = match kind {
                            0 => vec![0; 512],
                            1 => foreign[sector * 512..][..512].to_vec(),
                            _ => bytes[(sector + 8) % (length / 512) * 512..][..512].to_vec(),
                        };
                        bytes[sector * 512..][..512].copy_from_slice(&from);
                    });
                    let (store, _) = open(&disk, options).await;
                    let open = state(&store, 1) == Some(ReplicaState::Rwr);
                    if let Ok(got) = read_recovered(&store, 1).await {
                        let right = if open {
                            data.starts_with(&got)
                        } else {
                            got == data
                        };
                        assert!(right, "sector {sector}, kind {kind}");
                    }
                }
            }
        });
    }
}

/// A whole group that a misdirected write put into another block, data and checksums alike, does not verify.
#[test]
fn a_misdirected_group_does_not_verify() {
    block_on(async {
        let disk = TestDisk::default();
        let (store, _) = open(&disk, files_only()).await;
        for n in [1, 2] {
            put(&store, n, 10, &content(n, 40_000), chunk(512)).await;
        }
        drop(store);
        let disk = disk.after_crash(Keep::All);
        let geometry = crate::Geometry::new(512, small().group_bytes).unwrap();
        let range = geometry.group_offset(0) as usize..geometry.group_offset(1) as usize;
        let group = disk.edit(&file_with(&disk, 2, files_only()), |bytes| {
            bytes[range.clone()].to_vec()
        });
        disk.edit(&file_with(&disk, 1, files_only()), |bytes| {
            bytes[range].copy_from_slice(&group)
        });
        let (store, report) = open(&disk, files_only()).await;
        assert_eq!(report.finalized, 2);
        assert!(read_all(&store, 1).await.is_err());
        assert_eq!(
            store.verify(id(1)).await.unwrap(),
            VerifyOutcome::Corrupt { chunk: 0 }
        );
        assert_eq!(
            store.verify(id(2)).await.unwrap(),
            VerifyOutcome::Ok { bytes: 40_000 }
        );
    });
}

/// T-L21: a rotten replica takes no part in block recovery, whatever its state, or it would outweigh a good one in a
/// lesser state (found by the simulator: `cluster` seeds 4, 36, 56 and 58, two minutes).
#[test]
fn t_l21_a_rotten_replica_takes_no_part_in_recovery() {
    for options in [small(), files_only()] {
        block_on(async {
            let disk = TestDisk::default();
            let (store, _) = open(&disk, options).await;
            let mut writer = store.create_rbw(id(1), gs(10), chunk(512)).await.unwrap();
            send(&mut writer, &content(1, 9000), 0, 9000).await.unwrap();
            writer.sync().await.unwrap();
            writer.park().await.unwrap();
            let path = file_with(&disk, 1, options);
            let needle = content(1, 9000)[4096..4128].to_vec();
            let at = disk.edit(&path, |bytes| {
                bytes.windows(32).position(|part| part == needle).unwrap()
            });
            disk.flip(&path, at, 1);
            let rotten = store.init_recovery(id(1), gs(10), gs(11)).await;
            assert!(
                matches!(rotten, Err(StoreError::Corrupt { .. })),
                "{rotten:?}"
            );
            disk.flip(&path, at, 1);
            let found = store.init_recovery(id(1), gs(10), gs(12)).await.unwrap();
            assert_eq!(found.unwrap().block, block(1, 10, 9000));
        });
    }
}
