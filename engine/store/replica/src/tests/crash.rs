//! X5 and X6: every operation fails, and the machine stops at every operation, with any part of what was not synced.

use super::*;
use crate::testing::{Fault, Keep, block_on};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What was promised about one block.
#[derive(Clone, Default)]
struct Promise {
    /// What it holds, or shall hold once what is under way is done.
    content: Vec<u8>,
    /// What it may still hold instead, while something is under way.
    before: Option<Vec<u8>>,
    flushed: usize,
    synced: usize,
    /// Stamp, if a durable close was acknowledged and nothing came after.
    finalized: Option<u64>,
    /// An operation that may have any part of its effect is under way.
    busy: bool,
    /// A deletion was begun; and acknowledged.
    deleting: bool,
    deleted: bool,
}

type Ledger = RefCell<BTreeMap<u64, Promise>>;

fn note(ledger: &Ledger, n: u64, change: impl FnOnce(&mut Promise)) {
    change(ledger.borrow_mut().entry(n).or_default());
}

/// Writes `data[from..to]`, and records what the acknowledgements promise.
async fn write_on(
    ledger: &Ledger,
    writer: &mut Writer,
    n: u64,
    to: usize,
    how: &str,
) -> Result<(), StoreError> {
    let (data, from) = {
        let promise = &ledger.borrow()[&n];
        (promise.content.clone(), writer.info().block.length as usize)
    };
    send(writer, &data, from, to).await?;
    match how {
        "flush" => {
            writer.flush().await?;
            note(ledger, n, |p| p.flushed = to);
        }
        "sync" => {
            writer.sync().await?;
            note(ledger, n, |p| (p.flushed, p.synced) = (to, to));
        }
        "rest" => {
            writer.rest().await?;
            note(ledger, n, |p| p.flushed = to);
        }
        _ => {}
    }
    Ok(())
}

async fn finish_on(ledger: &Ledger, writer: Writer, n: u64, stamp: u64) -> Result<(), StoreError> {
    let block = writer.finish(true).await?;
    note(ledger, n, |p| {
        assert_eq!(block.length as usize, p.content.len());
        p.synced = p.content.len();
        p.finalized = Some(stamp);
        (p.busy, p.before) = (false, None);
    });
    Ok(())
}

async fn create_on(
    ledger: &Ledger,
    store: &Store,
    n: u64,
    data: Vec<u8>,
) -> Result<Writer, StoreError> {
    note(ledger, n, |p| {
        *p = Promise {
            content: data,
            ..Promise::default()
        }
    });
    store.create_rbw(id(n), gs(10), chunk(512)).await
}

/// Something of everything: slots, a spill, files, append, truncation, deletion and return.
async fn scenario(store: &Store, ledger: &Ledger) -> Result<(), StoreError> {
    let mut one = create_on(ledger, store, 1, content(1, 9000)).await?;
    write_on(ledger, &mut one, 1, 9000, "").await?;
    finish_on(ledger, one, 1, 10).await?;

    let mut two = create_on(ledger, store, 2, content(2, 50_000)).await?;
    for (to, how) in [
        (10_000, "flush"),
        (20_123, "sync"),
        (20_124, "flush"),
        (30_000, "flush"),
        (50_000, ""),
    ] {
        write_on(ledger, &mut two, 2, to, how).await?;
    }
    finish_on(ledger, two, 2, 10).await?;

    let mut three = create_on(ledger, store, 3, content(3, 7000)).await?;
    for (to, how) in [
        (3000, "flush"),
        (5000, "sync"),
        (6000, "flush"),
        (6100, "sync"),
        (6200, "flush"),
        (7000, ""),
    ] {
        write_on(ledger, &mut three, 3, to, how).await?;
    }
    finish_on(ledger, three, 3, 10).await?;

    // Append to the one in a slot and to the one in a file.
    for (n, length, to) in [(1, 9000, 14_000), (2, 50_000, 60_001)] {
        let mut grown = ledger.borrow()[&n].content.clone();
        let before = grown.clone();
        grown.extend(content(n + 100, to - length));
        note(ledger, n, |p| {
            (p.content, p.before, p.busy) = (grown, Some(before), true)
        });
        let mut writer = store
            .append(block(n, 10, length as u64), gs(11), to as u64)
            .await?;
        write_on(ledger, &mut writer, n, length + 2000, "sync").await?;
        write_on(ledger, &mut writer, n, to, "").await?;
        finish_on(ledger, writer, n, 11).await?;
    }

    // Truncate by recovery, then append other bytes.
    for (n, length, cut) in [(1, 14_000, 8192 + 77), (2, 60_001, 33_333)] {
        let before = ledger.borrow()[&n].content.clone();
        note(ledger, n, |p| {
            (p.content, p.before, p.busy) = (before[..cut].to_vec(), Some(before.clone()), true);
            (p.flushed, p.synced) = (cut, cut);
        });
        store.init_recovery(id(n), gs(11), gs(12)).await?;
        store
            .update_recovered(id(n), gs(12), length, cut as u64)
            .await?;
        note(ledger, n, |p| (p.finalized, p.before) = (Some(12), None));
        let mut grown = before[..cut].to_vec();
        grown.extend(content(n + 200, 3000));
        note(ledger, n, |p| {
            (p.content, p.before) = (grown, Some(before[..cut].to_vec()))
        });
        let mut writer = store
            .append(block(n, 12, cut as u64), gs(13), 1 << 20)
            .await?;
        write_on(ledger, &mut writer, n, cut + 1000, "flush").await?;
        write_on(ledger, &mut writer, n, cut + 3000, "").await?;
        finish_on(ledger, writer, n, 13).await?;
    }

    for n in [2, 3] {
        note(ledger, n, |p| p.deleting = true);
        let deleted = store.delete(id(n), gs(20)).await?;
        note(ledger, n, |p| p.deleted = true);
        store.collect(deleted).await?;
    }
    // Into what came free; and a block that comes back.
    let mut four = create_on(ledger, store, 4, content(4, 16_000)).await?;
    write_on(ledger, &mut four, 4, 16_000, "").await?;
    finish_on(ledger, four, 4, 10).await?;
    let mut back = create_on(ledger, store, 3, content(33, 500)).await?;
    write_on(ledger, &mut back, 3, 500, "").await?;
    finish_on(ledger, back, 3, 10).await?;
    Ok(())
}

/// What pipeline recovery asks of a store: a copy that joins a pipeline, take-overs of open replicas, an append that is
/// set up twice, a close that is done again.
async fn pipelines(store: &Store, ledger: &Ledger) -> Result<(), StoreError> {
    // A node that joins: TEMPORARY, then RBW, then a pipeline goes on.
    for (n, copied, to) in [(1, 9000, 12_000), (2, 40_000, 50_001), (3, 0, 700)] {
        note(ledger, n, |p| p.content = content(n, to));
        let mut copy = store.create_temporary(id(n), gs(10), chunk(512)).await?;
        send(&mut copy, &content(n, to), 0, copied).await?;
        let joined = store
            .convert_temporary(id(n), gs(10), copied as u64)
            .await?;
        note(ledger, n, |p| (p.flushed, p.synced) = (copied, copied));
        joined.park().await?;
        let mut writer = store
            .recover_rbw(id(n), gs(10), gs(11), copied as u64, u64::MAX)
            .await?;
        write_on(ledger, &mut writer, n, copied + 300, "flush").await?;
        let mut writer = store
            .recover_rbw(id(n), gs(11), gs(12), copied as u64, u64::MAX)
            .await?;
        write_on(ledger, &mut writer, n, to, "").await?;
        finish_on(ledger, writer, n, 12).await?;
    }
    // A close that is done again: of an open replica, then of the finished one.
    for (n, length) in [(4, 5000), (5, 33_333)] {
        let mut writer = create_on(ledger, store, n, content(n, length)).await?;
        write_on(ledger, &mut writer, n, length, "flush").await?;
        drop(writer);
        for stamp in [11, 12] {
            note(ledger, n, |p| p.busy = true);
            let done = store
                .recover_close(block(n, stamp - 1, length as u64), gs(stamp))
                .await?;
            assert_eq!(done, block(n, stamp, length as u64));
            note(ledger, n, |p| {
                (p.synced, p.finalized, p.busy) = (length, Some(stamp), false)
            });
        }
    }
    // An append that is set up, abandoned, and set up again.
    for (n, length, to) in [(6, 4001, 6000), (7, 40_000, 45_001)] {
        let data = content(n, to);
        let mut writer = create_on(ledger, store, n, data[..length].to_vec()).await?;
        write_on(ledger, &mut writer, n, length, "").await?;
        finish_on(ledger, writer, n, 10).await?;
        note(ledger, n, |p| {
            (p.before, p.busy) = (Some(p.content.clone()), true);
            p.content = data;
        });
        let known = block(n, 10, length as u64);
        drop(store.append(known, gs(11), to as u64).await?);
        let mut writer = store.recover_append(known, gs(12), to as u64).await?;
        write_on(ledger, &mut writer, n, to - 100, "sync").await?;
        write_on(ledger, &mut writer, n, to, "").await?;
        finish_on(ledger, writer, n, 12).await?;
    }
    Ok(())
}

/// Which history is run.
#[derive(Clone, Copy, Debug)]
enum Course {
    Everything,
    Pipelines,
}

const COURSES: [Course; 2] = [Course::Everything, Course::Pipelines];

/// What a client could have relied on is there; what is there is right.
async fn check(
    disk: &TestDisk,
    options: StoreOptions,
    promises: &BTreeMap<u64, Promise>,
    alive: bool,
    case: &str,
) {
    let (store, report) = open(disk, options).await;
    assert!(
        report.corrupt.is_empty() && report.damaged_slots == 0,
        "{case}: {report:?}"
    );
    for (&n, p) in promises {
        let info = store.get(id(n));
        let least = if p.deleting {
            0
        } else if alive {
            p.synced.max(p.flushed)
        } else {
            p.synced
        };
        let Some(info) = info else {
            assert!(
                p.deleting || (least == 0 && p.finalized.is_none()),
                "{case}: {n} is gone, {least} bytes promised"
            );
            continue;
        };
        assert!(!p.deleted, "{case}: {n} came back");
        if let (Some(stamp), false, false) = (p.finalized, p.busy, p.deleting) {
            let expected = block(n, stamp, p.content.len() as u64);
            assert_eq!(
                (info.state, info.block),
                (ReplicaState::Finalized, expected),
                "{case}"
            );
        }
        let got = read_recovered(&store, n)
            .await
            .unwrap_or_else(|e| panic!("{case}: {n}: {e} {info:?}"));
        let right = p.content.starts_with(&got)
            || p.before
                .as_ref()
                .is_some_and(|before| before.starts_with(&got));
        assert!(
            right,
            "{case}: {n} holds other bytes, {} of them",
            got.len()
        );
        assert!(
            got.len() >= least,
            "{case}: {n} has {} of {least} bytes",
            got.len()
        );
    }
    // Whatever was found stays so, and the store goes on working.
    put(&store, 99, 1, &content(99, 5000), chunk(512)).await;
    let before: Vec<Block> = store.finalized(StorageUuid(1));
    drop(store);
    let (store, report) = open(disk, options).await;
    assert_eq!(
        store.finalized(StorageUuid(1)),
        before,
        "{case}: {report:?}"
    );
    for block in before {
        assert!(
            read_all(&store, block.id.0).await.is_ok(),
            "{case}: {block}"
        );
    }
}

fn kinds() -> [StoreOptions; 2] {
    [
        small(),
        StoreOptions {
            small_bytes: 0,
            ..small()
        },
    ]
}

fn courses() -> impl Iterator<Item = (Course, StoreOptions)> {
    COURSES
        .into_iter()
        .flat_map(|course| kinds().map(|options| (course, options)))
}

/// Runs the scenario with a fault after so many operations. The disk, the promises, and whether it got through.
fn run(
    course: Course,
    options: StoreOptions,
    fault: Option<(u64, Fault)>,
) -> (TestDisk, BTreeMap<u64, Promise>, bool, u64) {
    let disk = TestDisk::default();
    block_on(async {
        let (store, _) = open(&disk, options).await;
        let start = disk.operations();
        if let Some((after, fault)) = fault {
            disk.inject(after, fault);
        }
        let ledger = Ledger::default();
        let through = match course {
            Course::Everything => scenario(&store, &ledger).await.is_ok(),
            Course::Pipelines => pipelines(&store, &ledger).await.is_ok(),
        };
        let operations = disk.operations() - start;
        drop(store);
        (disk, ledger.into_inner(), through, operations)
    })
}

/// X6: a crash at every operation, every subset of up to 2^6 of the unsynced changes (else 32 random ones), and
/// torn at 512 B. P2, P4, P5, P6, P10.
#[test]
fn x6_crash_at_every_operation_with_any_unsynced_part() {
    for (course, options) in courses() {
        let (_, _, through, operations) = run(course, options, None);
        assert!(through && operations > 100, "{operations} operations");
        let mut cases = 0;
        for k in 0..operations {
            let (disk, promises, through, _) = run(course, options, Some((k, Fault::Crash)));
            assert!(!through, "a crash is noticed");
            let pending = disk.unsynced();
            let masks: Vec<u64> = if pending <= 6 {
                (0..1 << pending).collect()
            } else {
                let mut rng = Rng(k);
                [0, u64::MAX]
                    .into_iter()
                    .chain((0..30).map(|_| rng.next()))
                    .collect()
            };
            let keeps = masks
                .into_iter()
                .map(Keep::Mask)
                .chain((0..16).map(|seed| Keep::Torn(k * 100 + seed)));
            for keep in keeps {
                let case = format!(
                    "{course:?}, small {}, operation {k}, {keep:?}",
                    options.small_bytes
                );
                block_on(check(
                    &disk.after_crash(keep),
                    options,
                    &promises,
                    false,
                    &case,
                ));
                cases += 1;
            }
        }
        assert!(cases > 3000, "{cases}");
    }
}

/// kill -9 at every operation: what the kernel has completed is there, so hflush holds too (F-08).
#[test]
fn x6_death_of_the_process_keeps_what_was_flushed() {
    for (course, options) in courses() {
        let (_, _, _, operations) = run(course, options, None);
        for k in 0..operations {
            let (disk, promises, ..) = run(course, options, Some((k, Fault::Crash)));
            let case = format!(
                "{course:?}, small {}, operation {k}, killed",
                options.small_bytes
            );
            block_on(check(
                &disk.after_crash(Keep::All),
                options,
                &promises,
                true,
                &case,
            ));
        }
    }
}

/// X6: the process is killed, or power fails, at every operation; another life writes and closes a block; that ends in one
/// of the two ways as well. What the first left to the kernel, the names of extents too, is durable before anything is
/// built on it, and what it left torn is no more believed the second time than the first. (Seed 89 of the simulated cluster:
/// the name of an extent was not durable, and a power failure minutes later took six closed and synced replicas.)
#[test]
fn x6_crash_at_every_operation_and_again_in_the_next_life() {
    for (course, options) in courses() {
        let (_, _, _, operations) = run(course, options, None);
        for k in 0..operations {
            let (disk, promises, ..) = run(course, options, Some((k, Fault::Crash)));
            for first in [Keep::Cached, Keep::Torn(k), Keep::Torn(k + 1000)] {
                let between = disk.after_crash(first);
                let later = content(98, 900);
                block_on(async {
                    let (store, _) = open(&between, options).await;
                    put(&store, 98, 1, &later, chunk(512)).await;
                });
                for second in [Keep::Cached, Keep::Mask(0)] {
                    let found = between.after_crash(second);
                    let case = format!(
                        "{course:?}, small {}, operation {k}, {first:?}, then {second:?}",
                        options.small_bytes
                    );
                    block_on(async {
                        let (store, report) = open(&found, options).await;
                        let read = read_all(&store, 98).await;
                        let read =
                            read.unwrap_or_else(|error| panic!("{case}: {error}, {report:?}"));
                        assert!(read == later, "{case}: other bytes");
                    });
                    block_on(check(&found, options, &promises, false, &case));
                }
            }
        }
    }
}

/// X6: a process is killed while it deletes, the next one writes another replica into the slot, power fails: the slot was free
/// in the kernel's memory only, and must not show what it held with the bytes of the other one.
#[test]
fn x6_a_slot_freed_by_a_killed_process_is_free_before_it_is_written() {
    let (one, other) = (content(1, 9000), content(2, 9000));
    for k in 0.. {
        let disk = TestDisk::default();
        let deleted = block_on(async {
            let (store, _) = open(&disk, small()).await;
            put(&store, 1, 1, &one, chunk(512)).await;
            // The last header, in an extent of its own, says that the first one is durable.
            put(&store, 3, 1, &content(3, 900), chunk(512)).await;
            disk.inject(k, Fault::Crash);
            match store.delete(id(1), gs(1)).await {
                Ok(deleted) => store.collect(deleted).await.is_ok(),
                Err(_) => false,
            }
        });
        if deleted {
            break;
        }
        for j in 0.. {
            let between = disk.after_crash(Keep::Cached);
            let through = block_on(async {
                let (store, _) = open(&between, small()).await;
                between.inject(j, Fault::Crash);
                let Ok(mut writer) = store.create_rbw(id(2), gs(1), chunk(512)).await else {
                    return false;
                };
                let sent = send(&mut writer, &other, 0, other.len()).await;
                sent.is_ok() && writer.finish(true).await.is_ok()
            });
            if through {
                break;
            }
            for seed in 0..200 {
                let found = between.after_crash(Keep::Torn(seed));
                block_on(async {
                    let (store, report) = open(&found, small()).await;
                    if state(&store, 1) == Some(ReplicaState::Finalized) {
                        let read = read_all(&store, 1).await;
                        let read = read.map(|read| read == one);
                        assert_eq!(read, Ok(true), "{k}, {j}, {seed}: {report:?}");
                    }
                });
            }
        }
    }
}

/// X5: every operation fails once, as an error or for want of space, and the machine stops right after: no false
/// acknowledgement, no wrong state.
#[test]
fn x5_every_operation_fails_once() {
    for (course, options) in courses() {
        let (_, _, _, operations) = run(course, options, None);
        for k in 0..operations {
            for fault in [Fault::Error, Fault::Full] {
                let (disk, promises, through, _) = run(course, options, Some((k, fault)));
                assert!(
                    !through || fault == Fault::Full,
                    "operation {k} failed and nobody said so"
                );
                for keep in [
                    Keep::All,
                    Keep::Mask(0),
                    Keep::Torn(k),
                    Keep::Torn(k + 1000),
                ] {
                    let case = format!(
                        "{course:?}, small {}, operation {k} {fault:?}, {keep:?}",
                        options.small_bytes
                    );
                    let alive = matches!(keep, Keep::All);
                    block_on(check(
                        &disk.after_crash(keep),
                        options,
                        &promises,
                        alive,
                        &case,
                    ));
                }
            }
        }
    }
}

/// X5 at start: every operation of a start fails once; the next start finds everything.
#[test]
fn x5_every_operation_of_a_start_fails_once() {
    for (course, options) in courses() {
        let (disk, promises, through, _) = run(course, options, None);
        assert!(through);
        let crashed = disk.after_crash(Keep::All);
        let mut k = 0;
        loop {
            let disk = crashed.after_crash(Keep::All);
            disk.inject(k, Fault::Error);
            let opened = block_on(ReplicaStore::open(
                disk.clone(),
                vec![volume(1)],
                identity(),
                options,
            ));
            let failed = opened.is_err();
            drop(opened);
            if !failed && disk.operations() <= k {
                break;
            }
            block_on(check(
                &disk.after_crash(Keep::All),
                options,
                &promises,
                true,
                &format!("start, operation {k}"),
            ));
            k += 1;
        }
        assert!(k > 15, "{k} operations");
    }
}

/// What the random history knows of a block.
enum Now {
    Absent,
    Open(Box<Writer>, u64),
    Closed(u64),
}

/// One random step on block `n`.
async fn step(
    store: &Store,
    ledger: &Ledger,
    n: u64,
    now: Now,
    rng: &mut Rng,
) -> Result<Now, StoreError> {
    let length = ledger.borrow().get(&n).map_or(0, |p| p.content.len());
    match now {
        Now::Absent => {
            let data = content(rng.next(), rng.below(40_000) as usize);
            let writer = create_on(ledger, store, n, data).await?;
            Ok(Now::Open(Box::new(writer), 10))
        }
        Now::Open(mut writer, stamp) => {
            let known = writer.info().block.length as usize;
            match rng.below(8) {
                0..4 => {
                    let to = known + rng.below((length - known) as u64 + 1) as usize;
                    let how = ["", "flush", "sync", "rest"][rng.below(4) as usize];
                    write_on(ledger, &mut writer, n, to, how).await?;
                    Ok(Now::Open(writer, stamp))
                }
                4 => {
                    if rng.below(2) == 0 {
                        writer.park().await?;
                    }
                    let next = stamp + 1;
                    let writer = store
                        .recover_rbw(id(n), gs(stamp), gs(next), 0, u64::MAX)
                        .await?;
                    let acked = writer.info().block.length as usize;
                    note(ledger, n, |p| assert!(acked >= p.flushed));
                    Ok(Now::Open(Box::new(writer), next))
                }
                5 => {
                    store
                        .bump_generation_stamp(id(n), gs(stamp), gs(stamp + 1))
                        .await?;
                    Ok(Now::Open(writer, stamp + 1))
                }
                6 => {
                    write_on(ledger, &mut writer, n, length, "").await?;
                    finish_on(ledger, *writer, n, stamp).await?;
                    Ok(Now::Closed(stamp))
                }
                _ => {
                    drop(writer);
                    cut(store, ledger, n, stamp, rng).await
                }
            }
        }
        Now::Closed(stamp) => match rng.below(5) {
            0 | 1 => {
                let before = ledger.borrow()[&n].content.clone();
                let mut grown = before.clone();
                grown.extend(content(rng.next(), rng.below(20_000) as usize));
                note(ledger, n, |p| {
                    (p.content, p.before, p.busy) = (grown, Some(before), true)
                });
                let writer = store
                    .append(block(n, stamp, length as u64), gs(stamp + 1), 1 << 20)
                    .await?;
                Ok(Now::Open(Box::new(writer), stamp + 1))
            }
            2 => cut(store, ledger, n, stamp, rng).await,
            3 => {
                note(ledger, n, |p| p.busy = true);
                store
                    .bump_generation_stamp(id(n), gs(stamp), gs(stamp + 1))
                    .await?;
                note(ledger, n, |p| {
                    (p.busy, p.finalized) = (false, Some(stamp + 1))
                });
                Ok(Now::Closed(stamp + 1))
            }
            _ => {
                note(ledger, n, |p| p.deleting = true);
                let deleted = store.delete(id(n), gs(stamp)).await?;
                note(ledger, n, |p| p.deleted = true);
                if rng.below(2) == 0 {
                    store.collect(deleted).await?;
                }
                Ok(Now::Absent)
            }
        },
    }
}

/// Block recovery to a random length.
async fn cut(
    store: &Store,
    ledger: &Ledger,
    n: u64,
    stamp: u64,
    rng: &mut Rng,
) -> Result<Now, StoreError> {
    note(ledger, n, |p| p.busy = true);
    let info = store
        .init_recovery(id(n), gs(stamp), gs(stamp + 1))
        .await?
        .expect("here");
    let length = info.block.length;
    let to = rng.below(length + 1);
    let before = ledger.borrow()[&n].content.clone();
    note(ledger, n, |p| {
        (p.content, p.before) = (before[..to as usize].to_vec(), Some(before.clone()));
        (p.flushed, p.synced) = (p.flushed.min(to as usize), p.synced.min(to as usize));
    });
    store
        .update_recovered(id(n), gs(stamp + 1), length, to)
        .await?;
    note(ledger, n, |p| {
        (p.before, p.busy, p.finalized, p.synced) = (None, false, Some(stamp + 1), to as usize);
    });
    Ok(Now::Closed(stamp + 1))
}

/// X6 over random histories: many short lives of few blocks, a crash at a random operation, and on from there.
#[test]
fn x6_random_histories() {
    let mut crashes = 0;
    for seed in 0..1500 {
        let mut rng = Rng(seed);
        let options = kinds()[(seed % 2) as usize];
        let disk = TestDisk::default();
        let ledger = Ledger::default();
        block_on(async {
            let (store, _) = open(&disk, options).await;
            disk.inject(rng.below(150), Fault::Crash);
            let mut blocks = [Now::Absent, Now::Absent, Now::Absent];
            for _ in 0..40 {
                let n = rng.below(3);
                let now = std::mem::replace(&mut blocks[n as usize], Now::Absent);
                match step(&store, &ledger, n + 1, now, &mut rng).await {
                    Ok(next) => blocks[n as usize] = next,
                    Err(StoreError::Disk(_) | StoreError::VolumeFailed { .. }) => {
                        crashes += 1;
                        break;
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
        });
        let promises = ledger.into_inner();
        for keep in [
            Keep::All,
            Keep::Mask(0),
            Keep::Mask(rng.next()),
            Keep::Torn(seed),
            Keep::Torn(seed + 9999),
        ] {
            let case = format!("seed {seed}, {keep:?}");
            block_on(check(
                &disk.after_crash(keep),
                options,
                &promises,
                matches!(keep, Keep::All),
                &case,
            ));
        }
    }
    assert!(crashes > 700, "{crashes}");
}
