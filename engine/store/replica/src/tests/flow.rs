//! Writing and reading without trouble.

use super::*;
use crate::VerifyOutcome;
use crate::testing::{Fault, Keep, block_on, poll_and_drop};
use futures_util::future::join_all;
use hadal_env::{Disk, File, OpenOptions};

/// E-08: what was written is read, whatever its length, chunk size and home; also after a restart.
#[test]
fn round_trips() {
    for options in [small(), files_only()] {
        for bytes_per_checksum in [512, 4096, 400] {
            let disk = TestDisk::default();
            block_on(async {
                let (store, _) = open(&disk, options).await;
                let lengths = [
                    0, 1, 511, 512, 4095, 4096, 4097, 12288, 16383, 16384, 16385, 40_000, 102_400,
                    102_401, 250_000,
                ];
                for (n, length) in lengths.into_iter().enumerate() {
                    let n = n as u64;
                    let data = content(n, length);
                    let done = put(&store, n, 1001, &data, chunk(bytes_per_checksum)).await;
                    assert_eq!(done, block(n, 1001, length as u64));
                    assert_eq!(
                        read_all(&store, n).await.as_ref(),
                        Ok(&data),
                        "{length} by {bytes_per_checksum}"
                    );
                    assert_eq!(
                        store.verify(id(n)).await.unwrap(),
                        VerifyOutcome::Ok {
                            bytes: length as u64
                        }
                    );
                }
                drop(store);
                let (store, report) = open(&disk, options).await;
                assert_eq!(
                    (report.finalized, report.waiting, report.corrupt.len()),
                    (lengths.len(), 0, 0)
                );
                assert_eq!(store.finalized(StorageUuid(1)).len(), lengths.len());
                for (n, length) in lengths.into_iter().enumerate() {
                    assert_eq!(
                        read_all(&store, n as u64).await,
                        Ok(content(n as u64, length))
                    );
                }
            });
        }
    }
}

#[test]
fn reads_any_range_widened_to_chunks() {
    block_on(async {
        for (options, length) in [(small(), 16_000), (files_only(), 70_001)] {
            let (store, _) = open(&TestDisk::default(), options).await;
            let data = content(3, length);
            put(&store, 3, 1, &data, chunk(512)).await;
            let mut rng = Rng(5);
            for _ in 0..200 {
                let offset = rng.below(length as u64);
                let count = rng.below(length as u64 - offset + 1);
                let got = read(&store, 3, offset, count).await;
                assert_eq!(
                    got.as_deref(),
                    Ok(&data[offset as usize..(offset + count) as usize]),
                    "{offset}+{count}"
                );
            }
            let end = length as u64;
            assert!(matches!(
                store.open_reader(id(3), gs(1), end, 1).await.err(),
                Some(StoreError::OutOfRange { visible, .. }) if visible == end
            ));
            let stale = store.open_reader(id(3), gs(2), 0, 1).await.err();
            assert!(
                matches!(stale, Some(StoreError::StaleStamp { .. })),
                "E-17: {stale:?}"
            );
        }
    });
}

/// Q44, Q45: a small replica costs no file and no directory flush, and concurrent ones share device flushes.
#[test]
fn q44_small_replicas_share_a_file_and_its_flushes() {
    let options = StoreOptions {
        extent_bytes: 8 << 20,
        ..StoreOptions::default()
    };
    block_on(async {
        let (store, _) = open(&TestDisk::default(), options).await;
        put(&store, 0, 1, &content(0, 65536), CreateSpec::default()).await;
        let before = store.counters();
        let all = join_all((1..=64).map(|n| {
            let store = store.clone();
            async move {
                let data = content(n, 65536);
                let spec = CreateSpec {
                    expected_length: 65536,
                    ..CreateSpec::default()
                };
                put(&store, n, 1, &data, spec).await
            }
        }))
        .await;
        assert_eq!(all.len(), 64);
        let after = store.counters();
        assert_eq!(after.files_created, before.files_created);
        assert_eq!(after.dir_syncs, before.dir_syncs);
        assert!(
            after.syncs - before.syncs <= 32,
            "{} flushes for 64 replicas",
            after.syncs - before.syncs
        );
        assert_eq!(after.slots_finalized - before.slots_finalized, 64);
        assert_eq!(after.bytes_copied, after.bytes_stored);
        for n in 1..=64 {
            assert_eq!(read_all(&store, n).await, Ok(content(n, 65536)));
        }
    });
}

/// One copy per stored byte (architecture.md section 4), and two device flushes' worth of durability for a file: its
/// data and its name.
#[test]
fn a_large_replica_is_copied_once_and_flushed_once() {
    block_on(async {
        let (store, _) = open(&TestDisk::default(), StoreOptions::default()).await;
        let before = store.counters();
        let data = content(1, (5 << 20) + 12_345);
        let spec = CreateSpec {
            expected_length: 128 << 20,
            ..CreateSpec::default()
        };
        put(&store, 1, 1, &data, spec).await;
        let after = store.counters();
        assert_eq!(after.bytes_stored, data.len() as u64);
        assert_eq!(after.bytes_copied, after.bytes_stored);
        assert_eq!(
            (
                after.syncs - before.syncs,
                after.dir_syncs - before.dir_syncs
            ),
            (1, 1)
        );
        assert_eq!(read_all(&store, 1).await, Ok(data));
    });
}

#[test]
fn a_wrong_chunk_is_refused_and_named() {
    block_on(async {
        let (store, _) = open(&TestDisk::default(), small()).await;
        let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
        let data = content(1, 2000);
        let mut crcs = checksums(&data, 0, 512);
        crcs[2 * 4] ^= 1;
        let error = writer.write(0, &slices(&data), &crcs).await.unwrap_err();
        assert!(
            matches!(error, StoreError::ChecksumMismatch { chunk: 2, .. }),
            "{error}"
        );
        assert_eq!(writer.info().block.length, 1024);
        assert!(matches!(
            writer.write(1500, &[], &[]).await,
            Err(StoreError::Gap { .. })
        ));
        let short = writer.write(1024, &slices(&data[1024..]), &[0; 4]).await;
        assert!(matches!(
            short,
            Err(StoreError::ChecksumCount {
                given: 4,
                needed: 8,
                ..
            })
        ));
        send(&mut writer, &data, 0, 2000).await.unwrap();
        writer.finish(true).await.unwrap();
        assert_eq!(read_all(&store, 1).await, Ok(data));
    });
}

/// A partial chunk is sent again after a flush, or continued from inside (append); whole packets are sent again after
/// a pipeline recovery. A resend with other bytes is noticed.
#[test]
fn resent_bytes_are_checked_and_skipped() {
    for options in [small(), files_only()] {
        block_on(async {
            let (store, _) = open(&TestDisk::default(), options).await;
            let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
            let data = content(1, 30_000);
            send(&mut writer, &data, 0, 700).await.unwrap();
            assert_eq!(writer.flush().await.unwrap(), 700);
            writer
                .write(
                    700,
                    &slices(&data[700..900]),
                    &checksums(&data[700..900], 700, 512),
                )
                .await
                .unwrap();
            send(&mut writer, &data, 0, 5000).await.unwrap();
            let mut other = data[4608..6000].to_vec();
            other[3] ^= 1;
            let error = writer
                .write(4608, &slices(&other), &checksums(&other, 0, 512))
                .await
                .unwrap_err();
            assert!(
                matches!(error, StoreError::ChecksumMismatch { chunk: 9, .. }),
                "{error}"
            );
            send(&mut writer, &data, 5000, 30_000).await.unwrap();
            writer.finish(true).await.unwrap();
            assert_eq!(read_all(&store, 1).await, Ok(data));
        });
    }
}

/// E-09, F-08, T-P9: a reader of an open replica sees what is on disk and acknowledged downstream, cut inside a chunk if
/// need be; a copy made from that alone is the exact file.
#[test]
fn t_p9_a_replica_is_readable_and_copied_up_to_what_was_acknowledged() {
    for options in [small(), files_only()] {
        block_on(async {
            let (store, _) = open(&TestDisk::default(), options).await;
            let data = content(1, 60_000);
            let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
            let mut sent = 0;
            for (to, acked) in [
                (700, 650),
                (5000, 4800),
                (9000, 9000),
                (20_000, 16_400),
                (45_000, 33_333),
            ] {
                for part in data[sent..to].chunks(512 * 3) {
                    let crcs = checksums(part, sent as u64, 512);
                    writer
                        .write(sent as u64, &slices(part), &crcs)
                        .await
                        .unwrap();
                    sent += part.len();
                }
                writer.flush().await.unwrap();
                writer.set_visible_length(acked);
                assert_eq!(store.visible_length(id(1), gs(1)).unwrap(), acked);
                assert!(matches!(
                    store.visible_length(id(1), gs(2)),
                    Err(StoreError::StaleStamp { .. })
                ));
                assert_eq!(
                    read_all(&store, 1).await.as_deref(),
                    Ok(&data[..acked as usize])
                );
            }
            assert_eq!(writer.info().bytes_on_disk, 45_000);
            let mut reader = store.open_reader(id(1), gs(1), 0, 33_333).await.unwrap();
            let mut copy = store
                .create_temporary(id(2), gs(1), chunk(512))
                .await
                .unwrap();
            while let Some(part) = reader.next().await.unwrap() {
                copy.write(part.offset, &[part.data], &part.checksums)
                    .await
                    .unwrap();
            }
            assert!(matches!(
                store.visible_length(id(2), gs(1)),
                Err(StoreError::NotReadable { .. })
            ));
            let mut copy2 = store.convert_temporary(id(2), gs(1), 33_333).await.unwrap();
            assert!(matches!(copy.flush().await, Err(StoreError::Fenced { .. })));
            send(&mut copy2, &data, 33_333, 60_000).await.unwrap();
            copy2.finish(true).await.unwrap();
            assert_eq!(read_all(&store, 2).await, Ok(data));
        });
    }
}

#[test]
fn space_is_reserved_used_and_given_back() {
    block_on(async {
        let disk = TestDisk::default();
        disk.set_room(400 << 10);
        let (store, _) = open(&disk, small()).await;
        let start = store.volumes()[0].clone();
        let spec = CreateSpec {
            expected_length: 200 << 10,
            ..CreateSpec::default()
        };
        let mut writer = store.create_rbw(id(1), gs(1), spec).await.unwrap();
        assert_eq!(store.volumes()[0].reserved, 200 << 10);
        assert_eq!(store.volumes()[0].remaining, start.remaining - (200 << 10));
        let refused = store
            .create_rbw(
                id(2),
                gs(1),
                CreateSpec {
                    expected_length: 300 << 10,
                    ..spec
                },
            )
            .await;
        assert!(matches!(refused.err(), Some(StoreError::OutOfSpace { .. })));
        send(&mut writer, &content(1, 100 << 10), 0, 100 << 10)
            .await
            .unwrap();
        writer.finish(true).await.unwrap();
        store.refresh_space().await;
        let now = store.volumes()[0].clone();
        assert_eq!((now.reserved, now.replicas), (0, 1));
        assert!(now.used >= 100 << 10 && now.used <= 160 << 10, "{now:?}");
        assert_eq!(now.remaining, start.remaining - now.used);
        let deleted = store.delete(id(1), gs(1)).await.unwrap();
        assert_eq!(store.volumes()[0].used, 0);
        store.collect(deleted).await.unwrap();
        store.refresh_space().await;
        assert_eq!(store.volumes()[0].remaining, start.remaining);
        put(&store, 3, 1, &content(3, 3000), CreateSpec::default()).await;
        let slots = store.volumes()[0].used;
        assert_eq!(slots, 8192);
        let deleted = store.delete(id(3), gs(1)).await.unwrap();
        assert_eq!(deleted.bytes, slots);
        store.collect(deleted).await.unwrap();
        assert_eq!(store.volumes()[0].used, 0);
    });
}

/// A full disk is an error of the write, not of the volume; what was there stays readable.
#[test]
fn a_full_disk_is_out_of_space_and_nothing_else() {
    block_on(async {
        let disk = TestDisk::default();
        disk.set_room(150 << 10);
        let (store, _) = open(&disk, small()).await;
        put(&store, 1, 1, &content(1, 3000), CreateSpec::default()).await;
        let mut writer = store
            .create_rbw(id(2), gs(1), CreateSpec::default())
            .await
            .unwrap();
        let error = send(&mut writer, &content(2, 300 << 10), 0, 300 << 10)
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::OutOfSpace { .. }), "{error}");
        assert_eq!(store.volumes()[0].failed, None);
        let info = store
            .init_recovery(id(2), gs(1), gs(2))
            .await
            .unwrap()
            .unwrap();
        assert!(info.block.length > 16_384);
        store
            .update_recovered(id(2), gs(2), info.block.length, 16_385)
            .await
            .unwrap();
        assert_eq!(read_all(&store, 2).await, Ok(content(2, 16_385)));
        let deleted = store.delete(id(2), gs(2)).await.unwrap();
        store.collect(deleted).await.unwrap();
        assert_eq!(read_all(&store, 1).await, Ok(content(1, 3000)));
        store.refresh_space().await;
        put(&store, 3, 1, &content(3, 40_000), CreateSpec::default()).await;
    });
}

/// A flush that finds no space is as final as any other that fails (protocols.md section 6): it is not tried again.
#[test]
fn a_flush_without_space_fails_the_volume() {
    for options in [small(), files_only()] {
        let mut failed = 0;
        for after in 0..40 {
            block_on(async {
                let disk = TestDisk::default();
                let (store, _) = open(&disk, options).await;
                disk.inject(after, Fault::FullFlush);
                let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.ok()?;
                let sent = send(&mut writer, &content(1, 3000), 0, 3000).await;
                let synced = sent.is_ok() && writer.sync().await.is_ok();
                let again = writer.sync().await.is_ok();
                assert!(
                    synced || !again,
                    "operation {after}: a failed flush is final"
                );
                let volume = store.volumes().remove(0);
                assert_eq!(
                    volume.failed.is_none(),
                    synced && again,
                    "operation {after}"
                );
                failed += u32::from(!synced);
                Some(())
            });
        }
        assert!(failed > 0, "a flush failed");
    }
}

/// E-09, T-P9: bytes acknowledged without a flush are on disk, and readable, once the replica is flushed for a copy of it.
#[test]
fn t_p9_acknowledged_bytes_are_flushed_for_a_copy() {
    for options in [small(), files_only()] {
        block_on(async {
            let (store, _) = open(&TestDisk::default(), options).await;
            let data = content(1, 5000);
            let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
            send(&mut writer, &data, 0, 5000).await.unwrap();
            assert!(store.visible_length(id(1), gs(1)).unwrap() < 5000);
            store.flush_open(id(1)).await.unwrap();
            assert_eq!(store.visible_length(id(1), gs(1)).unwrap(), 5000);
            writer.finish(true).await.unwrap();
            store.flush_open(id(1)).await.unwrap();
            assert_eq!(read_all(&store, 1).await, Ok(data));
        });
    }
}

/// A reader overtaken by a truncation ends with an error: there is no such byte any more.
#[test]
fn a_reader_overtaken_by_a_truncation_ends() {
    for left in [1, 512, 20_000, 32_768, 33_000, 49_151] {
        block_on(async {
            let (store, _) = open(&TestDisk::default(), files_only()).await;
            put(&store, 1, 1, &content(1, 49_152 + 700), chunk(512)).await;
            let length = 49_152 + 700;
            let mut reader = store.open_reader(id(1), gs(1), 0, length).await.unwrap();
            reader.next().await.unwrap().unwrap();
            let found = store.init_recovery(id(1), gs(1), gs(2)).await.unwrap();
            let old = found.unwrap().block.length;
            let cut = store.update_recovered(id(1), gs(2), old, left).await;
            cut.unwrap();
            let mut seen = 0;
            let error = loop {
                match reader.next().await {
                    Ok(Some(part)) => assert!(!part.data.is_empty()),
                    Ok(None) => panic!("{left}: bytes that are gone were read"),
                    Err(error) => break error,
                }
                seen += 1;
                assert!(seen < 10, "{left}: it never ends");
            };
            assert!(
                matches!(error, StoreError::OutOfRange { .. }),
                "{left}: {error}"
            );
        });
    }
}

/// A reader whose slot was freed before it was read ends with an error that blames no disk: the replica is gone.
#[test]
fn a_reader_overtaken_by_a_deletion_is_not_told_of_corruption() {
    block_on(async {
        let (store, _) = open(&TestDisk::default(), small()).await;
        put(&store, 1, 1, &content(1, 900), chunk(512)).await;
        let mut reader = store.open_reader(id(1), gs(1), 0, 900).await.unwrap();
        let deleted = store.delete(id(1), gs(1)).await.unwrap();
        store.collect(deleted).await.unwrap();
        let error = reader.next().await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::OutOfRange { .. }), "{error}");
    });
}

/// A writer that could not be finished or parked gives its buffers back.
#[test]
fn a_writer_that_ends_in_an_error_keeps_no_buffer() {
    block_on(async {
        let disk = TestDisk::default();
        disk.set_room(100 << 10);
        let (store, _) = open(&disk, small()).await;
        for n in 1..3 {
            let mut writer = store.create_rbw(id(n), gs(1), chunk(512)).await.unwrap();
            let filled = send(&mut writer, &content(n, 300 << 10), 0, 300 << 10).await;
            assert!(filled.is_err());
            let replica = store.find(id(n)).unwrap();
            let ended = match n {
                1 => writer.park().await,
                _ => writer.finish(true).await.map(|_| ()),
            };
            assert!(
                matches!(ended, Err(StoreError::OutOfSpace { .. })),
                "{ended:?}"
            );
            assert!(replica.body.lock().await.is_none());
            let info = store.get(id(n)).unwrap();
            assert_eq!(info.block.length, info.bytes_on_disk);
        }
    });
}

/// D9: a writer that rests keeps no buffer, and goes on as if it had not: whatever it wrote and flushed before, wherever its
/// bytes are, and whatever comes next.
#[test]
fn a_resting_writer_keeps_no_buffer_and_goes_on_d9() {
    for options in [small(), files_only()] {
        for (before, flushes) in [
            (0, 0),
            (1, 0),
            (515, 1),
            (4096, 2),
            (9_000, 3),
            (16_384, 0),
            (20_000, 1),
            (70_001, 2),
        ] {
            for then in [
                "write", "flush", "sync", "recover", "cut", "append", "finish",
            ] {
                block_on(async {
                    let disk = TestDisk::default();
                    let (store, _) = open(&disk, options).await;
                    let all = content(3, before + 30_000);
                    let mut writer = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
                    for part in 1..=flushes {
                        let to = before * part / flushes;
                        send(&mut writer, &all, before * (part - 1) / flushes, to)
                            .await
                            .unwrap();
                        writer.flush().await.unwrap();
                    }
                    send(&mut writer, &all, 0, before).await.unwrap();
                    writer.rest().await.unwrap();
                    writer.rest().await.unwrap();
                    let replica = store.find(id(1)).unwrap();
                    {
                        let held = replica.body.lock().await;
                        let body = held.as_ref().expect("the writer goes on");
                        assert!(body.gather.is_none() && body.spare.is_none());
                    }
                    assert_eq!(
                        read_all(&store, 1).await.as_deref(),
                        Ok(&all[..before]),
                        "what was acknowledged is on disk"
                    );
                    let mut from = before;
                    match then {
                        "flush" => assert_eq!(writer.flush().await.unwrap(), before as u64),
                        "sync" => assert_eq!(writer.sync().await.unwrap(), before as u64),
                        "recover" => {
                            let least = before as u64;
                            let next = store.recover_rbw(id(1), gs(1), gs(2), least, least).await;
                            writer = next.unwrap();
                        }
                        "cut" => {
                            let next = store.recover_append(block(1, 1, before as u64), gs(2), 0);
                            writer = next.await.unwrap();
                            writer.rest().await.unwrap();
                        }
                        "append" => {
                            writer.finish(true).await.unwrap();
                            let old = block(1, 1, before as u64);
                            writer = store.append(old, gs(2), 1 << 17).await.unwrap();
                            writer.rest().await.unwrap();
                        }
                        _ => {}
                    }
                    if then != "finish" {
                        for to in [before + 100, before + 20_000, before + 30_000] {
                            send(&mut writer, &all, from, to).await.unwrap();
                            writer.rest().await.unwrap();
                            from = to;
                        }
                    }
                    writer.finish(true).await.unwrap();
                    let (store, _) = open(&disk.after_crash(Keep::Mask(0)), options).await;
                    let case = format!("{before} after {flushes} flushes, {then}");
                    assert_eq!(
                        read_all(&store, 1).await.as_deref(),
                        Ok(&all[..from]),
                        "{case}"
                    );
                });
            }
        }
    }
}

/// A reader keeps the bytes it opened: the slot of a deleted replica is not given to another one before it is done.
#[test]
fn a_reader_outlives_the_replica_it_reads() {
    block_on(async {
        let (store, _) = open(&TestDisk::default(), small()).await;
        put(&store, 1, 1, &content(1, 9000), chunk(512)).await;
        let mut reader = store.open_reader(id(1), gs(1), 0, 9000).await.unwrap();
        let held = reader.next().await.unwrap().unwrap();
        let reader2 = store.open_reader(id(1), gs(1), 0, 9000).await.unwrap();
        let deleted = store.delete(id(1), gs(1)).await.unwrap();
        assert_eq!(
            (deleted.state, deleted.block),
            (ReplicaState::Finalized, block(1, 1, 9000))
        );
        store.collect(deleted).await.unwrap();
        for n in 2..8 {
            put(&store, n, 1, &content(n, 9000), chunk(512)).await;
        }
        assert_eq!(held.data, content(1, 9000));
        drop((reader, reader2));
        for n in 2..8 {
            assert_eq!(read_all(&store, n).await, Ok(content(n, 9000)));
        }
    });
}

/// A dropped call leaves nothing behind that the next one does not wait for.
#[test]
fn calls_may_be_dropped_at_any_point() {
    for seed in 0..300 {
        let options = if seed % 2 == 0 { small() } else { files_only() };
        let disk = TestDisk::default();
        let (store, _) = block_on(open(&disk, options));
        let mut rng = Rng(seed);
        let data = content(seed, 60_000);
        let mut writer = block_on(store.create_rbw(id(1), gs(1), chunk(512))).unwrap();
        while (writer.info().block.length as usize) < data.len() {
            let known = writer.info().block.length as usize;
            let to = (known + rng.below(9000) as usize + 1).min(data.len());
            let polls = rng.below(40) as usize;
            poll_and_drop(send(&mut writer, &data, known, to), polls);
            match rng.below(4) {
                0 => drop(poll_and_drop(writer.flush(), polls)),
                1 => drop(poll_and_drop(writer.sync(), polls)),
                _ => {}
            }
        }
        writer.set_visible_length(60_000);
        block_on(async {
            writer.sync().await.unwrap();
            let (after, _) = open(&disk.after_crash(Keep::Mask(0)), options).await;
            assert_eq!(
                read_recovered(&after, 1).await,
                Ok(data.clone()),
                "seed {seed}"
            );
            assert_eq!(read_all(&store, 1).await, Ok(data.clone()), "seed {seed}");
            writer.finish(true).await.unwrap();
            assert_eq!(read_all(&store, 1).await, Ok(data.clone()), "seed {seed}");
            drop(store);
            let (store, report) = open(&disk, options).await;
            assert_eq!(report.finalized, 1);
            assert_eq!(read_all(&store, 1).await, Ok(data), "seed {seed}");
        });
    }
}

/// A deletion may be dropped at any point and asked for again.
#[test]
fn a_dropped_deletion_can_be_repeated() {
    for options in [small(), files_only()] {
        for polls in 0..40 {
            let disk = TestDisk::default();
            let (store, _) = block_on(open(&disk, options));
            block_on(put(&store, 1, 1, &content(1, 9000), chunk(512)));
            drop(poll_and_drop(store.delete(id(1), gs(1)), polls));
            block_on(async {
                if store.get(id(1)).is_some() {
                    let deleted = store.delete(id(1), gs(1)).await.unwrap();
                    store.collect(deleted).await.unwrap();
                }
                assert_eq!(store.volumes()[0].failed, None);
                put(&store, 2, 1, &content(2, 9000), chunk(512)).await;
                let (after, _) = open(&disk.after_crash(Keep::Mask(0)), options).await;
                assert_eq!(after.get(id(1)), None, "{polls} polls");
                assert_eq!(read_all(&after, 2).await, Ok(content(2, 9000)));
            });
        }
    }
}

/// The bytes of a replica stand where the store says, in its own file, in a tail record and in a slot.
#[test]
fn a_replica_is_located() {
    for (options, length) in [
        (small(), 5000),
        (small(), 100_000),
        (
            StoreOptions {
                small_bytes: 0,
                ..small()
            },
            300,
        ),
    ] {
        let disk = TestDisk::default();
        block_on(async {
            let (store, _) = open(&disk, options).await;
            let writer = store.create_rbw(id(2), gs(1), chunk(512)).await.unwrap();
            assert_eq!(store.locate(id(2)), None, "only in memory");
            drop(writer);
            assert_eq!(store.locate(id(3)), None, "not here");
            let data = content(1, length);
            put(&store, 1, 1, &data, chunk(512)).await;
            let (path, offset) = store.locate(id(1)).expect("on disk");
            let file = disk
                .open(&path, OpenOptions::write().direct())
                .await
                .unwrap();
            let buf = disk.buf(8192).await;
            let (read, buf) = file.read_at(buf, 0..8192, offset / 4096 * 4096).await;
            read.unwrap();
            let at = (offset % 4096) as usize;
            assert_eq!(&buf.as_ref()[at..at + 300], &data[..300]);
        });
    }
}

/// A volume taken out of use takes its replicas with it, the other serves on.
#[test]
fn a_volume_can_be_taken_out_of_use() {
    block_on(async {
        let disk = TestDisk::default();
        let (store, _) = ReplicaStore::open(
            disk.clone(),
            vec![volume(1), volume(2)],
            identity(),
            small(),
        )
        .await
        .expect("opens");
        for n in 1..=4 {
            put(&store, n, 1, &content(n, 5000), chunk(512)).await;
        }
        store.fail_volume("/d1".as_ref(), "the record beside it failed");
        let failed: Vec<Option<String>> = store
            .volumes()
            .into_iter()
            .map(|volume| volume.failed)
            .collect();
        assert_eq!(
            failed,
            [Some("the record beside it failed".to_owned()), None]
        );
        assert_eq!(store.finalized(StorageUuid(1)), []);
        assert_eq!(store.finalized(StorageUuid(2)).len(), 2);
        put(&store, 5, 1, &content(5, 5000), chunk(512)).await;
        assert_eq!(store.finalized(StorageUuid(2)).len(), 3);
    });
}
