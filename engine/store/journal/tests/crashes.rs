//! Failing and crashing disks: nothing acknowledged is lost, nothing is served that was not written.

mod common;

use common::*;
use futures_util::future::join_all;
use hadal_types::{Epoch, TxId};
use std::cell::Cell;
use std::io::ErrorKind;
use store_journal::{Behind, EMPTY_DIGEST, End, JournalError, Place, Start};
use store_record::testing::MemDisk;

/// What a writer of epoch 1 was told.
#[derive(Clone, Copy, Default, Debug)]
struct Told {
    /// Last txid handed in, acknowledged or not.
    handed: u64,
    appended: u64,
    finalised: u64,
    started: u64,
}

/// Two segments, small and larger appends, growth, a finalise, a purge with a spare, and a third segment out of it.
async fn workload(disk: &MemDisk, told: &Cell<Told>) -> Result<(), JournalError> {
    let journal = try_open(disk, 0).await?;
    let result = write(&journal, told).await;
    if result.is_err() {
        let operations = disk.operations();
        let again = start(&journal, 9, 900).await.err();
        let poisoned = journal.poisoned().is_some();
        assert!(
            !poisoned
                || matches!(
                    again,
                    Some(JournalError::Poisoned(_) | JournalError::NotHere { .. })
                ),
            "{again:?}"
        );
        let again = journal.purge(TxId(1)).await.err();
        assert!(
            !poisoned || matches!(again, Some(JournalError::Poisoned(_))),
            "a failed write is final"
        );
        assert!(
            !poisoned || disk.operations() == operations,
            "a poisoned journal leaves the disk alone"
        );
    }
    result
}

async fn write(journal: &MemJournal, told: &Cell<Told>) -> Result<(), JournalError> {
    let note = |change: &dyn Fn(&mut Told)| {
        let mut now = told.get();
        change(&mut now);
        told.set(now);
    };
    for (first, batches) in [
        (1, &[(1, 1), (2, 4), (5, 60)][..]),
        (61, &[(61, 61), (62, 70)]),
        (71, &[(71, 71)]),
    ] {
        start(journal, 1, first).await?;
        note(&|told| told.started = first);
        for &(from, to) in batches {
            note(&|told| told.handed = to);
            append(journal, 1, from, to).await?;
            note(&|told| told.appended = to);
        }
        if first == 71 {
            note(&|told| told.handed = 76);
            let mut digest = tail(journal).digest;
            let mut pipelined = Vec::new();
            for txid in 72..=76 {
                let batch = batch(1, txid, txid, digest);
                digest = batch.digest();
                let note = &note;
                pipelined.push(async move {
                    let appended = journal.append(batch).await?;
                    note(&|told| told.appended = told.appended.max(appended.last.0));
                    Ok::<_, JournalError>(())
                });
            }
            // All are heard out, as their callers would be.
            join_all(pipelined)
                .await
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
            break;
        }
        let last = batches[batches.len() - 1].1;
        journal.finalise(TxId(first), TxId(last), None).await?;
        note(&|told| told.finalised = last);
        if first == 61 {
            journal.purge(TxId(61)).await?;
            journal.sweep().await?;
        }
    }
    // A spare out of nothing.
    journal.sweep().await
}

/// Bytes of the records of a segment.
fn bytes_of(first: u64, last: u64) -> u64 {
    if last < first {
        return 0;
    }
    let records = batch(1, first, last, digest(1, first - 1));
    records.bytes().len() as u64
}

/// After whatever happened: everything acknowledged is there, everything there was written, and the journal goes on.
fn check(disk: &MemDisk, told: Told, context: &str) {
    let journal = open(disk);
    let infos = journal.segments();
    let last = infos
        .last()
        .map_or(0, |info| info.last.map_or(info.first.0 - 1, |last| last.0));
    assert!(
        last >= told.appended,
        "{context}: {told:?}, but the log ends at {last}: {infos:?}"
    );
    for info in &infos {
        match info.end {
            None | Some(End::Clean) => {}
            Some(End::Doubtful(from)) => {
                assert!(
                    !info.finalised && from.0 > told.appended && from.0 <= told.handed,
                    "{context}: acknowledged and unreadable, or doubt about nothing: {told:?}, {info:?}"
                );
                let bytes = |last| bytes_of(info.first.0, last);
                let bound = info.doubtful_bytes.expect("a crash leaves the length");
                assert!(
                    bound > bytes(from.0 - 1) && bound <= bytes(told.handed),
                    "{context}: the doubt ends at {bound}: {told:?}, {info:?}"
                );
            }
            Some(end) => panic!("{context}: a crash is not {end:?}: {info:?}"),
        }
        if info.last.is_some_and(|last| last.0 <= told.finalised) {
            assert!(
                info.finalised,
                "{context}: finalised and forgotten: {info:?}"
            );
        }
    }
    assert!(
        infos.iter().any(|info| info.first.0 == told.started) || told.started < 61,
        "{context}: started and forgotten"
    );
    let oldest = infos.first().map_or(1, |info| info.first.0);
    assert!(
        oldest == 1 || told.finalised == 70,
        "{context}: purged too early"
    );
    run(disk, async {
        if last >= oldest {
            let served = read_all(&journal, oldest, last)
                .await
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(
                served,
                (oldest..=last).map(|txid| (1, txid)).collect::<Vec<_>>(),
                "{context}"
            );
            assert_eq!(
                journal.digest_at(TxId(last)).await.unwrap(),
                digest(1, last),
                "{context}"
            );
        }
        // A writer of epoch 2 goes on, after having decided that the log ends with what can be read.
        match infos.last() {
            Some(info) if !info.finalised => {
                journal.cut(info.first, TxId(last)).await.unwrap();
                journal.resume(info.first).await.unwrap();
            }
            _ => {
                journal
                    .start_segment(TxId(last + 1), Epoch(2), digest(1, last), Start::Fresh)
                    .await
                    .unwrap();
            }
        }
        append(&journal, 2, last + 1, last + 40).await.unwrap();
        let journal = try_open(disk, 0).await.unwrap();
        let served = read_all(&journal, last + 1, u64::MAX).await.unwrap();
        assert_eq!(
            served,
            (last + 1..=last + 40)
                .map(|txid| (2, txid))
                .collect::<Vec<_>>(),
            "{context}: nothing old came back"
        );
    });
}

/// X5: every disk operation of append, roll, finalise and purge fails once, for want of space or of a working disk;
/// then the process is killed, or the power goes.
#[test]
fn x5_fail_every_operation() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let mut failures = 0;
        for k in 0.. {
            let disk = new_disk();
            let told = Cell::default();
            disk.fail_in(k, kind);
            let result = run(&disk, workload(&disk, &told));
            let Some(op) = disk.failed() else {
                result.unwrap();
                break;
            };
            failures += 1;
            if result.is_ok() {
                assert!(
                    kind == ErrorKind::StorageFull,
                    "operation {k} ({op:?}) failed and nobody said so"
                );
            }
            disk.heal();
            let context = format!("operation {k} ({op:?}) failed with {kind:?}");
            check(&disk.killed(), told.get(), &context);
            for seed in 0..3 {
                check(&disk.crashed_torn(seed), told.get(), &context);
            }
        }
        assert!(failures >= 60, "only {failures} operations");
    }
}

/// X6: a crash in every operation, with every subset of unsynced changes kept, and torn at 512 bytes.
#[test]
fn x6_crash_everywhere() {
    let mut crashes = 0;
    for k in 0.. {
        let disk = new_disk();
        let told = Cell::default();
        disk.crash_in(k);
        let ended = disk.run(workload(&disk, &told));
        let told = told.get();
        check(&disk.killed(), told, &format!("killed in operation {k}"));
        disk.each_crash(24, |disk| {
            crashes += 1;
            check(&disk, told, &format!("crash in operation {k}"));
        });
        // Killed, read by a new process, then the power goes: what that process saw as durable stays.
        let killed = disk.killed();
        let seen = open(&killed).segments();
        killed.each_crash(2, |disk| {
            let now = open(&disk).segments();
            assert_eq!(now, seen, "killed in operation {k}, opened, power lost");
        });
        if ended.is_some() {
            break;
        }
    }
    assert!(crashes > 1500, "only {crashes} crashes");
}

/// X6: a crash while a gap is being closed leaves a gap, closed at the next open, or nothing behind it.
#[test]
fn x6_crash_while_closing_a_gap() {
    let disk = new_disk();
    run(&disk, async {
        let journal = try_open(&disk, 0).await.unwrap();
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 10).await.unwrap();
        append(&journal, 1, 11, 400).await.unwrap();
    });
    let end = 4096 + batch(1, 1, 10, EMPTY_DIGEST).bytes().len();
    let mut bytes = disk.content(in_progress(1));
    bytes[end..end.next_multiple_of(512)].fill(0);
    disk.set_content(in_progress(1), bytes);
    let told = Told {
        appended: 10,
        handed: 400,
        started: 1,
        ..Told::default()
    };
    let mut crashes = 0;
    for k in 0.. {
        let disk = disk.fork();
        disk.crash_in(k);
        let ended = disk.run(try_open(&disk, 0));
        disk.each_crash(16, |disk| {
            crashes += 1;
            assert_eq!(
                open(&disk.fork()).segment(TxId(1)).unwrap().last,
                Some(TxId(10))
            );
            check(&disk, told, &format!("crash in operation {k}"));
        });
        if ended.is_some() {
            break;
        }
    }
    assert!(crashes > 100);
}

/// X6: a crash while recovery's cut is made leaves what was doubtful doubtful, or the cut.
#[test]
fn x6_crash_while_cutting() {
    let disk = new_disk();
    run(&disk, async {
        let journal = try_open(&disk, 0).await.unwrap();
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 100).await.unwrap();
    });
    let tenth = 4096 + batch(1, 1, 9, EMPTY_DIGEST).bytes().len();
    flip(&disk, &in_progress(1), (tenth + 30) * 8);
    for k in 0.. {
        let disk = disk.fork();
        let journal = open(&disk);
        assert_eq!(
            journal.segment(TxId(1)).unwrap().end,
            Some(End::Doubtful(TxId(10)))
        );
        disk.crash_in(k);
        let ended = disk.run(journal.cut(TxId(1), TxId(9)));
        disk.each_crash(16, |disk| {
            let info = open(&disk.fork()).segment(TxId(1)).unwrap();
            assert_eq!(info.last, Some(TxId(9)));
            assert!(
                matches!(info.end, Some(End::Clean | End::Doubtful(TxId(10)))),
                "{info:?}"
            );
            check(
                &disk,
                Told {
                    appended: 9,
                    handed: 100,
                    started: 1,
                    ..Told::default()
                },
                &format!("crash in operation {k}"),
            );
        });
        if let Some(info) = ended {
            assert_eq!(info.unwrap().end, Some(End::Clean));
            break;
        }
    }
}

/// X6: a crash while a copy is fetched and installed, or a segment restarted, leaves the old segment or the new one.
#[test]
fn x6_crash_while_replacing() {
    let base = new_disk();
    run(&base, async {
        let journal = try_open(&base, 0).await.unwrap();
        start(&journal, 1, 1).await.unwrap();
        append(&journal, 1, 1, 80).await.unwrap();
    });
    let source = batch(2, 1, 50, EMPTY_DIGEST);
    for how in [Some(Place::InProgress), Some(Place::Finalised), None] {
        let (mut old, mut new) = (0, 0);
        for k in 0.. {
            let disk = base.fork();
            let done = Cell::new(false);
            disk.crash_in(k);
            let ended = disk.run(async {
                let journal = try_open(&disk, 0).await.unwrap();
                if let Some(place) = how {
                    let mut copy = journal
                        .begin_copy(TxId(1), Epoch(2), EMPTY_DIGEST)
                        .await
                        .unwrap();
                    copy.write(source.bytes().clone()).await.unwrap();
                    copy.finish(TxId(50), source.digest()).await.unwrap();
                    journal.install(copy, place, Behind::Cut).await.unwrap();
                } else {
                    journal
                        .start_segment(TxId(1), Epoch(2), EMPTY_DIGEST, Start::Restart)
                        .await
                        .unwrap();
                }
                done.set(true);
            });
            disk.each_crash(8, |disk| {
                let journal = open(&disk);
                let info = journal.segment(TxId(1)).expect("never without the segment");
                assert_eq!(
                    (journal.segments().len(), info.end),
                    (1, Some(End::Clean)),
                    "crash in operation {k}"
                );
                if info.writer_epoch == Some(Epoch(1)) {
                    old += 1;
                    assert!(
                        !done.get() && info.digest == Some(digest(1, 80)),
                        "crash in operation {k}: {info:?}"
                    );
                } else {
                    new += 1;
                    let expected = how.map_or(EMPTY_DIGEST, |_| source.digest());
                    assert_eq!(
                        (info.digest, info.finalised),
                        (Some(expected), how == Some(Place::Finalised))
                    );
                }
            });
            if ended.is_some() {
                break;
            }
        }
        assert!(old > 20 && new > 0, "{old} old, {new} new");
    }
}
