//! Images read on several threads: the same namespace, the same map, the same refusals.

use crate::datanode::Node;
use crate::locations::{Chunks, load, root_of};
use crate::support::{World, config};
use hadal_blocks::BlockConfig;
use hadal_namesystem::{
    ChunkDone, ImageError, ImageLoader, ImageSource, Loaded, Namesystem, Section,
};
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{
    Block, BlockId, CallId, ClientId, DatanodeUuid, GenerationStamp, InodeId, StorageUuid, Tick,
};
use std::collections::{BTreeMap, VecDeque};
use std::thread::JoinHandle;

const FILES: u64 = 50_000;
const STORAGES: u64 = 6;
/// Files of the one large directory, in more records and chunks than one.
const LARGE: u64 = 40_000;
const NOW: Tick = Tick::from_ms(1_000);

/// On threads of their own, a few pieces under way.
fn load_on_threads(chunks: &Chunks) -> Result<Loaded, ImageError> {
    type UnderWay = VecDeque<JoinHandle<ChunkDone>>;
    fn settle(loader: &mut ImageLoader, all: &mut UnderWay, most: usize) -> Result<(), ImageError> {
        while all.len() > most {
            let done = all.pop_front().expect("some are under way");
            loader.take(done.join().expect("no panic"))?;
        }
        Ok(())
    }
    let (mut loader, mut all) = (ImageLoader::new(&config()), UnderWay::new());
    let mut at = Section::Header;
    for (section, chunk) in chunks {
        if *section != at {
            settle(&mut loader, &mut all, 0)?;
            at = *section;
        }
        if let Some(work) = loader.begin(*section, chunk.clone())? {
            all.push_back(std::thread::spawn(move || work.run()));
            settle(&mut loader, &mut all, 3)?;
        }
    }
    settle(&mut loader, &mut all, 0)?;
    for work in loader.end()? {
        all.push_back(std::thread::spawn(move || work.run()));
    }
    settle(&mut loader, &mut all, 0)?;
    loader.finish()
}

/// The map's partitions in order, last first, on another thread each.
fn sort_on_threads(ns: &mut Namesystem) {
    let threads: Vec<_> = ns
        .sorting()
        .into_iter()
        .map(|sorting| std::thread::spawn(move || sorting.run()))
        .collect();
    for thread in threads.into_iter().rev() {
        ns.sorted(thread.join().expect("no panic"));
    }
}

fn block(id: u64) -> Block {
    Block {
        id: BlockId((1 << 30) + 1 + id),
        generation_stamp: GenerationStamp(1_001 + id),
        length: 1 + id % 1_024,
    }
}

/// What an image knows beside the namespace: by file its blocks and their storages.
type Known = BTreeMap<u64, Vec<(Block, Vec<u64>)>>;

/// Files of no, one and two blocks, some of them open, and where they are: no replica known, three, or five.
fn large_namespace() -> (Namesystem, Known) {
    let mut ns = Namesystem::format(config(), BlockConfig::default(), 1);
    let mut apply = |op| {
        let edit = Edit {
            time_ms: 7,
            client: ClientId(0),
            call: CallId(0),
            op,
        };
        let txid = ns.applied().next();
        ns.replay(NOW, txid, &edit);
    };
    let (mut inode, mut parent, mut next) = (1, InodeId(1), 0);
    let mut known = Known::new();
    for number in 0..FILES {
        if number == 0 || number >= LARGE && number % 50 == 0 {
            inode += 1;
            parent = InodeId(inode);
            apply(EditOp::Mkdir {
                parent: InodeId::ROOT,
                inode: parent,
                name: format!("dir-{number}"),
                permission: 0o755,
                owner: format!("user-{}", number % 3),
                group: "group".into(),
            });
        }
        inode += 1;
        let open = number % 1_000 == 999;
        apply(EditOp::Create {
            parent,
            inode: InodeId(inode),
            name: format!("{:06}-part", number.wrapping_mul(48_271) % 1_000_003),
            permission: 0o644,
            owner: "user-0".into(),
            group: "group".into(),
            replication: 3,
            block_size: 1 << 20,
            holder: ClientId(9),
            replaced: None,
        });
        let mut blocks = Vec::new();
        for _ in 0..[1, 1, 2, 1, 0][number as usize % 5] {
            let new = block(next);
            apply(EditOp::AddBlock {
                inode: InodeId(inode),
                block: new.id,
                generation_stamp: new.generation_stamp,
                previous: blocks.last().map(|(block, _)| *block),
            });
            let count = match next {
                n if n % 97 == 0 => 5,
                n if n % 13 == 0 => 0,
                _ => 3,
            };
            let places = (0..count).map(|at| (next * 5 + at) % STORAGES);
            blocks.push((new, places.collect()));
            next += 1;
        }
        if !open {
            apply(EditOp::Close {
                inode: InodeId(inode),
                last: blocks.last().map(|(block, _)| *block),
            });
        }
        if number % 11 != 0 {
            known.insert(inode, blocks);
        }
    }
    (ns, known)
}

/// The image, with side sections of these locations.
fn image(ns: &Namesystem, known: &Known) -> Chunks {
    let mut chunks: Chunks = ImageSource::new(ns.view()).collect();
    let storages: Vec<u8> = (1..=u128::from(STORAGES))
        .flat_map(|id| [id.to_le_bytes(), id.to_le_bytes()])
        .flatten()
        .collect();
    chunks.push((Section::Storages, storages.into()));
    let put = |out: &mut Vec<u8>, mut value: u64| {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    };
    let (mut out, mut before) = (Vec::new(), 0);
    for (inode, blocks) in known {
        if blocks.iter().all(|(_, places)| places.is_empty()) {
            continue;
        }
        put(&mut out, inode - before);
        before = *inode;
        for (_, places) in blocks {
            put(&mut out, places.len() as u64);
            places.iter().for_each(|place| put(&mut out, *place));
        }
        if out.len() > 20_000 {
            chunks.push((Section::Locations, std::mem::take(&mut out).into()));
            before = 0;
        }
    }
    chunks.push((Section::Locations, out.into()));
    chunks
}

/// The tree, every block, every remembered location, the sums over those: all as one thread makes them, and as the namespace
/// was that the image is of.
#[test]
fn several_threads_load_what_one_does() {
    let (old, known) = large_namespace();
    let chunks = image(&old, &known);
    for section in [Section::Inodes, Section::Directories, Section::Locations] {
        let of = chunks.iter().filter(|(of, _)| *of == section).count();
        assert!(of > 3, "{section:?} is in {of} chunks");
    }
    let made = |loaded: Loaded| Namesystem::load(config(), BlockConfig::default(), 1, loaded);
    let mut one = made(load(&chunks).unwrap());
    let mut many = made(load_on_threads(&chunks).unwrap());
    sort_on_threads(&mut many);
    one.start(NOW);
    many.start(NOW);
    let places = known.values().flatten();
    let places: usize = places.map(|(_, places)| places.len()).sum();
    for ns in [&one, &many] {
        assert_eq!(ns.view().digest(), old.view().digest());
        assert_eq!(ns.view().retry_digest(), old.view().retry_digest());
        assert_eq!(ns.memory_estimate().inodes, old.memory_estimate().inodes);
        assert_eq!(ns.blocks().unconfirmed(), places as u64);
        assert!(ns.blocks().digests_hold(), "sums are those of the lists");
        assert!(ImageSource::new(ns.view()).eq(ImageSource::new(old.view())));
    }
    assert_eq!(one.blocks().stats(), many.blocks().stats());
    let total = old.memory_estimate().blocks;
    for id in 0..total {
        let of = |ns: &Namesystem| ns.blocks().stored(block(id).id);
        assert!(of(&one).is_some());
        assert_eq!(of(&one), of(&many));
    }
    // What each storage is remembered to hold, closed blocks only, is what its digest proves.
    let mut world = World::standby(many);
    world.activate(9);
    let is_closed = |world: &World, block: &Block| {
        let stored = world.ns.blocks().stored(block.id);
        stored.is_some_and(|stored| stored.block == *block)
            && world.ns.blocks().is_complete(block.id)
    };
    for id in 1..=STORAGES {
        Node::register_silent(u128::from(id), &mut world);
        let all = known.values().flatten();
        let here: Vec<Block> = all
            .filter(|(block, places)| places.contains(&(id - 1)) && is_closed(&world, block))
            .map(|(block, _)| *block)
            .collect();
        assert!(here.len() > 10_000);
        let root = root_of(u128::from(id), &world, &here);
        let answer = Node::silent(u128::from(id)).ask(&mut world, root);
        assert!(
            matches!(
                answer,
                Ok(hadal_proto::datanode::Response::Digest { ask: None, .. })
            ),
            "{answer:?}"
        );
    }
    assert_eq!(world.ns.blocks().unconfirmed(), 0);
    assert!(world.ns.blocks().digests_hold());
    let storages = world.ns.blocks().storages();
    let ids = (1..=u128::from(STORAGES)).map(|id| Some((DatanodeUuid(id), StorageUuid(id))));
    assert!(storages.into_iter().eq(ids));
}

/// Damage in each section is refused for the same reason on several threads as on one; a panic nowhere.
#[test]
fn damage_in_each_section_is_the_same_refusal() {
    let (old, known) = large_namespace();
    let chunks = image(&old, &known);
    for section in Section::ALL {
        let of: Vec<usize> = (0..chunks.len())
            .filter(|at| chunks[*at].0 == section && !chunks[*at].1.is_empty())
            .collect();
        let Some(&at) = of.get(of.len() / 2) else {
            assert_eq!(
                section,
                Section::RetryCache,
                "replayed edits have no caller"
            );
            continue;
        };
        let chunk = &chunks[at].1;
        let mut refused = 0;
        for damage in 0..4 {
            let mut bytes = chunk.to_vec();
            match damage {
                0 => bytes.truncate(bytes.len() - 1),
                1 => bytes.truncate(bytes.len() / 2),
                2 => bytes[chunk.len() / 2] ^= 0x80,
                _ => bytes[0] ^= 0x81,
            }
            let mut damaged = chunks.clone();
            damaged[at].1 = bytes.into();
            let (one, many) = (load(&damaged), load_on_threads(&damaged));
            assert_eq!(
                one.as_ref().err(),
                many.as_ref().err(),
                "{section:?} {damage}"
            );
            refused += u32::from(one.is_err());
        }
        assert!(refused >= 2, "{section:?} was refused {refused} times");
    }
    // A chunk that is not there, one that comes twice.
    for at in 0..chunks.len() {
        let (section, mut fewer, mut twice) = (chunks[at].0, chunks.clone(), chunks.clone());
        if section.is_side() || at % 5 != 0 {
            continue;
        }
        fewer.remove(at);
        twice.insert(at, chunks[at].clone());
        for wrong in [fewer, twice] {
            let (one, many) = (load(&wrong).err(), load_on_threads(&wrong).err());
            assert!(
                one.is_some() || section == Section::Header,
                "{section:?} at {at}"
            );
            assert_eq!(one, many, "{section:?} at {at}");
        }
    }
}

/// No chunk boundary is where a page of inodes ends, or a directory: inode by inode and entry by entry it is the same.
#[test]
fn chunks_may_be_cut_anywhere_between_records() {
    let header = vec![3, 5, 5, 0, 0, 3, 2, 0, 1, 0, 0, 0, 0];
    let owners = vec![1, b'o', 1, b'g'];
    let directory = |id: u8, parent: u8, name: &[u8]| {
        let mut record = vec![id, 0, parent, name.len() as u8];
        record.extend(name);
        record.extend([0xed, 3, 0, 0, 0]);
        record
    };
    let file = |id: u8, name: u8| vec![id, 1, 1, 1, name, 0xa4, 3, 0, 0, 0, 3, 5, 0];
    let inodes = [
        directory(1, 0, b""),
        directory(2, 1, b"a"),
        directory(3, 2, b"x"),
        file(4, b'b'),
        file(5, b'c'),
    ];
    let load = |entries: &[[u8; 3]]| {
        let mut loader = ImageLoader::new(&config());
        loader.feed(Section::Header, &header.clone().into())?;
        loader.feed(Section::Owners, &owners.clone().into())?;
        for inode in &inodes {
            loader.feed(Section::Inodes, &inode.clone().into())?;
        }
        for record in entries {
            loader.feed(Section::Directories, &record.to_vec().into())?;
        }
        let loaded = loader.finish()?;
        Ok(Namesystem::load(
            config(),
            BlockConfig::default(),
            1,
            loaded,
        ))
    };
    // Differences are zigzag: 1 to 2, to 4, to 5; 2 to 3.
    let good = load(&[[1, 1, 2], [1, 1, 6], [1, 1, 8], [2, 1, 2]]).unwrap();
    let whole: Vec<_> = ImageSource::new(good.view()).collect();
    let of = |section| whole.iter().filter(move |(of, _)| *of == section);
    assert_eq!(of(Section::Inodes).count(), 1);
    let again: Vec<u8> = of(Section::Directories)
        .flat_map(|(_, b)| b.to_vec())
        .collect();
    assert_eq!(again, [1, 3, 2, 4, 2, 2, 1, 2]);
    // Out of the order of names, across the chunks of one directory.
    let swapped = load(&[[1, 1, 6], [1, 1, 2], [1, 1, 8], [2, 1, 2]]);
    let entry = ImageError::Entry {
        directory: InodeId(1),
        inode: InodeId(2),
    };
    assert_eq!(swapped.err(), Some(entry));
}
