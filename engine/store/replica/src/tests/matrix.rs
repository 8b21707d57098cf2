//! The operation x state matrix of behaviour 6.9, and block recovery.

use super::*;
use crate::RecoveryInfo;
use crate::testing::block_on;

const LENGTH: u64 = 5000;

/// A store with a replica in each state: 1 FINALIZED, 2 TEMPORARY, 3 RBW, 4 RWR, 5 RUR; all with stamp 10.
async fn every_state(options: StoreOptions) -> Store {
    let disk = TestDisk::default();
    let (store, _) = open(&disk, options).await;
    let data = content(0, LENGTH as usize);
    put(&store, 1, 10, &data, chunk(512)).await;
    put(&store, 5, 10, &data, chunk(512)).await;
    let mut waiting = store.create_rbw(id(4), gs(10), chunk(512)).await.unwrap();
    send(&mut waiting, &data, 0, LENGTH as usize).await.unwrap();
    waiting.sync().await.unwrap();
    drop((waiting, store));
    let (store, report) = open(&disk, options).await;
    assert_eq!((report.finalized, report.waiting), (2, 1));
    let mut copy = store
        .create_temporary(id(2), gs(10), chunk(512))
        .await
        .unwrap();
    send(&mut copy, &data, 0, LENGTH as usize).await.unwrap();
    let mut writer = store.create_rbw(id(3), gs(10), chunk(512)).await.unwrap();
    send(&mut writer, &data, 0, LENGTH as usize).await.unwrap();
    store
        .init_recovery(id(5), gs(10), gs(11))
        .await
        .unwrap()
        .unwrap();
    use ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};
    for (n, expected) in [(1, Finalized), (2, Temporary), (3, Rbw), (4, Rwr), (5, Rur)] {
        assert_eq!(state(&store, n), Some(expected));
    }
    store
}

/// What an operation answered, in the words of the matrix.
fn word<T>(result: Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(StoreError::NotFound { .. }) => "not found",
        Err(StoreError::Unfinalized { .. }) => "unfinalised",
        Err(StoreError::NotRbw { .. }) => "non-RBW",
        Err(StoreError::UnfinalizedNonRbw { .. }) => "unfinalised and non-RBW",
        Err(StoreError::AlreadyExists { .. }) => "exists",
        Err(other) => panic!("{other}"),
    }
}

/// T-R1: the whole matrix; an operation that is refused changes nothing.
#[test]
fn t_r1_operation_by_state_matrix() {
    let neither = "unfinalised and non-RBW";
    // In the order FINALIZED, TEMPORARY, RBW, RWR, RUR, absent.
    let rows: [(&str, [&str; 6]); 6] = [
        (
            "append",
            [
                "ok",
                "unfinalised",
                "unfinalised",
                "unfinalised",
                "unfinalised",
                "not found",
            ],
        ),
        (
            "recoverAppend",
            ["ok", neither, "ok", neither, neither, "not found"],
        ),
        (
            "recoverClose",
            ["ok", neither, "ok", neither, neither, "not found"],
        ),
        (
            "recoverRbw",
            [
                "non-RBW",
                "non-RBW",
                "ok",
                "non-RBW",
                "non-RBW",
                "not found",
            ],
        ),
        (
            "createRbw",
            ["exists", "exists", "exists", "exists", "exists", "ok"],
        ),
        (
            "createTemporary",
            ["exists", "exists", "exists", "exists", "exists", "ok"],
        ),
    ];
    for options in [
        small(),
        StoreOptions {
            small_bytes: 0,
            ..small()
        },
    ] {
        for (operation, expected) in &rows {
            for (column, expected) in expected.iter().enumerate() {
                block_on(async {
                    let store = every_state(options).await;
                    let n = column as u64 + 1;
                    let before = store.get(id(n));
                    let target = block(n, 10, LENGTH);
                    let answer = match *operation {
                        "append" => word(store.append(target, gs(11), LENGTH).await),
                        "recoverAppend" => word(store.recover_append(target, gs(11), LENGTH).await),
                        "recoverClose" => word(store.recover_close(target, gs(11)).await),
                        "recoverRbw" => {
                            word(store.recover_rbw(id(n), gs(10), gs(11), 0, LENGTH).await)
                        }
                        "createRbw" => word(store.create_rbw(id(n), gs(10), chunk(512)).await),
                        _ => word(store.create_temporary(id(n), gs(10), chunk(512)).await),
                    };
                    assert_eq!(
                        answer,
                        *expected,
                        "{operation} on {:?}",
                        before.map(|info| info.state)
                    );
                    if answer != "ok" {
                        assert_eq!(store.get(id(n)), before, "{operation}");
                    } else if !operation.starts_with("create") {
                        assert_eq!(store.get(id(n)).unwrap().block.generation_stamp, gs(11));
                    }
                });
            }
        }
    }
}

/// T-R1: "again exists unless GS newer", for what is being copied or written.
#[test]
fn t_r1_a_temporary_gives_way_to_a_newer_stamp_only() {
    block_on(async {
        let store = every_state(small()).await;
        assert_eq!(
            word(store.create_temporary(id(6), gs(10), chunk(512)).await),
            "ok"
        );
        assert_eq!(
            word(store.create_temporary(id(6), gs(10), chunk(512)).await),
            "exists"
        );
        assert_eq!(
            word(store.create_temporary(id(6), gs(11), chunk(512)).await),
            "ok"
        );
        assert_eq!(
            word(store.create_temporary(id(3), gs(11), chunk(512)).await),
            "ok"
        );
        for n in [1, 4, 5] {
            assert_eq!(
                word(store.create_temporary(id(n), gs(99), chunk(512)).await),
                "exists"
            );
        }
    });
}

/// T-R2: an append there is no room for leaves the replica as it was.
#[test]
fn t_r2_append_without_room_changes_nothing() {
    block_on(async {
        let disk = TestDisk::default();
        disk.set_room(200 << 10);
        let (store, _) = open(&disk, small()).await;
        let data = content(1, 5000);
        put(&store, 1, 10, &data, chunk(512)).await;
        let before = store.get(id(1));
        let refused = store
            .append(block(1, 10, 5000), gs(11), 1 << 20)
            .await
            .err();
        assert!(
            matches!(refused, Some(StoreError::OutOfSpace { .. })),
            "{refused:?}"
        );
        assert_eq!(store.get(id(1)), before);
        assert_eq!(read_all(&store, 1).await, Ok(data));
        assert!(store.append(block(1, 10, 5000), gs(11), 6000).await.is_ok());
    });
}

/// Stamps and lengths that do not fit (E-17).
#[test]
fn wrong_stamps_and_lengths_are_refused() {
    block_on(async {
        let store = every_state(small()).await;
        let stale = |result: Result<Writer, StoreError>| {
            matches!(result, Err(StoreError::StaleStamp { .. }))
        };
        let length = |result: Result<Writer, StoreError>| {
            matches!(result, Err(StoreError::WrongLength { .. }))
        };
        assert!(stale(
            store.append(block(1, 11, LENGTH), gs(12), LENGTH).await
        ));
        assert!(stale(
            store.append(block(1, 10, LENGTH), gs(10), LENGTH).await
        ));
        assert!(length(
            store.append(block(1, 10, LENGTH - 1), gs(11), LENGTH).await
        ));
        assert!(stale(
            store.recover_rbw(id(3), gs(11), gs(12), 0, LENGTH).await
        ));
        assert!(stale(
            store.recover_rbw(id(3), gs(8), gs(9), 0, LENGTH).await
        ));
        assert!(length(
            store
                .recover_rbw(id(3), gs(10), gs(11), LENGTH + 1, LENGTH + 1)
                .await
        ));
        assert!(length(
            store
                .recover_rbw(id(3), gs(10), gs(11), 0, LENGTH - 1)
                .await
        ));
        assert!(length(
            store.recover_append(block(3, 10, 1), gs(11), LENGTH).await
        ));
        assert!(matches!(
            store.delete(id(1), gs(9)).await,
            Err(StoreError::StaleStamp { .. })
        ));
        assert!(matches!(
            store.delete(id(99), gs(9)).await,
            Err(StoreError::NotFound { .. })
        ));
    });
}

/// T-R5, E-11: a higher recovery id pre-empts, a lower one is refused, and RUR keeps the original state.
#[test]
fn t_r5_recovery_ids_pre_empt_upwards_only() {
    block_on(async {
        let store = every_state(small()).await;
        for (n, original_state) in [
            (1, ReplicaState::Finalized),
            (3, ReplicaState::Rbw),
            (4, ReplicaState::Rwr),
        ] {
            let expected = Some(RecoveryInfo {
                block: block(n, 10, LENGTH),
                original_state,
            });
            assert_eq!(
                store.init_recovery(id(n), gs(10), gs(11)).await.unwrap(),
                expected
            );
            assert_eq!(
                store.init_recovery(id(n), gs(10), gs(12)).await.unwrap(),
                expected
            );
            for lower in [11, 12] {
                let refused = store.init_recovery(id(n), gs(10), gs(lower)).await;
                assert!(matches!(
                    refused,
                    Err(StoreError::RecoveryInProgress {
                        running: GenerationStamp(12),
                        ..
                    })
                ));
            }
            assert_eq!(state(&store, n), Some(ReplicaState::Rur));
        }
    });
}

/// T-R6, E-11: what takes no part in a recovery.
#[test]
fn t_r6_unfit_replicas_take_no_part() {
    block_on(async {
        let store = every_state(small()).await;
        let low = store.init_recovery(id(1), gs(9), gs(9)).await;
        assert!(
            matches!(low, Err(StoreError::StaleStamp { .. })),
            "recovery id below the stamp"
        );
        let stale = store.init_recovery(id(1), gs(11), gs(12)).await;
        assert!(
            matches!(stale, Err(StoreError::StaleStamp { .. })),
            "replica older than the block"
        );
        assert_eq!(
            store.init_recovery(id(99), gs(10), gs(11)).await.unwrap(),
            None
        );
        let temporary = store.init_recovery(id(2), gs(10), gs(11)).await;
        assert!(matches!(temporary, Err(StoreError::NotRecoverable { .. })));
        assert_eq!(state(&store, 1), Some(ReplicaState::Finalized));
    });
}

/// T-R7: the update must name the running recovery and the length the replica had; then FINALIZED with new stamp and
/// length, from every original state, also after a restart.
#[test]
fn t_r7_update_needs_the_right_recovery_and_length() {
    for options in [
        small(),
        StoreOptions {
            small_bytes: 0,
            ..small()
        },
    ] {
        for new_length in [0, 1, 511, 512, 4096, 4999, LENGTH] {
            block_on(async {
                let store = every_state(options).await;
                let data = content(0, LENGTH as usize);
                let none = store.update_recovered(id(1), gs(12), LENGTH, LENGTH).await;
                assert!(matches!(none, Err(StoreError::NotUnderRecovery { .. })));
                for n in [1, 3, 4, 5] {
                    store
                        .init_recovery(id(n), gs(10), gs(12))
                        .await
                        .unwrap()
                        .unwrap();
                    let other = store
                        .update_recovered(id(n), gs(13), LENGTH, new_length)
                        .await;
                    assert!(matches!(other, Err(StoreError::WrongRecovery { .. })));
                    for (old, new) in [(LENGTH - 1, 0), (LENGTH, LENGTH + 1)] {
                        let wrong = store.update_recovered(id(n), gs(12), old, new).await;
                        assert!(matches!(wrong, Err(StoreError::WrongLength { .. })));
                    }
                    let done = store
                        .update_recovered(id(n), gs(12), LENGTH, new_length)
                        .await
                        .unwrap();
                    assert_eq!(done, block(n, 12, new_length));
                    assert_eq!(state(&store, n), Some(ReplicaState::Finalized));
                    assert_eq!(
                        read_all(&store, n).await.as_deref(),
                        Ok(&data[..new_length as usize])
                    );
                }
            });
        }
    }
}

/// A recovery, a take-over and a deletion stop the writer; a recovery keeps what it received.
#[test]
fn a_writer_is_stopped_by_recovery_take_over_and_deletion() {
    for options in [
        small(),
        StoreOptions {
            small_bytes: 0,
            ..small()
        },
    ] {
        block_on(async {
            let (store, _) = open(&TestDisk::default(), options).await;
            let data = content(1, 40_000);
            let mut first = store.create_rbw(id(1), gs(1), chunk(512)).await.unwrap();
            send(&mut first, &data, 0, 7000).await.unwrap();
            first
                .write(
                    6656,
                    &slices(&data[6656..9000]),
                    &checksums(&data[6656..9000], 0, 512),
                )
                .await
                .unwrap();
            let mut second = store
                .recover_rbw(id(1), gs(1), gs(2), 7000, 9000)
                .await
                .unwrap();
            assert!(matches!(
                first.flush().await,
                Err(StoreError::Fenced { .. })
            ));
            assert_eq!(
                second.info().block,
                block(1, 2, 7000),
                "cut to what was acknowledged"
            );
            send(&mut second, &data, 7000, 33_001).await.unwrap();
            let info = store
                .init_recovery(id(1), gs(2), gs(3))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(info.block.length, 33_001);
            assert!(
                matches!(second.finish(true).await, Err(StoreError::Fenced { .. })),
                "T-L11"
            );
            store
                .update_recovered(id(1), gs(3), 33_001, 30_001)
                .await
                .unwrap();
            assert_eq!(read_all(&store, 1).await.as_deref(), Ok(&data[..30_001]));
            let mut third = store
                .append(block(1, 3, 30_001), gs(4), 40_000)
                .await
                .unwrap();
            let deleted = store.delete(id(1), gs(4)).await.unwrap();
            assert!(matches!(third.sync().await, Err(StoreError::Fenced { .. })));
            put(&store, 1, 5, &content(9, 100), chunk(512)).await;
            store.collect(deleted).await.unwrap();
            assert_eq!(
                read_all(&store, 1).await,
                Ok(content(9, 100)),
                "a copy that came back is not touched"
            );
        });
    }
}

/// Append, close, append again, over restarts; parked writers; stamps bumped (T-L18).
#[test]
fn append_close_and_bump_over_restarts() {
    for options in [
        small(),
        StoreOptions {
            small_bytes: 0,
            ..small()
        },
    ] {
        for bytes_per_checksum in [512, 4096, 400] {
            let disk = TestDisk::default();
            block_on(async {
                let data = content(1, 120_000);
                let (store, _) = open(&disk, options).await;
                put(&store, 1, 1, &data[..100], chunk(bytes_per_checksum)).await;
                drop(store);
                let mut stamp = 1;
                for (from, to) in [
                    (100, 101),
                    (101, 5000),
                    (5000, 16_384),
                    (16_384, 16_384),
                    (16_384, 70_000),
                    (70_000, 120_000),
                ] {
                    let (store, report) = open(&disk, options).await;
                    assert_eq!(
                        (report.finalized, report.waiting, report.corrupt.len()),
                        (1, 0, 0),
                        "{from}"
                    );
                    let target = block(1, stamp, from as u64);
                    let mut writer = store.append(target, gs(stamp + 1), 120_000).await.unwrap();
                    assert_eq!(
                        read_all(&store, 1).await.as_deref(),
                        Ok(&data[..from]),
                        "readable while appended to"
                    );
                    send(&mut writer, &data, from, (from + to) / 2)
                        .await
                        .unwrap();
                    writer.park().await.unwrap();
                    let mut writer = store
                        .recover_rbw(id(1), gs(stamp + 1), gs(stamp + 2), 0, 1 << 20)
                        .await
                        .unwrap();
                    send(&mut writer, &data, (from + to) / 2, to).await.unwrap();
                    writer.finish(true).await.unwrap();
                    store
                        .bump_generation_stamp(id(1), gs(stamp + 2), gs(stamp + 3))
                        .await
                        .unwrap();
                    stamp += 3;
                    assert_eq!(store.get(id(1)).unwrap().block, block(1, stamp, to as u64));
                    assert_eq!(read_all(&store, 1).await.as_deref(), Ok(&data[..to]));
                }
            });
        }
    }
}
