//! T-J1..T-J13: one JournalNode.

use crate::world::{World, digest_before, framing, info, name};
use hadal_proto::qjournal::{BatchHead, Call, CommitMark, LogDigest, Promise, Response, Standing};
use hadal_proto::{Fault, FaultClass};
use hadal_qjournal::acceptor::{Output, StreamKey};
use hadal_types::{Epoch, NamespaceInfo, TxId};

fn new_epoch(world: &mut World, epoch: u64) -> Result<Promise, Fault> {
    let call = Call::NewEpoch {
        info: info(),
        epoch: Epoch(epoch),
        claim: world.writers.len() as u64 * 1000 + world.counts.len() as u64 + epoch,
    };
    claim(world, call)
}

fn claim(world: &mut World, call: Call) -> Result<Promise, Fault> {
    match world.call(0, call)? {
        Response::Promised { promise } => Ok(promise),
        other => panic!("{other:?}"),
    }
}

fn start(world: &mut World, epoch: u64, first: u64) -> Result<(), Fault> {
    let digest_before = digest_before(first);
    world
        .call(
            0,
            Call::StartSegment {
                epoch: Epoch(epoch),
                first: TxId(first),
                digest_before,
            },
        )
        .map(|_| ())
}

/// Sends one batch; the txid acknowledged.
fn send(
    world: &mut World,
    epoch: u64,
    segment: u64,
    first: u64,
    count: u64,
    committed: CommitMark,
) -> Result<u64, Fault> {
    let mut records = Vec::new();
    for txid in first..first + count {
        records.extend_from_slice(&framing::frame(Epoch(epoch), TxId(txid), b"op"));
    }
    let records = bytes::Bytes::from(records);
    let before = world
        .acceptor(0)
        .segments()
        .find(|s| s.first == TxId(segment))
        .map_or(LogDigest::default(), |s| s.digest_end);
    let digest_end = framing::digest(before, TxId(first), &records).unwrap().1;
    let head = BatchHead {
        epoch: Epoch(epoch),
        segment: TxId(segment),
        first: TxId(first),
        count: count as u32,
        committed,
        digest_end,
    };
    world.frame(0, StreamKey(1), &head, records)
}

fn finalize(world: &mut World, epoch: u64, first: u64, last: u64) -> Result<(), Fault> {
    let digest = world
        .acceptor(0)
        .segments()
        .find(|s| s.first == TxId(first))
        .map_or(LogDigest::default(), |s| s.digest_end);
    let call = Call::FinalizeSegment {
        epoch: Epoch(epoch),
        first: TxId(first),
        last: TxId(last),
        digest,
    };
    world.call(0, call).map(|_| ())
}

fn none() -> CommitMark {
    CommitMark::default()
}

/// T-J1, F-04.
#[test]
fn t_j1_epochs_only_rise() {
    let mut world = World::new(1);
    assert_eq!(new_epoch(&mut world, 1).unwrap().epoch, Epoch(1));
    assert_eq!(new_epoch(&mut world, 3).unwrap().epoch, Epoch(3));
    let call = Call::NewEpoch {
        info: info(),
        epoch: Epoch(3),
        claim: 999,
    };
    let fault = claim(&mut world, call).unwrap_err();
    assert_eq!((fault.class, fault.value), (FaultClass::Fenced, 3));
    assert!(fault.message.contains("proposed epoch 3 <= last promise 3"));
    assert_eq!(world.promised(0), Epoch(3));
}

/// A claimant whose answer was lost may ask again; it is the same promise.
#[test]
fn promise_is_repeated_to_its_claimant_only() {
    let mut world = World::new(1);
    let call = |claim| Call::NewEpoch {
        info: info(),
        epoch: Epoch(4),
        claim,
    };
    claim(&mut world, call(1)).unwrap();
    claim(&mut world, call(1)).unwrap();
    claim(&mut world, call(2)).unwrap_err();
    world.restart(0);
    claim(&mut world, call(1)).unwrap();
    claim(&mut world, call(2)).unwrap_err();
}

/// T-J2, D-04, F-04.
#[test]
fn t_j2_lower_epochs_write_nothing() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 1, none()).unwrap();
    new_epoch(&mut world, 3).unwrap();
    let before = world.nodes[0].disk.clone();
    for fault in [
        start(&mut world, 1, 2).unwrap_err(),
        send(&mut world, 1, 1, 2, 1, none()).unwrap_err(),
        finalize(&mut world, 1, 1, 1).unwrap_err(),
    ] {
        assert_eq!((fault.class, fault.value), (FaultClass::Fenced, 3));
        assert!(fault.message.contains("epoch 1") && fault.message.contains("epoch 3"));
    }
    assert_eq!(world.nodes[0].disk, before, "nothing written");
}

/// T-J3; and what a mark is worth when its digest is another one.
#[test]
fn t_j3_committed_txid() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 3, none()).unwrap();
    assert_eq!(world.acceptor(0).committed().txid, TxId(0));
    let digest = world.acceptor(0).segments().next().unwrap().digest_end;
    let mark = CommitMark {
        txid: TxId(3),
        digest,
    };
    send(&mut world, 1, 1, 4, 3, mark).unwrap();
    assert_eq!(world.acceptor(0).committed(), mark);
    let wrong = CommitMark {
        txid: TxId(6),
        digest: LogDigest([1; 16]),
    };
    let epoch = Epoch(1);
    let call = Call::CommitMark { epoch, mark: wrong };
    world.call(0, call).unwrap();
    assert_eq!(world.acceptor(0).committed(), mark, "another log's mark");
    let Ok(Response::State { state }) = world.call(0, Call::GetState) else {
        panic!("state");
    };
    assert_eq!(state.committed.txid, TxId(6), "though it is known");
}

/// T-J4.
#[test]
fn t_j4_restart_keeps_promises() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 2, none()).unwrap();
    let uuid = world.acceptor(0).record().uuid;
    let count = world.acceptor(0).record().count;
    world.restart(0);
    assert_eq!(world.promised(0), Epoch(1));
    assert_eq!(world.acceptor(0).record().uuid, uuid);
    assert!(world.acceptor(0).record().count > count);
    let promise = new_epoch(&mut world, 2).unwrap();
    assert_eq!(promise.last_segment, Some(TxId(1)));
}

/// T-J5.
#[test]
fn t_j5_format_forgets() {
    let mut world = World::new(1);
    new_epoch(&mut world, 12345).unwrap();
    start(&mut world, 12345, 1).unwrap();
    let other = NamespaceInfo {
        namespace_id: 8,
        ..info()
    };
    let format = |force| Call::Format {
        info: other.clone(),
        initial: true,
        force,
    };
    let fault = world.call(0, format(false)).unwrap_err();
    assert_eq!(fault.class, FaultClass::AlreadyExists);
    let uuid = world.acceptor(0).record().uuid;
    world.call(0, format(true)).unwrap();
    for _ in 0..2 {
        let record = world.acceptor(0).record();
        assert_eq!((record.promised, record.writer), (Epoch(0), Epoch(0)));
        assert_ne!(record.uuid, uuid);
        assert_eq!(world.acceptor(0).segments().count(), 0);
        world.restart(0);
    }
}

/// T-J6.
#[test]
fn t_j6_empty_segment_does_not_count() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 2, none()).unwrap();
    finalize(&mut world, 1, 1, 2).unwrap();
    start(&mut world, 1, 3).unwrap();
    let promise = new_epoch(&mut world, 2).unwrap();
    assert_eq!(promise.last_segment, Some(TxId(1)));
}

/// T-J8, T-J9.
#[test]
fn t_j8_t_j9_finalise_needs_all_of_it() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 3, none()).unwrap();
    for _ in 0..2 {
        let fault = finalize(&mut world, 1, 1, 6).unwrap_err();
        assert_eq!((fault.class, fault.value), (FaultClass::OutOfSync, 4));
        assert!(fault.message.contains("only written up to 3"));
        world.restart(0);
    }
    let fault = finalize(&mut world, 1, 1000, 1001).unwrap_err();
    assert_eq!(fault.class, FaultClass::NotFound);
    finalize(&mut world, 1, 1, 3).unwrap();
    finalize(&mut world, 1, 1, 3).expect("may be repeated");
    assert!(finalize(&mut world, 1, 1, 2).is_err());
}

/// T-J10.
#[test]
fn t_j10_segment_may_start_while_older_ones_are_unfinished() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    send(&mut world, 1, 1, 1, 3, none()).unwrap();
    let fault = send(&mut world, 1, 1, 6, 1, none()).unwrap_err();
    assert_eq!((fault.class, fault.value), (FaultClass::OutOfSync, 4));
    start(&mut world, 1, 6).unwrap();
    assert_eq!(send(&mut world, 1, 6, 6, 3, none()).unwrap(), 8);
    let disk = &world.nodes[0].disk;
    let segments: Vec<_> = disk
        .segments
        .values()
        .map(|s| (s.first.0, s.last().0, s.finalized))
        .collect();
    assert_eq!(segments, [(1, 3, false), (6, 8, false)]);
    // What may be missing is never served as if it were not (Q21).
    let call = Call::ReadEdits {
        from: TxId(4),
        max_bytes: 1000,
        durable: false,
    };
    let fault = world.call(0, call).unwrap_err();
    assert_eq!(fault.class, FaultClass::NotFound);
}

/// T-J11, R8.
#[test]
fn t_j11_starting_again() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    start(&mut world, 1, 1).expect("while it is empty");
    send(&mut world, 1, 1, 1, 2, none()).unwrap();
    let fault = start(&mut world, 1, 1).unwrap_err();
    assert_eq!(fault.class, FaultClass::AlreadyExists);
    new_epoch(&mut world, 2).unwrap();
    start(&mut world, 2, 1).expect("a newer writer that found the edits void");
    assert_eq!(world.ends(), [0]);
    send(&mut world, 2, 1, 1, 2, none()).unwrap();
    finalize(&mut world, 2, 1, 2).unwrap();
    new_epoch(&mut world, 3).unwrap();
    start(&mut world, 3, 1).unwrap_err();
}

/// T-J12.
#[test]
fn t_j12_other_namespaces_are_refused() {
    let mut world = World::new(1);
    let mut other = info();
    other.namespace_id = 8;
    let call = Call::NewEpoch {
        info: other,
        epoch: Epoch(1),
        claim: 1,
    };
    let fault = claim(&mut world, call).unwrap_err();
    assert_eq!(fault.class, FaultClass::IdentityMismatch);
    assert!(fault.message.contains("incompatible namespace"));
    let mut other = info();
    other.cluster_id.0 = "CID-other".into();
    let call = Call::NewEpoch {
        info: other,
        epoch: Epoch(1),
        claim: 1,
    };
    claim(&mut world, call).unwrap_err();
    assert_eq!(world.promised(0), Epoch(0));
}

/// T-J13: a record is only a length and a checksum to a JournalNode; what an op means is not its business.
#[test]
fn t_j13_ops_of_the_future() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    let records = framing::frame(Epoch(1), TxId(1), &[0xff; 300]);
    let digest_end = framing::digest(LogDigest::default(), TxId(1), &records)
        .unwrap()
        .1;
    let head = BatchHead {
        epoch: Epoch(1),
        segment: TxId(1),
        first: TxId(1),
        count: 1,
        committed: none(),
        digest_end,
    };
    assert_eq!(world.frame(0, StreamKey(1), &head, records).unwrap(), 1);
    world.restart(0);
    finalize(&mut world, 1, 1, 1).unwrap();
}

/// A batch whose bytes or digest are wrong is refused, and nothing of it is written.
#[test]
fn damaged_batches_are_refused() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    let records = framing::frame(Epoch(1), TxId(1), b"op");
    let digest_end = framing::digest(LogDigest::default(), TxId(1), &records)
        .unwrap()
        .1;
    let head = BatchHead {
        epoch: Epoch(1),
        segment: TxId(1),
        first: TxId(1),
        count: 1,
        committed: none(),
        digest_end,
    };
    for at in 0..records.len() {
        let mut damaged = records.to_vec();
        damaged[at] ^= 0x10;
        let fault = world
            .frame(0, StreamKey(1), &head, damaged.into())
            .unwrap_err();
        assert_eq!(fault.class, FaultClass::Corrupt);
    }
    let fewer = BatchHead { count: 2, ..head };
    world
        .frame(0, StreamKey(1), &fewer, records.clone())
        .unwrap_err();
    let other = BatchHead {
        digest_end: LogDigest([1; 16]),
        ..head
    };
    world
        .frame(0, StreamKey(1), &other, records.clone())
        .unwrap_err();
    assert_eq!(world.ends(), [0]);
    world.frame(0, StreamKey(1), &head, records).unwrap();
}

/// After promising e, no ack of a lower epoch leaves, also for a write that was on its way; and no answer leaves
/// before what it says is durable.
#[test]
fn acks_wait_for_the_disk_and_for_no_newer_promise() {
    let mut world = World::new(1);
    new_epoch(&mut world, 1).unwrap();
    start(&mut world, 1, 1).unwrap();
    let records = framing::frame(Epoch(1), TxId(1), b"op");
    let digest_end = framing::digest(LogDigest::default(), TxId(1), &records)
        .unwrap()
        .1;
    let head = BatchHead {
        epoch: Epoch(1),
        segment: TxId(1),
        first: TxId(1),
        count: 1,
        committed: none(),
        digest_end,
    };
    let now = world.now;
    let mut acceptor = world.acceptor(0).clone();
    acceptor.handle_batch(now, StreamKey(1), 0, &head, records);
    let Some(Output::Store { write, .. }) = acceptor.poll_output() else {
        panic!("an append");
    };
    assert_eq!(
        acceptor.poll_output(),
        None,
        "no ack before the disk has it"
    );
    let request = hadal_proto::qjournal::Request {
        namespace_id: info().namespace_id,
        call: Call::NewEpoch {
            info: info(),
            epoch: Epoch(2),
            claim: 5,
        },
    };
    acceptor.handle_call(now, &crate::world::namenode(), request);
    let Some(Output::Store { write: promise, .. }) = acceptor.poll_output() else {
        panic!("a promise");
    };
    assert_eq!(acceptor.poll_output(), None);
    acceptor.handle_stored(now, write, Ok(()));
    match acceptor.poll_output() {
        Some(Output::Ack { ack, .. }) => {
            assert_eq!(ack.fault.unwrap().class, FaultClass::Fenced);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        acceptor.poll_output(),
        None,
        "no promise before the disk has it"
    );
    acceptor.handle_stored(now, promise, Ok(()));
    match acceptor.poll_output() {
        Some(Output::Reply { outcome, .. }) => {
            let Ok(Response::Promised { promise }) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(
                promise.last_segment,
                Some(TxId(1)),
                "the write was ordered before"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// P10: a failed write stops the node; nothing that waited for it is ever said.
#[test]
fn failed_disk_stops() {
    let world = World::new(1);
    let now = world.now;
    let mut acceptor = world.acceptor(0).clone();
    let call = Call::NewEpoch {
        info: info(),
        epoch: Epoch(2),
        claim: 5,
    };
    let request = hadal_proto::qjournal::Request {
        namespace_id: info().namespace_id,
        call,
    };
    acceptor.handle_call(now, &crate::world::namenode(), request.clone());
    let Some(Output::Store { write, .. }) = acceptor.poll_output() else {
        panic!("a promise");
    };
    acceptor.handle_stored(now, write, Err("sync failed".into()));
    assert!(matches!(acceptor.poll_output(), Some(Output::Stop { .. })));
    assert_eq!(acceptor.poll_output(), None);
    acceptor.handle_call(now, &crate::world::namenode(), request);
    match acceptor.poll_output() {
        Some(Output::Reply { outcome, .. }) => {
            assert_eq!(outcome.unwrap_err().class, FaultClass::DiskFailed);
        }
        other => panic!("{other:?}"),
    }
}

/// Q16: an unformatted node says so, and joins as a learner, which votes for nothing.
#[test]
fn wiped_node_is_a_learner() {
    let mut world = World::new(1);
    world.wipe(0);
    let fault = new_epoch(&mut world, 1).unwrap_err();
    assert!(fault.message.contains("not formatted"), "{fault}");
    let call = Call::Format {
        info: info(),
        initial: false,
        force: false,
    };
    world.call(0, call).unwrap();
    for _ in 0..2 {
        assert_eq!(world.acceptor(0).standing(), Standing::Learner);
        let fault = new_epoch(&mut world, 1).unwrap_err();
        assert_eq!(fault.class, FaultClass::Learner);
        assert!(fault.message.contains("learner"), "{fault}");
        start(&mut world, 0, 1).unwrap_err();
        world.restart(0);
    }
    let w = world.writer();
    let error = world.claim(w).unwrap_err();
    assert!(
        error.to_string().contains(&format!("{}: learner", name(0))),
        "{error}"
    );
}
