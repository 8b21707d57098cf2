//! Images written, read, received, rotted and crashed.

use bytes::Bytes;
use hadal_env::Disk;
use hadal_types::{BlockPoolId, CURRENT_LAYOUT, ClusterId, NamespaceInfo, TxId};
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use store_fsimage::{
    CHUNK_LEN, Image, ImageCopy, ImageError, ImageInfo, ImageWriter, SectionId, list, newest,
    newest_read, retain,
};
use store_record::testing::MemDisk;

const DIRECTORY: &str = "/nn/current";
const NAMESPACE: u64 = 7;
const INODES: SectionId = SectionId(3);
const NAMES: SectionId = SectionId(1);
const EMPTY: SectionId = SectionId(2);
const LOCATIONS: SectionId = SectionId(9);

fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

fn published(txid: u64) -> PathBuf {
    directory().join(format!("fsimage_{txid:020}"))
}

fn namespace() -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: NAMESPACE,
        cluster_id: ClusterId("CID-test".to_owned()),
        block_pool_id: BlockPoolId("BP-test".to_owned()),
        created_ms: 1_700_000_000_000,
    }
}

fn new_disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.run(disk.create_dir_all(directory())).unwrap().unwrap();
    disk
}

fn run<T>(disk: &MemDisk, future: impl Future<Output = T>) -> T {
    disk.run(future).expect("no crash was asked for")
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| ((i * 131 + seed * 977) % 251) as u8)
        .collect()
}

/// Id, side, content.
type Sections = Vec<(SectionId, bool, Vec<u8>)>;

/// Section contents of the image at `txid`, in the order they are written; `size` scales them.
fn sections(txid: u64, size: usize) -> [(SectionId, bool, Vec<u8>); 4] {
    [
        (INODES, false, bytes(txid, size * 3)),
        (EMPTY, false, Vec::new()),
        (NAMES, false, bytes(txid + 1, size)),
        (LOCATIONS, true, bytes(txid + 2, size * 2)),
    ]
}

async fn write(disk: &MemDisk, txid: u64, size: usize) -> Result<ImageInfo, ImageError> {
    let mut writer = ImageWriter::create(disk, directory(), &namespace(), TxId(txid)).await?;
    for (id, side, content) in sections(txid, size) {
        writer.section(id, side);
        for piece in content.chunks(100_001) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
    }
    writer.finish().await
}

async fn read(image: &Image<MemDisk>, id: SectionId) -> Result<Vec<u8>, ImageError> {
    let mut reader = image.section(id)?;
    let mut content = Vec::new();
    while let Some(piece) = reader.next().await? {
        assert!(piece.len() <= CHUNK_LEN);
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// All in one pass, by section.
async fn read_at_once(image: &Image<MemDisk>) -> Result<Vec<(SectionId, Vec<u8>)>, ImageError> {
    let mut contents = image.contents();
    let mut all: Vec<(SectionId, Vec<u8>)> = Vec::new();
    while let Some((id, piece)) = contents.next().await? {
        assert!(piece.len() <= CHUNK_LEN);
        match all.last_mut().filter(|(last, _)| *last == id) {
            Some((_, content)) => content.extend_from_slice(&piece),
            None => all.push((id, piece.to_vec())),
        }
    }
    Ok(all)
}

async fn check_content(image: &Image<MemDisk>, txid: u64, size: usize) {
    for (id, side, content) in sections(txid, size) {
        assert_eq!(read(image, id).await.unwrap(), content, "section {id:?}");
        let info = image
            .info()
            .sections
            .iter()
            .find(|section| section.id == id)
            .unwrap();
        assert_eq!((info.side, info.length), (side, content.len() as u64));
    }
}

#[test]
fn c09_written_published_and_read_back() {
    for size in [0, 1, 500, 4096 - 16, CHUNK_LEN, CHUNK_LEN * 3 + 77] {
        let disk = new_disk();
        let info = run(&disk, write(&disk, 42, size)).unwrap();
        assert_eq!(disk.names(DIRECTORY), ["fsimage_00000000000000000042"]);
        let loaded = run(&disk, newest(&disk, directory(), NAMESPACE))
            .unwrap()
            .expect("there is one");
        assert!(loaded.skipped.is_empty());
        assert_eq!(
            loaded.image.info(),
            &info,
            "the writer and the reader agree"
        );
        assert_eq!(info.namespace, namespace());
        assert_eq!(info.length, disk.content(published(42)).len() as u64);
        run(&disk, check_content(&loaded.image, 42, size));
        let at_once = run(&disk, read_at_once(&loaded.image)).unwrap();
        let written = sections(42, size).into_iter();
        let written = written.filter(|(_, _, content)| !content.is_empty());
        assert!(
            at_once
                .into_iter()
                .eq(written.map(|(id, _, content)| (id, content)))
        );
        let missing = loaded.image.section(SectionId(77)).err();
        assert!(matches!(
            missing,
            Some(ImageError::NoSection {
                section: SectionId(77),
                ..
            })
        ));
    }
}

/// T-C2: the compared digest depends on content and not on the order of sections or on side sections.
#[test]
fn t_c2_content_digest() {
    let digests = |edit: &dyn Fn(&mut Sections)| {
        let disk = new_disk();
        run(&disk, async {
            let mut all = sections(5, 600).to_vec();
            edit(&mut all);
            let mut writer = ImageWriter::create(&disk, directory(), &namespace(), TxId(5))
                .await
                .unwrap();
            for (id, side, content) in all {
                writer.section(id, side);
                writer.write(content.into()).await.unwrap();
            }
            let info = writer.finish().await.unwrap();
            (info.content_digest, info.file_digest)
        })
    };
    let (content, file) = digests(&|_| {});
    assert_eq!(digests(&|_| {}), (content, file));
    let reordered = digests(&|all| all.reverse());
    assert!(reordered.0 == content && reordered.1 != file);
    let side = digests(&|all| all[3].2[0] ^= 1);
    assert!(side.0 == content && side.1 != file);
    assert_ne!(digests(&|all| all[0].2[0] ^= 1).0, content);
    assert_ne!(digests(&|all| all[0].2.push(0)).0, content);
    assert_ne!(digests(&|all| all[0].0 = SectionId(4)).0, content);
    let moved = digests(&|all| {
        let byte = all[2].2.pop().unwrap();
        all[0].2.push(byte);
    });
    assert_ne!(
        moved.0, content,
        "a byte on the other side of a section's border"
    );
}

/// F-15: an image of another namespace is refused, not passed over.
#[test]
fn t_n3_other_namespace_is_refused() {
    let disk = new_disk();
    run(&disk, write(&disk, 1, 10)).unwrap();
    let refused = run(&disk, newest(&disk, directory(), 8)).err();
    assert!(matches!(
        refused,
        Some(ImageError::OtherNamespace {
            found: NAMESPACE,
            expected: 8,
            ..
        })
    ));
}

/// Q23: the newest image is unreadable, the one before is taken, and it is said.
#[test]
fn q23_falls_back_and_says_so() {
    let disk = new_disk();
    assert!(
        run(&disk, newest(&disk, directory(), NAMESPACE))
            .unwrap()
            .is_none(),
        "no image is not an unreadable image"
    );
    run(&disk, write(&disk, 10, 900)).unwrap();
    run(&disk, write(&disk, 20, 900)).unwrap();
    run(&disk, write(&disk, 30, 900)).unwrap();
    let mut content = disk.content(published(30));
    content[5000] ^= 1;
    disk.set_content(published(30), content);
    disk.set_content(published(20), Vec::new());
    let loaded = run(&disk, newest(&disk, directory(), NAMESPACE))
        .unwrap()
        .unwrap();
    assert_eq!(loaded.image.info().txid, TxId(10));
    assert_eq!(
        loaded
            .skipped
            .iter()
            .map(|skipped| skipped.txid)
            .collect::<Vec<_>>(),
        [TxId(30), TxId(20)]
    );
    assert!(
        loaded.skipped[0]
            .error
            .to_string()
            .contains("image 30 is unreadable")
    );
    run(&disk, check_content(&loaded.image, 10, 900));
    disk.set_content(published(10), vec![0; 8192]);
    match run(&disk, newest(&disk, directory(), NAMESPACE)) {
        Err(ImageError::NoneReadable(skipped)) => assert_eq!(skipped.len(), 3),
        _ => panic!("nothing readable is not the same as nothing"),
    }
}

/// Retention: the newest two stay, what was left unfinished goes, a checkpoint under way is left alone.
#[test]
fn f14_retention() {
    let disk = new_disk();
    assert_eq!(run(&disk, retain(&disk, directory(), 2)).unwrap(), None);
    for txid in [10, 20, 30] {
        run(&disk, write(&disk, txid, 10)).unwrap();
    }
    run(&disk, async {
        for txid in [25, 40] {
            drop(
                ImageWriter::create(&disk, directory(), &namespace(), TxId(txid))
                    .await
                    .unwrap(),
            );
            drop(
                ImageCopy::create(&disk, directory(), TxId(txid))
                    .await
                    .unwrap(),
            );
        }
    });
    disk.set_content(directory().join("VERSION"), vec![1]);
    assert_eq!(
        run(&disk, retain(&disk, directory(), 2)).unwrap(),
        Some(TxId(20)),
        "edits above it are still needed"
    );
    let names = [
        "VERSION",
        "fsimage.ckpt_00000000000000000040",
        "fsimage.ckpt_00000000000000000040.recv",
        "fsimage_00000000000000000020",
        "fsimage_00000000000000000030",
    ];
    assert_eq!(disk.names(DIRECTORY), names);
    assert_eq!(
        run(&disk, retain(&disk, directory(), 5)).unwrap(),
        Some(TxId(20))
    );
    assert_eq!(
        run(&disk, list(&disk, directory()))
            .unwrap()
            .iter()
            .map(|image| image.txid.0)
            .collect::<Vec<_>>(),
        [30, 20]
    );
}

/// C-06: an abandoned checkpoint leaves nothing that is read, and the next one is not blocked by it.
#[test]
fn c06_abort() {
    let disk = new_disk();
    run(&disk, async {
        let mut writer = ImageWriter::create(&disk, directory(), &namespace(), TxId(7))
            .await
            .unwrap();
        writer.section(INODES, false);
        writer.write(bytes(1, 3 << 20).into()).await.unwrap();
        assert_eq!(writer.content_bytes(), 3 << 20);
        writer.abort().await.unwrap();
        assert!(disk.names(DIRECTORY).is_empty());
        let mut writer = ImageWriter::create(&disk, directory(), &namespace(), TxId(7))
            .await
            .unwrap();
        writer.section(INODES, false);
        writer.write(bytes(1, 3 << 20).into()).await.unwrap();
        drop(writer);
        assert!(
            newest(&disk, directory(), NAMESPACE)
                .await
                .unwrap()
                .is_none()
        );
        write(&disk, 7, 10).await.unwrap();
    });
    assert_eq!(disk.names(DIRECTORY), ["fsimage_00000000000000000007"]);
}

/// C-12: a received image is verified as a whole before it is published.
#[test]
fn c12_received_images() {
    let source = new_disk();
    let info = run(&source, write(&source, 9, CHUNK_LEN + 5)).unwrap();
    let whole = source.content(published(9));
    let image = run(
        &source,
        Image::open(&source, directory(), TxId(9), NAMESPACE),
    )
    .unwrap();
    let receive = |disk: &MemDisk, flipped: Option<usize>, length: usize, digest| {
        run(disk, async {
            let mut copy = ImageCopy::create(disk, directory(), TxId(9)).await?;
            while copy.offset() < length as u64 {
                let offset = usize::try_from(copy.offset()).unwrap();
                let mut piece = image
                    .read_raw(copy.offset(), 70_001.min(length - offset))
                    .await?
                    .to_vec();
                assert_eq!(piece, whole[offset..offset + piece.len()]);
                if let Some(at) = flipped.filter(|at| (offset..offset + piece.len()).contains(at)) {
                    piece[at - offset] ^= 64;
                }
                copy.write(piece.into()).await?;
            }
            copy.finish(NAMESPACE, digest).await
        })
    };
    let disk = new_disk();
    assert_eq!(
        receive(&disk, None, whole.len(), info.file_digest).unwrap(),
        info
    );
    assert_eq!(disk.content(published(9)), whole);
    for (flipped, length) in [
        (Some(100_000), whole.len()),
        (Some(40), whole.len()),
        (Some(whole.len() - 10), whole.len()),
        (None, whole.len() - 4096),
        (None, 4096),
        (None, 1000),
    ] {
        let disk = new_disk();
        let refused = receive(&disk, flipped, length, info.file_digest);
        assert!(
            matches!(refused, Err(ImageError::Damaged { .. })),
            "{refused:?}"
        );
        assert!(
            disk.names(DIRECTORY).is_empty(),
            "nothing is published, nothing is left"
        );
    }
    let disk = new_disk();
    assert!(matches!(
        receive(&disk, None, whole.len(), [1; 16]),
        Err(ImageError::OtherImage { .. })
    ));
}

/// C1, C2: every bit of an image flipped, every cut, every sector overwritten: the image is refused (in one pass, too; a fifth
/// of them), and sections read without that check give the right bytes or none.
#[test]
fn c1_c2_damage_is_seen() {
    let disk = new_disk();
    run(&disk, write(&disk, 3, 300)).unwrap();
    let whole = disk.content(published(3));
    let older = {
        let disk = new_disk();
        run(&disk, write(&disk, 2, 300)).unwrap();
        disk.content(published(2))
    };
    let tried = std::cell::Cell::new(0u32);
    let refused = |content: Vec<u8>, context: &dyn Fn() -> String| {
        let rotten = new_disk();
        rotten.set_content(published(3), content);
        run(&rotten, async {
            assert!(
                matches!(
                    newest(&rotten, directory(), NAMESPACE).await,
                    Err(ImageError::NoneReadable(_))
                ),
                "{} went unnoticed",
                context()
            );
            tried.set(tried.get() + 1);
            if tried.get().is_multiple_of(5) {
                let at_once = async |image: Image<MemDisk>| read_at_once(&image).await.map(drop);
                assert!(
                    matches!(
                        newest_read(&rotten, directory(), NAMESPACE, at_once).await,
                        Err(ImageError::NoneReadable(_))
                    ),
                    "{} went unnoticed in one pass",
                    context()
                );
            }
            if let Ok(image) = Image::open(&rotten, directory(), TxId(3), NAMESPACE).await {
                for (id, _, content) in sections(3, 300) {
                    if let Ok(served) = read(&image, id).await {
                        assert_eq!(served, content, "{}: wrong bytes of {id:?}", context());
                    }
                }
            }
        });
    };
    for bit in 0..whole.len() * 8 {
        let mut content = whole.clone();
        content[bit / 8] ^= 1 << (bit % 8);
        refused(content, &|| format!("flip of bit {bit}"));
    }
    for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        refused(whole[..length].to_vec(), &|| format!("cut at {length}"));
    }
    refused([&whole[..], &[0; 4096]].concat(), &|| "longer".to_owned());
    for at in (0..whole.len()).step_by(512) {
        for source in [&vec![0; whole.len()], &older] {
            let mut content = whole.clone();
            content[at..at + 512].copy_from_slice(&source[at..at + 512]);
            if content != whole {
                refused(content, &|| format!("sector at {at}"));
            }
        }
    }
    refused(older.clone(), &|| {
        "an older image under a newer name".to_owned()
    });
}

/// X5, X6: a disk that fails or loses power in every operation of a checkpoint and its publication. The image before
/// stays readable; the new one is there when that was reported, and whole whenever its name is.
#[test]
fn x5_x6_publication() {
    let size = CHUNK_LEN / 2 + 1000;
    let before = new_disk();
    run(&before, write(&before, 10, size)).unwrap();
    let checkpoint = async |disk: &MemDisk| {
        write(disk, 20, size).await?;
        retain(disk, directory(), 1).await?;
        Ok::<_, ImageError>(())
    };
    let check = |disk: &MemDisk, reported: bool, context: &str| {
        let loaded = run(disk, newest(disk, directory(), NAMESPACE))
            .unwrap()
            .expect("never without an image");
        assert!(
            loaded.skipped.is_empty(),
            "{context}: published and not whole: {:?}",
            loaded.skipped
        );
        let txid = loaded.image.info().txid.0;
        assert!(
            txid == 20 || (txid == 10 && !reported),
            "{context}: image {txid}"
        );
        run(disk, check_content(&loaded.image, txid, size));
        run(disk, checkpoint(disk)).expect("the next checkpoint is not blocked");
        assert_eq!(disk.names(DIRECTORY), ["fsimage_00000000000000000020"]);
    };
    let (mut failures, mut crashes) = (0, 0);
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        for k in 0.. {
            let disk = before.fork();
            disk.fail_in(k, kind);
            let result = run(&disk, checkpoint(&disk));
            let Some(op) = disk.failed() else { break };
            failures += 1;
            assert!(
                result.is_err(),
                "operation {k} ({op:?}) failed and nobody said so"
            );
            disk.heal();
            check(
                &disk.killed(),
                false,
                &format!("operation {k} ({op:?}) failed"),
            );
            check(
                &disk.crashed_torn(k),
                false,
                &format!("operation {k} ({op:?}) failed, then power lost"),
            );
        }
    }
    for k in 0.. {
        let disk = before.fork();
        disk.crash_in(k);
        let mut reported = false;
        let ended = disk.run(async {
            write(&disk, 20, size).await.unwrap();
            reported = true;
            retain(&disk, directory(), 1).await.unwrap();
        });
        check(
            &disk.killed(),
            reported,
            &format!("killed in operation {k}"),
        );
        disk.each_crash(4, |disk| {
            crashes += 1;
            check(&disk, reported, &format!("crash in operation {k}"));
        });
        if ended.is_some() {
            break;
        }
    }
    assert!(
        failures > 20 && crashes > 80,
        "{failures} failures, {crashes} crashes"
    );
}
