//! Files of a shard, on a real file system.

mod common;

use bytes::Bytes;
use common::{dir, on_shard};
use futures_util::FutureExt;
use futures_util::future::join_all;
use hadal_env::{ALIGN, Disk, DiskOp, File, OpenOptions};
use hadal_shard::{ShardBuf, ShardDisk, ShardFile, ShardOptions, mailbox, run_on_this_thread};
use std::io::ErrorKind;
use std::path::Path;

async fn filled(disk: &ShardDisk, bytes: usize, byte: u8) -> ShardBuf {
    let mut buf = disk.buf(bytes).await;
    buf.as_mut().fill(byte);
    buf
}

async fn write(disk: &ShardDisk, file: &ShardFile, bytes: usize, byte: u8, offset: u64) {
    let buf = filled(disk, bytes, byte).await;
    file.write_at(buf, 0..bytes, offset).await.0.unwrap();
}

async fn read(disk: &ShardDisk, file: &ShardFile, bytes: usize, offset: u64) -> Vec<u8> {
    let buf = filled(disk, bytes, 0xEE).await;
    let (count, buf) = file.read_at(buf, 0..bytes, offset).await;
    buf.as_ref()[..count.unwrap()].to_vec()
}

#[test]
fn what_is_written_directly_and_durably_is_read_back() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("data"));
        let file = disk
            .open(&path, OpenOptions::create_new().direct().dsync())
            .await
            .unwrap();
        let writes =
            (0..64u8).map(|unit| write(disk, &file, ALIGN, unit, u64::from(unit) * ALIGN as u64));
        join_all(writes).await;
        file.sync_data().await.unwrap();
        disk.sync_dir(dir.path()).await.unwrap();
        assert_eq!(file.length().await.unwrap(), 64 * ALIGN as u64);

        let again = disk
            .open(&path, OpenOptions::read().direct())
            .await
            .unwrap();
        let all = read(disk, &again, 64 * ALIGN, 0).await;
        assert!(
            all.chunks(ALIGN)
                .zip(0u8..)
                .all(|(unit, byte)| unit.iter().all(|got| *got == byte))
        );
    });
}

#[test]
fn a_read_is_short_only_at_the_end_of_the_file() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("data"));
        let file = disk.open(&path, OpenOptions::create()).await.unwrap();
        write(disk, &file, 5000, 7, 0).await;
        for options in [OpenOptions::read(), OpenOptions::read().direct()] {
            let file = disk.open(&path, options).await.unwrap();
            assert_eq!(read(disk, &file, 3 * ALIGN, 0).await, vec![7; 5000]);
            assert_eq!(
                read(disk, &file, ALIGN, ALIGN as u64).await,
                vec![7; 5000 - ALIGN]
            );
            assert!(read(disk, &file, ALIGN, 2 * ALIGN as u64).await.is_empty());
        }
    });
}

#[test]
fn a_range_of_the_buffer_is_what_moves() {
    let dir = dir();
    on_shard(async |shard| {
        let disk = shard.disk();
        let file = disk
            .open(&dir.path().join("data"), OpenOptions::create())
            .await
            .unwrap();
        let mut buf = filled(disk, ALIGN, 1).await;
        buf.as_mut()[10..20].fill(2);
        let (result, buf) = file.write_at(buf, 10..20, 3).await;
        result.unwrap();
        let (result, mut buf) = file.write_at(buf, 5..5, 1000).await;
        result.unwrap();
        assert_eq!(file.length().await.unwrap(), 13);
        buf.as_mut().fill(9);
        let (count, buf) = file.read_at(buf, 100..200, 0).await;
        assert_eq!(count.unwrap(), 13);
        assert_eq!(
            buf.as_ref()[99..114],
            [9, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 9]
        );
    });
}

#[test]
fn misaligned_direct_io_and_ranges_outside_the_buffer_are_refused_by_name() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("data"));
        let direct = disk
            .open(&path, OpenOptions::create().direct())
            .await
            .unwrap();
        for (range, offset) in [(0..100, 0), (0..ALIGN, 1), (512..ALIGN + 512, 0)] {
            let (result, buf) = direct
                .write_at(disk.buf(2 * ALIGN).await, range.clone(), offset)
                .await;
            let error = result.unwrap_err();
            assert_eq!(
                (error.op, error.source.kind()),
                (DiskOp::Write, ErrorKind::InvalidInput)
            );
            assert!(
                error.to_string().contains("not aligned to 4096 bytes"),
                "{error}"
            );
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
            assert!(direct.read_at(buf, range, offset).await.0.is_err());
        }
        let buffered = disk.open(&path, OpenOptions::write()).await.unwrap();
        let (result, buf) = buffered
            .write_at(disk.buf(ALIGN).await, 0..ALIGN + 1, 0)
            .await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("does not lie within the buffer")
        );
        let (result, _) = buffered.write_at(buf, 0..ALIGN, u64::MAX - 1).await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("past the largest file")
        );
        assert_eq!(buffered.length().await.unwrap(), 0);
    });
}

#[test]
fn a_full_file_system_is_told_apart() {
    on_shard(async |shard| {
        let disk = shard.disk();
        let file = disk
            .open(Path::new("/dev/full"), OpenOptions::write())
            .await
            .unwrap();
        let (result, _) = file
            .write_at(filled(disk, ALIGN, 1).await, 0..ALIGN, 0)
            .await;
        let error = result.unwrap_err();
        assert!(error.is_full(), "{error}");
    });
}

#[test]
fn a_file_system_without_direct_io_is_named_as_the_cause() {
    on_shard(async |shard| {
        let opened = shard
            .disk()
            .open(Path::new("/proc/self/status"), OpenOptions::read().direct())
            .await;
        let error = opened.map(drop).unwrap_err();
        assert_eq!(error.source.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("O_DIRECT"), "{error}");
    });
}

#[test]
fn opening_creates_when_it_should_and_only_then() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("data"));
        assert!(
            disk.open(&path, OpenOptions::write())
                .await
                .map(drop)
                .unwrap_err()
                .is_not_found()
        );
        assert!(!disk.exists(&path).await.unwrap());
        let file = disk.open(&path, OpenOptions::create_new()).await.unwrap();
        write(disk, &file, 10, 1, 0).await;
        let error = disk
            .open(&path, OpenOptions::create_new())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(
            (error.op, error.source.kind()),
            (DiskOp::Open, ErrorKind::AlreadyExists)
        );
        // Opening again keeps the content.
        let file = disk.open(&path, OpenOptions::create()).await.unwrap();
        assert_eq!(file.length().await.unwrap(), 10);
        let file = disk.open(&path, OpenOptions::read()).await.unwrap();
        let (result, _) = file.write_at(disk.buf(1).await, 0..1, 0).await;
        assert_eq!(result.unwrap_err().op, DiskOp::Write);
    });
}

#[test]
fn reserved_space_reads_as_zero_and_truncation_cuts() {
    let dir = dir();
    on_shard(async |shard| {
        let disk = shard.disk();
        let file = disk
            .open(&dir.path().join("data"), OpenOptions::create().direct())
            .await
            .unwrap();
        write(disk, &file, ALIGN, 1, 0).await;
        file.allocate(0, 3 * ALIGN as u64).await.unwrap();
        file.allocate(0, 0).await.unwrap();
        assert_eq!(file.length().await.unwrap(), 3 * ALIGN as u64);
        let all = read(disk, &file, 4 * ALIGN, 0).await;
        assert_eq!(all.len(), 3 * ALIGN);
        assert!(
            all[..ALIGN].iter().all(|byte| *byte == 1)
                && all[ALIGN..].iter().all(|byte| *byte == 0)
        );
        file.truncate(ALIGN as u64).await.unwrap();
        assert_eq!(read(disk, &file, 4 * ALIGN, 0).await, vec![1; ALIGN]);
        let read_only = disk
            .open(&dir.path().join("data"), OpenOptions::read())
            .await
            .unwrap();
        assert_eq!(
            read_only.truncate(0).await.unwrap_err().op,
            DiskOp::Truncate
        );
    });
}

#[test]
fn directories_are_made_listed_renamed_and_removed() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, deep) = (shard.disk(), dir.path().join("a/b/c"));
        disk.create_dir_all(&deep).await.unwrap();
        disk.create_dir_all(&deep).await.unwrap();
        for (name, bytes) in [("zeta", 3), ("alpha", 5)] {
            let file = disk
                .open(&deep.join(name), OpenOptions::create())
                .await
                .unwrap();
            write(disk, &file, bytes, 1, 0).await;
        }
        disk.create_dir_all(&deep.join("middle")).await.unwrap();
        let listed = |entries: Vec<hadal_env::DirEntry>| {
            entries
                .into_iter()
                .map(|e| (e.name, e.is_dir, e.length))
                .collect::<Vec<_>>()
        };
        let expected = [("alpha", false, 5), ("middle", true, 0), ("zeta", false, 3)];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, is_dir, length)| (name.to_owned(), is_dir, length))
            .collect();
        assert_eq!(listed(disk.read_dir(&deep).await.unwrap()), expected);

        disk.rename(&deep.join("alpha"), &deep.join("zeta"))
            .await
            .unwrap();
        assert!(
            disk.rename(&deep.join("alpha"), &deep.join("x"))
                .await
                .unwrap_err()
                .is_not_found()
        );
        disk.sync_dir(&deep).await.unwrap();
        assert_eq!(
            listed(disk.read_dir(&deep).await.unwrap()),
            [
                ("middle".to_owned(), true, 0),
                ("zeta".to_owned(), false, 5)
            ]
        );

        disk.remove_file(&deep.join("zeta")).await.unwrap();
        assert!(
            disk.remove_file(&deep.join("zeta"))
                .await
                .unwrap_err()
                .is_not_found()
        );
        disk.remove_dir_all(&dir.path().join("a")).await.unwrap();
        assert!(disk.read_dir(&deep).await.unwrap_err().is_not_found());
        assert!(disk.sync_dir(&deep).await.unwrap_err().is_not_found());

        let blocked = dir.path().join("file");
        disk.open(&blocked, OpenOptions::create())
            .await
            .map(drop)
            .unwrap();
        assert_eq!(
            disk.create_dir_all(&blocked.join("x"))
                .await
                .unwrap_err()
                .op,
            DiskOp::Directory
        );

        let space = disk.space(dir.path()).await.unwrap();
        assert!(space.available <= space.capacity && space.capacity > 0);
    });
}

#[test]
fn a_locked_directory_is_refused_to_a_second_opener() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("in_use.lock"));
        let held = disk.lock(&path).await.unwrap();
        assert!(disk.lock(&path).await.map(drop).unwrap_err().is_locked());
        drop(held);
        disk.lock(&path).await.map(drop).unwrap();
    });
}

#[test]
fn at_the_bound_of_the_pool_a_task_waits_until_another_thread_drops_the_bytes() {
    let options = ShardOptions::new("small").buffer_pool_bytes(2 << 20);
    run_on_this_thread(options, async |shard| {
        let (disk, pool) = (shard.disk().clone(), shard.disk().pool().clone());
        let owner = filled(&disk, 2 << 20, 5).await;
        let bytes = Bytes::from_owner(owner).slice(100..200);
        let mut waiting = Box::pin(disk.buf(2 * ALIGN));
        assert!((&mut waiting).now_or_never().is_none());

        let (sender, mut receiver) = mailbox::mailbox::<Bytes>(1);
        let consumer = std::thread::spawn(move || {
            let bytes = receive(&mut receiver);
            assert_eq!(bytes.as_ref(), [5; 100]);
        });
        sender.send(bytes).await.unwrap();
        let buf = waiting.await;
        assert_eq!(pool.used_bytes(), 64 << 10, "of that class");
        drop(buf);
        consumer.join().unwrap();
        assert_eq!(pool.used_bytes(), 0);
    })
    .unwrap();
}

/// Receives on a thread that has no runtime.
fn receive(receiver: &mut mailbox::Receiver<Bytes>) -> Bytes {
    loop {
        if let Some(bytes) = receiver.try_recv() {
            return bytes;
        }
        std::thread::yield_now();
    }
}

#[test]
fn the_buffer_of_a_dropped_operation_comes_back_when_the_kernel_is_done_with_it() {
    let dir = dir();
    on_shard(async |shard| {
        let (disk, path) = (shard.disk(), dir.path().join("data"));
        let file = disk
            .open(&path, OpenOptions::create().direct())
            .await
            .unwrap();
        let whole = 1 << 20;
        let dropped = file
            .write_at(filled(disk, whole, 3).await, 0..whole, 0)
            .now_or_never();
        assert!(
            dropped.is_none(),
            "a direct write of 1 MiB is not done at once"
        );
        // The dropped write may land or not; its buffer must not be handed out before that is decided.
        assert_eq!(disk.pool().used_bytes(), whole);
        while disk.pool().used_bytes() > 0 {
            // Drives the ring, so that it hears of completions.
            file.sync_data().await.unwrap();
        }
        let got = read(disk, &file, whole, 0).await;
        assert!(got.iter().all(|byte| *byte == 3));
    });
}
