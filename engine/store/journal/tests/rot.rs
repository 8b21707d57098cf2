//! Damaged files: detected, or the content provably unchanged; never a wrong byte served.

mod common;

use common::*;
use hadal_types::{Epoch, TxId};
use std::path::{Path, PathBuf};
use store_journal::{EMPTY_DIGEST, End, Journal, SegmentInfo, Start};
use store_record::testing::MemDisk;

const LAST: u64 = 30;

/// A disk with one segment of two writes, `1..=20` and `21..=30`, and its file.
fn written(finalise: bool) -> (MemDisk, PathBuf) {
    let disk = new_disk();
    run(&disk, async {
        let journal = try_open(&disk, 0).await.unwrap();
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 20).await.unwrap();
        append(&journal, 1, 21, LAST).await.unwrap();
        if finalise {
            journal.finalise(TxId(1), TxId(LAST), None).await.unwrap();
        }
    });
    (
        disk,
        if finalise {
            finalised(1, LAST)
        } else {
            in_progress(1)
        },
    )
}

/// What a journal makes of the damaged file. Everything it serves is checked on the way.
fn look(disk: &MemDisk, committed: u64) -> SegmentInfo {
    let journal = open_committed(disk, committed);
    let info = journal.segment(TxId(1)).expect("the name is there");
    let readable = match info.end.expect("scanned") {
        End::Clean => info.last.map_or(0, |last| last.0),
        End::Gap(from) | End::Doubtful(from) | End::Damaged(from) => from.0 - 1,
    };
    if readable > 0 {
        let served =
            run(disk, read_all(&journal, 1, readable)).expect("what the scan called readable");
        assert_eq!(
            served,
            (1..=readable).map(|txid| (1, txid)).collect::<Vec<_>>()
        );
        assert_eq!(
            run(disk, journal.digest_at(TxId(readable))).unwrap(),
            digest(1, readable)
        );
    }
    info
}

fn unchanged(info: &SegmentInfo) -> bool {
    info.end == Some(End::Clean)
        && info.last == Some(TxId(LAST))
        && info.digest == Some(digest(1, LAST))
        && info.digest_before == Some(EMPTY_DIGEST)
}

/// C1: every bit of a segment flipped, one at a time, in progress and finalised.
#[test]
fn c1_every_flipped_bit_is_seen() {
    for finalise in [false, true] {
        let (disk, path) = written(finalise);
        let whole = disk.content(&path);
        let used = 4096 + batch(1, 1, LAST, EMPTY_DIGEST).bytes().len();
        assert!(
            used > 4096 + 2000 && whole.len() > used,
            "records and a tail of zeros"
        );
        let mut seen = 0;
        for bit in 0..whole.len() * 8 {
            let rotten = disk.fork();
            flip(&rotten, &path, bit);
            let info = look(&rotten, 0);
            if unchanged(&info) {
                let sector = if finalise {
                    used
                } else {
                    used.next_multiple_of(512)
                };
                assert!(
                    bit / 8 >= sector,
                    "bit {bit} of a record, the header or the last sector went unnoticed"
                );
                continue;
            }
            seen += 1;
            let expected = |from: TxId| {
                if finalise {
                    End::Damaged(from)
                } else {
                    End::Doubtful(from)
                }
            };
            let end = info.end.unwrap();
            let (End::Damaged(from) | End::Doubtful(from)) = end else {
                panic!("bit {bit}: {info:?}")
            };
            assert_eq!(end, expected(from), "bit {bit}");
            assert!(from <= TxId(LAST + 1));
            // However the bit turned, the doubt reaches past the head of the last record.
            let before_last = batch(1, 1, LAST - 1, EMPTY_DIGEST).bytes().len() as u64;
            if finalise || bit < 4096 * 8 {
                assert_eq!(info.doubtful_bytes, None, "bit {bit}");
            } else {
                let bound = info.doubtful_bytes.expect("header and length are good");
                assert!(bound >= before_last + 24, "bit {bit}: {bound}");
            }
        }
        assert!(seen >= used * 8, "only {seen} flips seen");
    }
}

/// C1: below the committed mark a flipped bit is damage, above it doubt.
#[test]
fn c1_the_mark_tells_rot_from_doubt() {
    let (disk, path) = written(false);
    let first_half = 4096 + batch(1, 1, 15, EMPTY_DIGEST).bytes().len();
    flip(&disk, &path, (first_half + 40) * 8);
    assert_eq!(look(&disk.fork(), 15).end, Some(End::Doubtful(TxId(16))));
    assert_eq!(look(&disk.fork(), 16).end, Some(End::Damaged(TxId(16))));
    assert_eq!(look(&disk, LAST).end, Some(End::Damaged(TxId(16))));
}

/// C2: cut at every byte.
#[test]
fn c2_every_cut_is_seen() {
    for finalise in [false, true] {
        let (disk, path) = written(finalise);
        let whole = disk.content(&path);
        let used = 4096 + batch(1, 1, LAST, EMPTY_DIGEST).bytes().len();
        for length in 0..whole.len() {
            let cut = disk.fork();
            cut.set_content(&path, whole[..length].to_vec());
            let info = look(&cut, 0);
            if unchanged(&info) {
                assert!(length >= used, "cut at {length} went unnoticed");
            } else {
                assert!(
                    matches!(info.end, Some(End::Doubtful(_) | End::Damaged(_))),
                    "cut at {length}: {info:?}"
                );
                assert_eq!(info.doubtful_bytes, None, "what was cut off is not known");
            }
        }
    }
}

/// C2: every sector overwritten: by zeros, by what it held before the last write, by a sector of another segment.
///
/// One case cannot be seen on one disk: when what is left is, byte for byte, the segment before its last records were
/// appended. That is what a lost write is; the running digest and the commit mark at the peers reveal it.
#[test]
fn c2_every_strayed_sector_is_seen() {
    let (disk, path) = written(false);
    let whole = disk.content(&path);
    let before = {
        let disk = new_disk();
        run(&disk, async {
            let journal = try_open(&disk, 0).await.unwrap();
            start(&journal, 1, 1).await.unwrap();
            append(&journal, 1, 1, 20).await.unwrap();
        });
        let mut bytes = disk.content(in_progress(1));
        bytes.resize(whole.len(), 0);
        bytes
    };
    let other = {
        let disk = new_disk();
        run(&disk, async {
            let journal = try_open(&disk, 0).await.unwrap();
            journal
                .start_segment(TxId(9), Epoch(2), EMPTY_DIGEST, Start::Fresh)
                .await
                .unwrap();
            append(&journal, 2, 9, 60).await.unwrap();
        });
        disk.content(in_progress(9))
    };
    for (what, source) in [
        ("zeros", vec![0; whole.len()]),
        ("before", before),
        ("other", other.clone()),
    ] {
        for at in (0..whole.len()).step_by(512) {
            for to in [at, (at + 2048) % whole.len()] {
                if what != "other" && to != at {
                    continue;
                }
                let mut bytes = whole.clone();
                bytes[to..to + 512].copy_from_slice(&source[at..at + 512]);
                let strayed = disk.fork();
                strayed.set_content(&path, bytes.clone());
                let info = look(&strayed, 0);
                let reported = matches!(info.end, Some(End::Doubtful(_) | End::Damaged(_)))
                    || info.closed_gap.is_some();
                if !unchanged(&info) && !reported {
                    let last = info.last.map_or(0, |last| last.0);
                    let mut shorter = whole.clone();
                    let end = 4096
                        + if last == 0 {
                            0
                        } else {
                            batch(1, 1, last, EMPTY_DIGEST).bytes().len()
                        };
                    shorter[end..].fill(0);
                    assert_eq!(
                        bytes, shorter,
                        "{what} sector at {to} went unnoticed: {info:?}"
                    );
                }
            }
        }
    }
}

/// A record that verifies but does not follow (another txid, an older epoch) ends the log; above the mark what it
/// starts is closed like a gap, at or below it is damage and stays.
#[test]
fn records_out_of_sequence_end_the_log() {
    let end = 4096 + batch(2, 1, 5, EMPTY_DIGEST).bytes().len();
    for (epoch, txid) in [(1, 6), (2, 5), (2, 7), (3, 1)] {
        let disk = new_disk();
        run(&disk, async {
            let journal = try_open(&disk, 0).await.unwrap();
            start(&journal, 2, 1).await.unwrap();
            append(&journal, 2, 1, 5).await.unwrap();
        });
        let mut bytes = disk.content(in_progress(1));
        let mut stray = Vec::new();
        store_journal::frame(&mut stray, Epoch(epoch), TxId(txid), &payload(epoch, txid));
        bytes[end..end + stray.len()].copy_from_slice(&stray);
        disk.set_content(in_progress(1), bytes.clone());
        let marked = disk.fork();
        let info = open(&disk).segment(TxId(1)).unwrap();
        assert_eq!(
            (info.last, info.end, info.closed_gap),
            (Some(TxId(5)), Some(End::Clean), Some(TxId(6))),
            "epoch {epoch}, txid {txid}"
        );
        assert!(disk.content(in_progress(1))[end..].iter().all(|&b| b == 0));
        let info = open_committed(&marked, 6).segment(TxId(1)).unwrap();
        assert_eq!(
            (info.last, info.end),
            (Some(TxId(5)), Some(End::Damaged(TxId(6))))
        );
        assert_eq!(
            marked.content(in_progress(1)),
            bytes,
            "nothing is zeroed at a damaged record"
        );
    }
}

/// A header lost over an empty segment: nothing was ever there, and a new start may take its place. Lost over records
/// it is damage from the first txid on.
#[test]
fn q22_header_lost() {
    let disk = new_disk();
    run(&disk, async {
        let journal = try_open(&disk, 0).await.unwrap();
        start(&journal, 1, 1).await.unwrap();
    });
    flip(&disk, &in_progress(1), 100);
    let journal = open(&disk);
    let info = journal.segment(TxId(1)).unwrap();
    assert_eq!(
        (info.end, info.last, info.writer_epoch),
        (Some(End::Clean), None, None)
    );
    run(&disk, async {
        assert!(
            journal.resume(TxId(1)).await.is_err(),
            "its epoch is unknown"
        );
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 3).await.unwrap();
    });
    flip(&disk, &in_progress(1), 100);
    assert_eq!(
        open_committed(&disk, 0).segment(TxId(1)).unwrap().end,
        Some(End::Doubtful(TxId(1)))
    );
    assert_eq!(
        open_committed(&disk, 1).segment(TxId(1)).unwrap().end,
        Some(End::Damaged(TxId(1)))
    );
}

/// Q22: a file of zeros under a segment's name is not parsed as operations.
#[test]
fn q22_zeros_are_no_records() {
    let disk = new_disk();
    disk.set_content(in_progress(7), vec![0; 3000]);
    disk.set_content(finalised(1, 6), vec![0; 8192]);
    let journal = open(&disk);
    assert_eq!(
        journal.segment(TxId(7)).unwrap().end,
        Some(End::Doubtful(TxId(7)))
    );
    assert_eq!(
        journal.segment(TxId(1)).unwrap().end,
        Some(End::Damaged(TxId(1)))
    );
    assert!(run(&disk, journal.read(TxId(1), TxId(9), 100)).is_err());
}

/// C7: a layout to come is refused by name, not taken for damage.
#[test]
fn c7_unknown_layout_is_named() {
    let (disk, path) = written(false);
    let mut bytes = disk.content(&path);
    bytes[8] = 9;
    let crc = store_record::checksum::crc32c_append(
        store_record::checksum::crc32c(&bytes[..12]),
        &bytes[16..4096],
    );
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.set_content(&path, bytes);
    let refused = run(
        &disk,
        Journal::open(&disk, Path::new(DIRECTORY), OPTIONS, TxId(0)),
    )
    .err()
    .expect("refused");
    assert!(refused.to_string().contains("layout 9"), "{refused}");
}
