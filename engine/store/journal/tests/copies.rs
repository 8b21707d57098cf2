//! Segments fetched from peers: verified, durable before they count, and never cutting more than was decided.

mod common;

use common::*;
use hadal_types::{Epoch, TxId};
use store_journal::{Behind, EMPTY_DIGEST, End, JournalError, Place};
use store_record::Contents;

async fn open_async(disk: &store_record::testing::MemDisk) -> MemJournal {
    try_open(disk, 0).await.unwrap()
}

/// replaces different records of the same length.
#[test]
fn t_q12_accepted_copy_is_installed_after_a_crash() {
    let disk = new_disk();
    let source = batch(2, 1, 4, EMPTY_DIGEST);
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 4).await.unwrap();
        let mut copy = journal
            .begin_copy(TxId(1), Epoch(2), EMPTY_DIGEST)
            .await
            .unwrap();
        copy.write(source.bytes().clone()).await.unwrap();
        assert!(matches!(
            copy.finish(TxId(4), digest(1, 4)).await,
            Err(JournalError::DigestDiffers { .. })
        ));
        assert!(matches!(
            copy.finish(TxId(5), source.digest()).await,
            Err(JournalError::NotWritten { .. })
        ));
        assert!(matches!(
            copy.finish(TxId(3), source.digest()).await,
            Err(JournalError::HoldsMore { .. })
        ));
        copy.finish(TxId(4), source.digest()).await.unwrap();
        journal
            .store_accepted(TxId(1), b"epoch 2: 1-4")
            .await
            .unwrap();
    });
    disk.each_crash(0, |disk| {
        let journal = open(&disk);
        run(&disk, async {
            let accepted = journal.accepted(TxId(1)).await.unwrap();
            assert!(
                matches!(accepted, Contents::Present { payload, .. } if payload == b"epoch 2: 1-4")
            );
            assert_eq!(journal.accepted(TxId(2)).await.unwrap(), Contents::Empty);
            let copy = journal
                .finished_copy(TxId(1))
                .await
                .unwrap()
                .expect("the copy was durable before the acceptance");
            assert_eq!((copy.digest(), copy.next()), (source.digest(), TxId(5)));
            let kept = journal.segment(TxId(1)).unwrap();
            assert_eq!(kept.digest, Some(digest(1, 4)), "not installed yet");
            let info = journal
                .install(copy, Place::InProgress, Behind::Cut)
                .await
                .unwrap();
            assert_eq!(
                (info.digest, info.writer_epoch, info.end),
                (Some(source.digest()), Some(Epoch(2)), Some(End::Clean))
            );
            journal.resume(TxId(1)).await.unwrap();
            append(&journal, 2, 5, 60).await.unwrap();
            journal
                .finalise(TxId(1), TxId(60), Some(digest(2, 60)))
                .await
                .unwrap();
            journal.remove_accepted(TxId(1)).await.unwrap();
            assert_eq!(journal.accepted(TxId(1)).await.unwrap(), Contents::Empty);
        });
    });
}

/// An unfinished copy is never taken for a segment.
#[test]
fn unfinished_copy_is_dropped() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        let mut copy = journal
            .begin_copy(TxId(1), Epoch(2), EMPTY_DIGEST)
            .await
            .unwrap();
        for first in (1..4000).step_by(50) {
            let before = copy.digest();
            copy.write(batch(2, first, first + 49, before).bytes().clone())
                .await
                .unwrap();
        }
        drop(copy);
        let journal = open_async(&disk).await;
        assert!(journal.segments().is_empty());
        assert!(journal.finished_copy(TxId(1)).await.unwrap().is_none());
    });
    assert!(disk.names(DIRECTORY).is_empty());
}

/// model-journal R6: a repair replaces bad records only; what stands behind them stays, readable or not.
#[test]
fn m_j6_repair_keeps_what_stands_behind() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 200).await.unwrap();
    });
    let whole = batch(1, 1, 200, EMPTY_DIGEST);
    let records: Vec<_> = whole
        .records()
        .map(|record| record.payload.len() + store_journal::RECORD_HEAD_LEN)
        .collect();
    let start_of = |txid: usize| 4096 + records[..txid - 1].iter().sum::<usize>();
    flip(&disk, &in_progress(1), (start_of(7) + 30) * 8);
    for (copied, rotten_too, expected) in [
        (7, None, End::Clean),
        (3, None, End::Doubtful(TxId(7))),
        (100, Some(150), End::Doubtful(TxId(150))),
    ] {
        let disk = disk.fork();
        if let Some(txid) = rotten_too {
            flip(&disk, &in_progress(1), (start_of(txid) + 30) * 8);
        }
        let journal = open(&disk);
        assert_eq!(
            journal.segment(TxId(1)).unwrap().end,
            Some(End::Doubtful(TxId(7)))
        );
        run(&disk, async {
            let prefix = batch(1, 1, copied, EMPTY_DIGEST);
            let mut copy = journal
                .begin_copy(TxId(1), Epoch(1), EMPTY_DIGEST)
                .await
                .unwrap();
            copy.write(prefix.bytes().clone()).await.unwrap();
            copy.finish(TxId(copied), prefix.digest()).await.unwrap();
            let info = journal
                .install(copy, Place::InProgress, Behind::Keep)
                .await
                .unwrap();
            assert_eq!(info.end, Some(expected), "copied {copied}");
            let mut other = journal
                .begin_copy(TxId(1), Epoch(3), EMPTY_DIGEST)
                .await
                .unwrap();
            let prefix = batch(3, 1, 4, EMPTY_DIGEST);
            other.write(prefix.bytes().clone()).await.unwrap();
            other.finish(TxId(4), prefix.digest()).await.unwrap();
            let refused = journal
                .install(other, Place::InProgress, Behind::Keep)
                .await;
            assert!(
                matches!(refused, Err(JournalError::DigestDiffers { .. })),
                "other records are no repair"
            );
        });
        assert_eq!(
            open(&disk).segment(TxId(1)).unwrap().end,
            Some(expected),
            "also after a restart"
        );
        if expected == End::Clean {
            let journal = open(&disk);
            assert_eq!(run(&disk, read_all(&journal, 1, 999)).unwrap().len(), 200);
        }
    }
}

/// The doubt about a cut file survives a repair of what stands before the cut; a cut decided by recovery ends it.
#[test]
fn m_j6_doubt_about_a_cut_file_survives_repair() {
    let disk = new_disk();
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 60).await.unwrap();
    });
    let mut bytes = disk.content(in_progress(1));
    bytes.truncate(4096 + 100);
    disk.set_content(in_progress(1), bytes);
    let journal = open(&disk);
    let Some(End::Doubtful(from)) = journal.segment(TxId(1)).unwrap().end else {
        panic!("a cut file is doubtful")
    };
    run(&disk, async {
        let prefix = batch(1, 1, 10, EMPTY_DIGEST);
        let mut copy = journal
            .begin_copy(TxId(1), Epoch(1), EMPTY_DIGEST)
            .await
            .unwrap();
        copy.write(prefix.bytes().clone()).await.unwrap();
        copy.finish(TxId(10), prefix.digest()).await.unwrap();
        assert!(from < TxId(10));
        let info = journal
            .install(copy, Place::InProgress, Behind::Keep)
            .await
            .unwrap();
        assert_eq!(
            info.end,
            Some(End::Doubtful(TxId(11))),
            "nobody knows what stood behind"
        );
        let info = journal.cut(TxId(1), TxId(9)).await.unwrap();
        assert_eq!((info.end, info.last), (Some(End::Clean), Some(TxId(9))));
        journal.resume(TxId(1)).await.unwrap();
        append(&journal, 1, 10, 100).await.unwrap();
    });
    assert_eq!(
        open(&disk).segment(TxId(1)).unwrap().digest,
        Some(digest(1, 100))
    );
}

/// A finalised copy takes the place of a segment in progress, whatever that holds, and of a damaged finalised one.
#[test]
fn t_n5_finalised_copies_replace() {
    let disk = new_disk();
    let source = batch(1, 1, 50, EMPTY_DIGEST);
    run(&disk, async {
        let journal = open_async(&disk).await;
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 60).await.unwrap();
        let mut copy = journal
            .begin_copy(TxId(1), Epoch(1), EMPTY_DIGEST)
            .await
            .unwrap();
        copy.write(source.bytes().clone()).await.unwrap();
        copy.finish(TxId(50), source.digest()).await.unwrap();
        let info = journal
            .install(copy, Place::Finalised, Behind::Cut)
            .await
            .unwrap();
        assert!(info.finalised && info.end == Some(End::Clean) && journal.tail().is_none());
    });
    assert_eq!(disk.names(DIRECTORY).len(), 1);
    flip(&disk, &finalised(1, 50), 5000 * 8);
    run(&disk, async {
        let journal = open_async(&disk).await;
        let Some(End::Damaged(from)) = journal.segment(TxId(1)).unwrap().end else {
            panic!("rot is seen at the start")
        };
        assert!(matches!(
            journal.read(from, TxId(99), 100).await,
            Err(JournalError::Unreadable { .. })
        ));
        assert_eq!(
            read_until_error(&journal).await,
            (1..from.0).collect::<Vec<_>>(),
            "what is good is still served"
        );
        let mut copy = journal
            .begin_copy(TxId(1), Epoch(1), EMPTY_DIGEST)
            .await
            .unwrap();
        copy.write(source.bytes().clone()).await.unwrap();
        copy.finish(TxId(50), source.digest()).await.unwrap();
        journal
            .install(copy, Place::Finalised, Behind::Keep)
            .await
            .unwrap();
        assert_eq!(read_all(&journal, 1, 99).await.unwrap().len(), 50);
    });
}

async fn read_until_error(journal: &MemJournal) -> Vec<u64> {
    let mut found = Vec::new();
    while let Ok(Some(chunk)) = journal
        .read(TxId(found.len() as u64 + 1), TxId(999), 500)
        .await
    {
        found.extend(chunk.batch.records().map(|record| record.txid.0));
    }
    found
}

/// A purge in the meantime leaves a copy that somebody holds, whether it is finished or not, and a later one takes what
/// was installed or given up.
#[test]
fn t_q13_a_purge_spares_a_copy_that_is_being_fetched() {
    for finished in [false, true] {
        let disk = new_disk();
        run(&disk, async {
            let journal = open_async(&disk).await;
            segment(&journal, 1, 1, 3).await;
            segment(&journal, 1, 4, 6).await;
            let source = batch(1, 1, 3, EMPTY_DIGEST);
            let mut copy = journal
                .begin_copy(TxId(1), Epoch(1), EMPTY_DIGEST)
                .await
                .unwrap();
            copy.write(source.bytes().clone()).await.unwrap();
            if finished {
                copy.finish(TxId(3), source.digest()).await.unwrap();
            }
            let purged = journal.purge(TxId(4)).await.unwrap();
            assert_eq!(purged.segments, [TxId(1)]);
            if !finished {
                copy.finish(TxId(3), source.digest()).await.unwrap();
            }
            journal
                .install(copy, Place::Finalised, Behind::Cut)
                .await
                .unwrap();
            assert_eq!(read_all(&journal, 1, 9).await.unwrap().len(), 6);
            let purged = journal.purge(TxId(4)).await.unwrap();
            assert_eq!(purged.segments, [TxId(1)]);
            let given_up = journal
                .begin_copy(TxId(2), Epoch(1), EMPTY_DIGEST)
                .await
                .unwrap();
            drop(given_up);
            journal.purge(TxId(4)).await.unwrap();
            let names = disk.names(DIRECTORY);
            let copies = names.iter().filter(|name| name.ends_with(".copy"));
            assert_eq!(copies.count(), 0);
            assert_eq!(journal.poisoned(), None);
            assert_eq!(read_all(&journal, 4, 9).await.unwrap().len(), 3);
        });
    }
}
