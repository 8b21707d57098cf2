//! The record under crashes, failures and rot.

use hadal_env::Disk;
use std::io::ErrorKind;
use std::path::Path;
use store_record::testing::MemDisk;
use store_record::{Contents, PAYLOAD_MAX, Record, RecordError, SLOT_LEN};

const PATH: &str = "/jn/promised";

fn fresh() -> MemDisk {
    let disk = MemDisk::new();
    disk.run(disk.create_dir_all(Path::new("/jn")))
        .unwrap()
        .unwrap();
    disk
}

async fn open(disk: &MemDisk) -> Result<(Record<MemDisk>, Contents), RecordError> {
    Record::open(disk, Path::new(PATH)).await
}

fn read(disk: &MemDisk) -> Contents {
    disk.run(open(disk)).expect("no crash").expect("no fault").1
}

fn present(payload: &[u8], sequence: u64) -> Contents {
    Contents::Present {
        payload: payload.to_vec(),
        sequence,
    }
}

/// A disk with the given stores done.
fn stored(payloads: &[&[u8]]) -> MemDisk {
    let disk = fresh();
    disk.run(async {
        let mut record = open(&disk).await.unwrap().0;
        for payload in payloads {
            record.store(payload).await.unwrap();
        }
    })
    .unwrap();
    disk
}

#[test]
fn stores_and_reads_back() {
    let disk = fresh();
    assert_eq!(read(&disk), Contents::Empty);
    assert_eq!(read(&disk), Contents::Empty, "created, never stored");
    let disk = stored(&[b"1", b"", &[7; PAYLOAD_MAX]]);
    assert_eq!(read(&disk), present(&[7; PAYLOAD_MAX], 3));
    disk.run(async {
        let (mut record, _) = open(&disk).await.unwrap();
        let refused = record.store(&[0; PAYLOAD_MAX + 1]).await;
        assert!(
            matches!(refused, Err(RecordError::TooLong { length, .. }) if length == PAYLOAD_MAX + 1)
        );
        record.store(b"still usable").await.unwrap();
    })
    .unwrap();
    assert_eq!(read(&disk), present(b"still usable", 4));
}

/// C1: every bit of the file flipped, one at a time: always the same content, and healed on disk.
#[test]
fn c1_every_flipped_bit_is_repaired() {
    let disk = stored(&[b"epoch 41", b"epoch 42"]);
    let whole = disk.content(PATH);
    assert_eq!(whole.len(), 2 * SLOT_LEN);
    for bit in 0..whole.len() * 8 {
        let rotten = disk.fork();
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        rotten.set_content(PATH, bytes);
        assert_eq!(read(&rotten), present(b"epoch 42", 2), "bit {bit}");
        assert_eq!(rotten.content(PATH), whole, "bit {bit} healed");
    }
}

/// C1: damage to both slots is never taken for "nothing was promised".
#[test]
fn c1_both_slots_damaged_is_unreadable_never_empty() {
    for payloads in [&[][..], &[b"epoch 42".as_slice()][..]] {
        let disk = stored(payloads);
        let whole = disk.content(PATH);
        for (a, b) in [(0, 0), (13, 100), (4095, 4095), (40, 16)] {
            let mut bytes = whole.clone();
            bytes[a] ^= 1;
            bytes[SLOT_LEN + b] ^= 128;
            let rotten = disk.fork();
            rotten.set_content(PATH, bytes);
            assert_eq!(read(&rotten), Contents::Unreadable);
            let refused = rotten
                .run(async { open(&rotten).await.unwrap().0.store(b"x").await })
                .unwrap();
            assert!(
                matches!(refused, Err(RecordError::Unreadable { .. })),
                "storing would hide the loss"
            );
        }
        let zeros = disk.fork();
        zeros.set_content(PATH, vec![0; 2 * SLOT_LEN]);
        assert_eq!(read(&zeros), Contents::Unreadable, "zeros are damage too");
        zeros
            .run(Record::recreate(&zeros, Path::new(PATH)))
            .unwrap()
            .unwrap();
        assert_eq!(read(&zeros), Contents::Empty, "recreated on purpose");
    }
}

/// C2: cut at every byte, and every sector overwritten by zeros, by older content, by another record.
#[test]
fn c2_cuts_and_strayed_sectors() {
    let disk = stored(&[b"epoch 42"]);
    let whole = disk.content(PATH);
    for length in 0..whole.len() {
        let cut = disk.fork();
        cut.set_content(PATH, whole[..length].to_vec());
        let expected = if length >= SLOT_LEN {
            present(b"epoch 42", 1)
        } else {
            Contents::Unreadable
        };
        assert_eq!(read(&cut), expected, "cut at {length}");
    }
    let older = stored(&[]).content(PATH);
    let other = fresh();
    other
        .run(async {
            Record::open(&other, Path::new("/jn/other"))
                .await
                .unwrap()
                .0
                .store(b"epoch 99")
                .await
        })
        .unwrap()
        .unwrap();
    for source in [
        vec![0; 2 * SLOT_LEN],
        older,
        other.content("/jn/other"),
        [&whole[SLOT_LEN..], &whole[..SLOT_LEN]].concat(),
    ] {
        for size in [512, SLOT_LEN] {
            for start in (0..whole.len()).step_by(size) {
                let mut bytes = whole.clone();
                bytes[start..start + size].copy_from_slice(&source[start..start + size]);
                let strayed = disk.fork();
                strayed.set_content(PATH, bytes);
                assert_eq!(
                    read(&strayed),
                    present(b"epoch 42", 1),
                    "{size} bytes at {start}"
                );
            }
        }
    }
}

/// X5: every operation of create, store and reopen fails once. No store is acknowledged that is not there
/// afterwards, and a failed store is final for the object.
#[test]
fn x5_fail_every_operation() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let mut k = 0;
        loop {
            let disk = fresh();
            disk.fail_in(k, kind);
            let mut acknowledged = 0;
            disk.run(async {
                let Ok((mut record, _)) = open(&disk).await else {
                    return;
                };
                for value in 1..=3u8 {
                    if record.store(&[value]).await.is_err() {
                        let again = record.store(&[9]).await;
                        assert!(
                            matches!(again, Err(RecordError::Poisoned { .. })),
                            "a failed store is final"
                        );
                        return;
                    }
                    acknowledged = value;
                }
            })
            .unwrap();
            let over = disk.failed().is_none();
            disk.heal();
            disk.each_crash(8, |disk| {
                let found = match read(&disk) {
                    Contents::Empty => 0,
                    Contents::Present { payload, .. } => payload[0],
                    Contents::Unreadable => {
                        panic!("operation {k}: a fault of the disk lost the record")
                    }
                };
                assert!(
                    found == acknowledged || found == acknowledged + 1,
                    "operation {k}: {found} after {acknowledged}"
                );
            });
            if over {
                break;
            }
            k += 1;
        }
        assert!(k > 10, "only {k} operations failed");
    }
}

/// X6: a crash in every operation, with every subset of unsynced writes kept or torn. What was acknowledged is
/// there; what was once read stays, also across a second crash and the rot of either slot.
#[test]
fn x6_crash_everywhere() {
    let mut crashes = 0;
    for k in 0.. {
        let disk = fresh();
        disk.crash_in(k);
        let acknowledged = std::cell::Cell::new(0);
        let ended = disk.run(async {
            let mut record = open(&disk).await.unwrap().0;
            for value in 1..=3u8 {
                record.store(&[value]).await.unwrap();
                acknowledged.set(value);
            }
        });
        let acknowledged = acknowledged.get();
        let value = |contents: &Contents| match contents {
            Contents::Empty => 0,
            Contents::Present { payload, .. } => payload[0],
            Contents::Unreadable => panic!("crash in operation {k} lost the record"),
        };
        let killed = disk.killed();
        let seen = value(&read(&killed));
        assert!(seen == acknowledged || seen == acknowledged + 1);
        killed.each_crash(4, |disk| {
            assert_eq!(value(&read(&disk)), seen, "killed, read, then power lost")
        });
        disk.each_crash(32, |disk| {
            crashes += 1;
            let second = disk.fork();
            let seen = value(&read(&disk));
            assert!(
                seen == acknowledged || seen == acknowledged + 1,
                "crash in operation {k}: {seen} after {acknowledged}"
            );
            for slot in [0, SLOT_LEN] {
                let rotten = disk.fork();
                let mut bytes = rotten.content(PATH);
                bytes[slot + 20] ^= 4;
                rotten.set_content(PATH, bytes);
                assert_eq!(
                    value(&read(&rotten)),
                    seen,
                    "rot of either slot rolls nothing back that was read"
                );
            }
            for again in 0..6 {
                let third = second.fork();
                third.crash_in(again);
                if third.run(open(&third)).is_none() {
                    third.each_crash(4, |disk| {
                        let later = value(&read(&disk));
                        assert!(later == acknowledged || later == acknowledged + 1);
                    });
                }
            }
        });
        if ended.is_some() {
            break;
        }
    }
    assert!(crashes > 500, "only {crashes} crashes");
}

/// A store dropped half way leaves the record poisoned, and either version on disk.
#[test]
fn abandoned_store_poisons() {
    let disk = stored(&[b"1"]);
    disk.run(async {
        let (mut record, _) = open(&disk).await.unwrap();
        {
            let mut store = std::pin::pin!(record.store(b"2"));
            std::future::poll_fn(|context| {
                assert!(store.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        assert!(matches!(
            record.store(b"3").await,
            Err(RecordError::Poisoned { .. })
        ));
    })
    .unwrap();
    assert_eq!(read(&disk), present(b"1", 1));
}
