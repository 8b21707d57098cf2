//! What a JournalNode asks of its journal, one scenario after the other.

mod common;

use common::*;
use futures_util::FutureExt;
use futures_util::future::join_all;
use hadal_env::ALIGN;
use hadal_types::{Epoch, TxId};
use std::path::Path;
use std::pin::pin;
use store_journal::{BatchError, EMPTY_DIGEST, End, Journal, JournalError, Start};

#[test]
fn appends_survive_a_reopen_and_read_back() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        for first in (1..400).step_by(3) {
            append(&journal, 1, first, first + 2).await.unwrap();
        }
        assert_eq!(tail(&journal).durable, TxId(402 - 3));
        assert_eq!(
            txids(&read_all(&journal, 1, 399).await.unwrap()),
            (1..=399).collect::<Vec<_>>()
        );
    });
    let journal = open(&disk);
    let info = journal.segment(TxId(1)).unwrap();
    assert_eq!(
        (info.last, info.end, info.writer_epoch),
        (Some(TxId(399)), Some(End::Clean), Some(Epoch(1)))
    );
    assert_eq!(info.digest, Some(digest(1, 399)));
    run(&disk, async {
        let resumed = journal.resume(TxId(1)).await.unwrap();
        assert_eq!((resumed.next, resumed.digest), (TxId(400), digest(1, 399)));
        append(&journal, 1, 400, 401).await.unwrap();
        assert_eq!(
            txids(&read_all(&journal, 395, 1000).await.unwrap()),
            (395..=401).collect::<Vec<_>>()
        );
        assert_eq!(
            txids(&read_all(&journal, 17, 20).await.unwrap()),
            (17..=20).collect::<Vec<_>>(),
            "only up to what was asked"
        );
        for txid in [0, 1, 250, 399, 400, 401] {
            assert_eq!(
                journal.digest_at(TxId(txid)).await.unwrap(),
                digest(1, txid),
                "digest at {txid}"
            );
        }
        assert!(journal.digest_at(TxId(402)).await.is_err());
    });
}

/// Whoever follows the writer asks for as much as there may be; the zeros written ahead are not read for it.
#[test]
fn a_reader_at_the_end_costs_what_is_there() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        for txid in 1..100 {
            append(&journal, 1, txid, txid).await.unwrap();
            let before = disk.bytes_read();
            let chunk = journal.read(TxId(txid), TxId(txid), 1 << 20).await.unwrap();
            assert_eq!(chunk.unwrap().batch.last(), TxId(txid));
            let read = disk.bytes_read() - before;
            assert!(read <= 2 * ALIGN as u64, "{read} bytes for one record");
        }
    });
}

async fn open_async(disk: &store_record::testing::MemDisk) -> MemJournal {
    try_open(disk, 0).await.unwrap()
}

/// Batches handed in while a write is under way go out together: far fewer writes than batches, all durable.
#[test]
fn queued_batches_share_a_write() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 1).await.unwrap();
        let before = disk.operations();
        let mut digest = tail(&journal).digest;
        let mut batches = Vec::new();
        for txid in 2..=65 {
            let batch = batch(1, txid, txid, digest);
            digest = batch.digest();
            batches.push(journal.append(batch));
        }
        for (i, appended) in join_all(batches).await.into_iter().enumerate() {
            assert_eq!(appended.unwrap().last, TxId(i as u64 + 2));
        }
        assert!(
            disk.operations() - before < 12,
            "{} operations for 64 batches",
            disk.operations() - before
        );
        assert_eq!(tail(&journal).durable, TxId(65));
    });
    assert_eq!(open(&disk).segment(TxId(1)).unwrap().last, Some(TxId(65)));
}

/// A batch that does not continue the log is refused, by name, and nothing is written.
#[test]
fn t_q8_batches_out_of_step_are_refused() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        assert!(matches!(
            journal.append(batch(1, 1, 1, EMPTY_DIGEST)).await,
            Err(JournalError::NoOpenSegment)
        ));
        start(&journal, 2, 1).await.unwrap();
        append(&journal, 2, 1, 3).await.unwrap();
        let whole = disk.content(in_progress(1));
        let before = tail(&journal).digest;
        let gap = journal.append(batch(2, 5, 6, before)).await;
        assert!(matches!(
            gap,
            Err(JournalError::OutOfSync {
                expected: TxId(4),
                found: TxId(5)
            })
        ));
        let other = journal.append(batch(2, 4, 4, digest(1, 3))).await;
        assert!(matches!(
            other,
            Err(JournalError::DigestDiffers { at: TxId(3) })
        ));
        let older = journal.append(batch(1, 4, 4, before)).await;
        assert!(matches!(
            older,
            Err(JournalError::Batch(BatchError::EpochWentDown { .. }))
        ));
        assert_eq!(disk.content(in_progress(1)), whole, "nothing was written");
        append(&journal, 2, 4, 4).await.unwrap();
    });
}

/// T-J8: finalising beyond what is written is refused, also after a restart.
#[test]
fn t_j8_finalise_beyond_the_end() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 3).await.unwrap();
        let refused = journal.finalise(TxId(1), TxId(6), None).await.unwrap_err();
        assert!(
            matches!(
                refused,
                JournalError::NotWritten {
                    have: TxId(3),
                    asked: TxId(6),
                    ..
                }
            ),
            "{refused}"
        );
        assert!(refused.to_string().contains("only written up to 3"));
        let journal = open_async(&disk).await;
        let refused = journal.finalise(TxId(1), TxId(6), None).await;
        assert!(matches!(
            refused,
            Err(JournalError::NotWritten { have: TxId(3), .. })
        ));
        let longer = journal.finalise(TxId(1), TxId(2), None).await;
        assert!(matches!(
            longer,
            Err(JournalError::HoldsMore { have: TxId(3), .. })
        ));
        let other = journal.finalise(TxId(1), TxId(3), Some(digest(9, 3))).await;
        assert!(matches!(
            other,
            Err(JournalError::DigestDiffers { at: TxId(3) })
        ));
        let info = journal
            .finalise(TxId(1), TxId(3), Some(digest(1, 3)))
            .await
            .unwrap();
        assert!(info.finalised && journal.tail().is_none());
        journal
            .finalise(TxId(1), TxId(3), Some(digest(1, 3)))
            .await
            .expect("repeating it is allowed");
        let elsewhere = journal.finalise(TxId(1), TxId(4), None).await;
        assert!(matches!(
            elsewhere,
            Err(JournalError::AlreadyFinalised { last: TxId(3), .. })
        ));
    });
    assert_eq!(
        disk.names(DIRECTORY),
        [finalised(1, 3).file_name().unwrap().to_str().unwrap()]
    );
    run(&disk, async {
        let journal = open_async(&disk).await;
        journal
            .finalise(TxId(1), TxId(3), Some(digest(1, 3)))
            .await
            .expect("also after a restart");
        assert!(matches!(
            journal.finalise(TxId(1), TxId(3), Some(digest(2, 3))).await,
            Err(JournalError::DigestDiffers { .. })
        ));
    });
}

/// T-J9: a segment that does not exist cannot be finalised.
#[test]
fn t_j9_finalise_nothing() {
    let disk = new_disk();
    let journal = open(&disk);
    let refused = run(&disk, journal.finalise(TxId(1000), TxId(1001), None));
    assert!(matches!(
        refused,
        Err(JournalError::NoSegment { first: TxId(1000) })
    ));
}

/// T-J10: a segment may start while an older one is in progress and records between them are missing.
#[test]
fn t_j10_start_behind_a_gap() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 3).await.unwrap();
        journal
            .start_segment(TxId(6), Epoch(1), digest(1, 5), Start::Fresh)
            .await
            .unwrap();
        append(&journal, 1, 6, 8).await.unwrap();
    });
    assert_eq!(disk.names(DIRECTORY).len(), 2);
    let journal = open(&disk);
    run(&disk, async {
        let infos = journal.segments();
        assert!(infos.iter().all(|info| !info.finalised));
        assert_eq!(
            infos.iter().map(|info| info.last).collect::<Vec<_>>(),
            [Some(TxId(3)), Some(TxId(8))]
        );
        assert_eq!(
            infos[1].digest,
            Some(digest(1, 8)),
            "the header carried the digest over the gap"
        );
        assert_eq!(txids(&read_all(&journal, 6, 100).await.unwrap()), [6, 7, 8]);
        // Q21: a gap is an error that says so, not "no new edits".
        assert!(matches!(
            journal.read(TxId(4), TxId(9), 100).await,
            Err(JournalError::NotHere { txid: TxId(4), .. })
        ));
        journal
            .finalise(TxId(1), TxId(3), Some(digest(1, 3)))
            .await
            .unwrap();
        journal
            .finalise(TxId(6), TxId(8), Some(digest(1, 8)))
            .await
            .unwrap();
    });
}

/// T-J11: a start may be repeated over a lone first record, not over more, not over a finalised segment.
#[test]
fn t_j11_repeated_start() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 1).await.unwrap();
        start(&journal, 1, 1).await.expect("only its start record");
        assert_eq!(tail(&journal).next, TxId(1));
        append(&journal, 1, 1, 2).await.unwrap();
        assert!(matches!(
            start(&journal, 1, 1).await,
            Err(JournalError::SegmentExists {
                finalised: false,
                ..
            })
        ));
        assert_eq!(
            tail(&journal).next,
            TxId(3),
            "the refusal left the segment open"
        );
        journal.finalise(TxId(1), TxId(2), None).await.unwrap();
        for start in [Start::Fresh, Start::Restart] {
            let again = journal
                .start_segment(TxId(1), Epoch(1), EMPTY_DIGEST, start)
                .await;
            assert!(matches!(
                again,
                Err(JournalError::SegmentExists {
                    finalised: true,
                    ..
                })
            ));
        }
    });
}

/// model-journal R8: a writer of a newer epoch restarts a segment whose records recovery dropped, bad ones included.
#[test]
fn m_j8_restart_replaces_void_records() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 5).await.unwrap();
    });
    flip(&disk, &in_progress(1), (4096 + 30) * 8);
    let journal = open(&disk);
    assert_eq!(
        journal.segment(TxId(1)).unwrap().end,
        Some(End::Doubtful(TxId(1)))
    );
    run(&disk, async {
        assert!(matches!(
            journal.resume(TxId(1)).await,
            Err(JournalError::Unreadable { from: TxId(1), .. })
        ));
        assert!(
            matches!(
                start(&journal, 2, 1).await,
                Err(JournalError::Unreadable { .. })
            ),
            "not without a decision"
        );
        journal
            .start_segment(TxId(1), Epoch(2), EMPTY_DIGEST, Start::Restart)
            .await
            .unwrap();
        append(&journal, 2, 1, 1).await.unwrap();
    });
    let journal = open(&disk);
    let info = journal.segment(TxId(1)).unwrap();
    assert_eq!(
        (info.last, info.end, info.writer_epoch),
        (Some(TxId(1)), Some(End::Clean), Some(Epoch(2))),
        "nothing of the old ones is left"
    );
}

/// T-J12: segments of another namespace, or of a layout to come, are refused by name.
#[test]
fn t_j12_other_namespace() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        let options = store_journal::Options {
            namespace_id: 78,
            ..OPTIONS
        };
        let refused = Journal::open(&disk, Path::new(DIRECTORY), options, TxId(0))
            .await
            .err();
        assert!(matches!(
            refused,
            Some(JournalError::OtherNamespace {
                found: NAMESPACE,
                expected: 78,
                ..
            })
        ));
        Journal::erase(&disk, Path::new(DIRECTORY)).await.unwrap();
        let journal = Journal::open(&disk, Path::new(DIRECTORY), options, TxId(0))
            .await
            .unwrap();
        assert!(
            journal.segments().is_empty(),
            "formatted for another namespace (T-J5)"
        );
    });
}

/// T-Q13: purge removes whole segments below, stale acceptance records and temporary files, and nothing else.
#[test]
fn t_q13_purge() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        for txid in 1..=4 {
            segment(&journal, 1, txid, txid).await;
            journal
                .store_accepted(TxId(txid), b"accepted")
                .await
                .unwrap();
        }
        start(&journal, 1, 5).await.unwrap();
        append(&journal, 1, 5, 5).await.unwrap();
        journal
            .begin_copy(TxId(2), Epoch(1), EMPTY_DIGEST)
            .await
            .unwrap();
        disk.set_content(path("accepted_00000000000000000001.tmp"), vec![1]);
        disk.set_content(path("promised"), vec![1]);
        let purged = journal.purge(TxId(3)).await.unwrap();
        assert_eq!(purged.segments, [TxId(1), TxId(2)]);
        assert_eq!(purged.accepted, [TxId(1), TxId(2)]);
        assert!(journal.has_leftovers());
        journal.sweep().await.unwrap();
        assert!(!journal.has_leftovers());
        let names = disk.names(DIRECTORY);
        let expected = [
            "accepted_00000000000000000003",
            "accepted_00000000000000000004",
            "edits_00000000000000000003-00000000000000000003",
            "edits_00000000000000000004-00000000000000000004",
            "edits_inprogress_00000000000000000005",
            "promised",
            "spare",
        ];
        assert_eq!(names, expected);
        assert!(matches!(
            journal.read(TxId(2), TxId(9), 100).await,
            Err(JournalError::NotHere {
                oldest: Some(TxId(3)),
                ..
            })
        ));
        assert_eq!(txids(&read_all(&journal, 3, 9).await.unwrap()), [3, 4, 5]);
        assert!(
            disk.content(path("spare")).iter().all(|&b| b == 0),
            "no record of the purged segment is left in the spare"
        );
        let purged = journal.purge(TxId(100)).await.unwrap();
        assert_eq!(
            purged.segments,
            [TxId(3), TxId(4)],
            "the open segment stays"
        );
        append(&journal, 1, 6, 6).await.unwrap();
        journal.finalise(TxId(5), TxId(6), None).await.unwrap();
        start(&journal, 1, 7).await.unwrap();
        assert!(
            !disk.names(DIRECTORY).contains(&"spare".to_owned()),
            "the spare became segment 7"
        );
        append(&journal, 1, 7, 90).await.unwrap();
    });
    let journal = open(&disk);
    assert_eq!(run(&disk, read_all(&journal, 5, 100)).unwrap().len(), 86);
}

/// T-Q13: appends wait for no step of what a purge leaves to remove, nor for the making of a spare.
#[test]
fn t_q13_appends_go_on_beside_a_sweep() {
    let disk = new_disk();
    let mut last = 0;
    run(&disk, async {
        let journal = open_async(&disk).await;
        for first in [1, 51, 101] {
            segment(&journal, 1, first, first + 49).await;
        }
        start(&journal, 1, 151).await.unwrap();
        last = 150;
        journal.purge(TxId(151)).await.unwrap();
        let mut sweep = pin!(journal.sweep());
        let swept = loop {
            if let Some(swept) = sweep.as_mut().now_or_never() {
                break swept;
            }
            last += 1;
            append(&journal, 1, last, last).await.unwrap();
        };
        swept.unwrap();
    });
    assert!(last > 155, "the sweep took {} steps", last - 150);
    let expected = [
        "edits_inprogress_00000000000000000151".to_owned(),
        "spare".to_owned(),
    ];
    assert_eq!(disk.names(DIRECTORY), expected);
    let journal = open(&disk);
    let read = run(&disk, read_all(&journal, 151, last)).unwrap();
    assert_eq!(read.len() as u64, last - 150);
}

/// X5: a disk without room for a spare is no failure, and appends go on.
#[test]
fn x5_no_room_for_a_spare() {
    let mut refused = 0;
    for k in 0..4 {
        let disk = new_disk();
        run(&disk, async {
            let journal = open_async(&disk).await;
            start(&journal, 1, 1).await.unwrap();
            disk.fail_in(k, std::io::ErrorKind::StorageFull);
            journal.sweep().await.unwrap();
            refused += u32::from(disk.failed().is_some());
            assert!(!journal.has_leftovers(), "not tried at every append");
            disk.heal();
            let names = disk.names(DIRECTORY);
            assert_eq!(names, ["edits_inprogress_00000000000000000001"], "{k}");
            append(&journal, 1, 1, 50).await.unwrap();
            journal.sweep().await.unwrap();
            assert!(!journal.has_leftovers());
            assert!(disk.names(DIRECTORY).contains(&"spare".to_owned()));
        });
    }
    assert_eq!(refused, 4);
}

/// A stale segment in progress goes once a later segment covers what is kept; one spanning the limit stays.
#[test]
fn t_q13_purge_of_unfinished_segments() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 3).await.unwrap();
        journal.store_accepted(TxId(1), b"x").await.unwrap();
        journal
            .start_segment(TxId(6), Epoch(1), digest(1, 5), Start::Fresh)
            .await
            .unwrap();
        assert_eq!(
            journal.purge(TxId(5)).await.unwrap(),
            store_journal::Purged::default(),
            "segment 1 may still be recovered"
        );
        journal.resume(TxId(1)).await.unwrap();
        assert_eq!(
            journal.purge(TxId(6)).await.unwrap(),
            store_journal::Purged::default(),
            "the open segment stays"
        );
        journal.resume(TxId(6)).await.unwrap();
        let purged = journal.purge(TxId(6)).await.unwrap();
        assert_eq!(
            (purged.segments, purged.accepted),
            (vec![TxId(1)], vec![TxId(1)])
        );
    });
}

/// T-Q12, R7: a copy is verified against the digest of the decision, survives a crash before it is installed, and
/// Holes: what lies behind the first gap is zeroed at open, and does not come back.
#[test]
fn hole_is_closed_and_stays_closed() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 10).await.unwrap();
        append(&journal, 1, 11, 200).await.unwrap();
    });
    let end = 4096 + batch(1, 1, 10, EMPTY_DIGEST).bytes().len();
    let mut bytes = disk.content(in_progress(1));
    bytes[end..end.next_multiple_of(512) + 512].fill(0);
    disk.set_content(in_progress(1), bytes);
    let rotten = disk.fork();
    let journal = open(&disk);
    let info = journal.segment(TxId(1)).unwrap();
    assert_eq!(
        (info.last, info.end, info.digest),
        (Some(TxId(10)), Some(End::Clean), Some(digest(1, 10)))
    );
    assert!(
        disk.content(in_progress(1))[end..].iter().all(|&b| b == 0),
        "zeroed before anything is appended"
    );
    // At or below the committed mark the same bytes are rot, and nothing is touched.
    let before = rotten.content(in_progress(1));
    let journal = open_committed(&rotten, 11);
    assert_eq!(
        journal.segment(TxId(1)).unwrap().end,
        Some(End::Damaged(TxId(11)))
    );
    assert_eq!(rotten.content(in_progress(1)), before);
}

/// Finalise and start wait for what was handed in; a failed write is final for all that waits.
#[test]
fn operations_wait_for_queued_batches() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        let one = batch(1, 1, 2, EMPTY_DIGEST);
        let two = batch(1, 3, 3, one.digest());
        let (a, b, c) = futures_util::join!(
            journal.append(one),
            journal.append(two),
            journal.finalise(TxId(1), TxId(3), None)
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
        start(&journal, 1, 4).await.unwrap();
        let one = batch(1, 4, 4, tail(&journal).digest);
        let two = batch(1, 5, 5, one.digest());
        disk.fail_in(0, std::io::ErrorKind::Other);
        let (a, b, c) = futures_util::join!(
            journal.append(one),
            journal.append(two),
            journal.purge(TxId(2))
        );
        assert!(matches!(a, Err(JournalError::Disk(_))));
        assert!(
            matches!(b, Err(JournalError::Poisoned(_)))
                && matches!(c, Err(JournalError::Poisoned(_)))
        );
        assert!(journal.poisoned().unwrap().contains("append in /jn/edits"));
        assert!(matches!(
            start(&journal, 1, 9).await,
            Err(JournalError::NotHere { .. } | JournalError::Poisoned(_))
        ));
        assert_eq!(
            read_all(&journal, 1, 9).await.unwrap().len(),
            3,
            "what was durable can still be read"
        );
    });
}

/// An append dropped in the middle of its write leaves the outcome unknown: the journal takes no more.
#[test]
fn abandoned_write_poisons() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        {
            let mut append = std::pin::pin!(journal.append(batch(1, 1, 2, EMPTY_DIGEST)));
            std::future::poll_fn(|context| {
                assert!(append.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert!(matches!(
            append(&journal, 1, 3, 3).await,
            Err(JournalError::Poisoned(_))
        ));
    });
}

/// Long records cross chunks of the reader, and a segment grows as it must.
#[test]
fn long_records() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        let mut before = EMPTY_DIGEST;
        for txid in 1..=6u64 {
            let payload = vec![u8::try_from(txid).unwrap(); 700_000];
            let batch =
                store_journal::Batch::frame(Epoch(1), TxId(txid), before, [payload]).unwrap();
            before = batch.digest();
            journal.append(batch).await.unwrap();
        }
        let journal = open_async(&disk).await;
        assert_eq!(journal.segment(TxId(1)).unwrap().digest, Some(before));
        let chunk = journal.read(TxId(5), TxId(9), 10).await.unwrap().unwrap();
        assert_eq!(
            (chunk.batch.first(), chunk.batch.last()),
            (TxId(5), TxId(5))
        );
        assert!(
            chunk
                .batch
                .records()
                .next()
                .unwrap()
                .payload
                .iter()
                .all(|&b| b == 5)
        );
        let chunk = journal
            .read(TxId(1), TxId(9), usize::MAX)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(chunk.batch.last(), TxId(5), "at most a batch's cap");
    });
}
