//! Images that remember where blocks are (protocols.md section 4, restart).

use crate::datanode::{BLOCK, Node, cluster, locate, written};
use crate::support::{World, config};
use hadal_blocks::BlockConfig;
use hadal_namesystem::{
    ImageError, ImageLoader, ImageSource, Loaded, LocationSource, Namesystem, Section,
};
use hadal_proto::datanode::{
    ChangeKind, DigestReport, DigestRound, Request as FromNode, Response as ToNode,
};
use hadal_types::{Block, DatanodeUuid, DigestKey, DigestTree, StorageUuid};

pub(crate) type Chunks = Vec<(Section, bytes::Bytes)>;

/// Everything that a driver writes.
fn image(ns: &Namesystem) -> Chunks {
    let mut chunks: Chunks = ImageSource::new(ns.view()).collect();
    let mut source = LocationSource::new(ns.view(), ns);
    while let Some(chunk) = source.next_chunk(ns) {
        chunks.push(chunk);
    }
    chunks
}

pub(crate) fn load(chunks: &Chunks) -> Result<Loaded, ImageError> {
    let mut loader = ImageLoader::new(&config());
    for (section, chunk) in chunks {
        loader.feed(*section, chunk)?;
    }
    loader.finish()
}

/// Three DataNodes with every block of some files, one of which has two blocks and one none.
fn known_files() -> (World, Vec<Block>) {
    let (mut world, mut nodes) = cluster();
    world.mkdirs("/dir");
    world.touch("/dir/empty");
    let mut blocks = Vec::new();
    for at in 0..40 {
        let path = format!("/dir/part-{at}");
        let lengths = [BLOCK, 77];
        let lengths = &lengths[..1 + at % 2];
        blocks.extend(written(&mut world, &mut nodes, &path, lengths).1);
    }
    (world, blocks)
}

/// What a DataNode that has these replicas says first.
pub(crate) fn root_of(id: u128, world: &World, blocks: &[Block]) -> FromNode {
    let mut tree = DigestTree::new(DigestKey::new(&world.ns.config().info));
    blocks.iter().for_each(|block| tree.insert(block));
    FromNode::DigestReport {
        report: DigestReport {
            uuid: DatanodeUuid(id),
            storage: StorageUuid(id),
            report_id: 7,
            includes: 0,
            acknowledged: world.ns.epoch(),
            round: DigestRound::Root {
                replicas: tree.replicas(),
                digest: tree.root(),
            },
            open: Vec::new(),
        },
    }
}

/// The round trip: what an image remembers is nothing to a reader, until one digest per DataNode proves it.
#[test]
fn an_image_remembers_and_digests_confirm() {
    let (old, blocks) = known_files();
    let chunks = image(&old.ns);
    let sides: Vec<Section> = chunks
        .iter()
        .map(|(section, _)| *section)
        .filter(|section| section.is_side())
        .collect();
    assert_eq!(sides, [Section::Storages, Section::Locations]);
    let loaded = load(&chunks).unwrap();
    let mut ns = Namesystem::load(config(), BlockConfig::default(), 1, loaded);
    assert_eq!(ns.blocks().unconfirmed(), 3 * blocks.len() as u64);
    ns.start(old.now);
    let mut world = World::standby(ns);
    world.activate(9);
    for id in 1..=3 {
        Node::register_silent(id, &mut world);
    }
    let known = |world: &mut World| {
        locate(world, "/dir/part-1", 0, 9_000).blocks[0]
            .locations
            .len()
    };
    assert_eq!(known(&mut world), 0, "given to a reader");
    for (id, confirmed) in (1..=3).zip(1..) {
        let root = root_of(id, &world, &blocks);
        let node = Node::silent(id);
        let answer = node.ask(&mut world, root);
        assert!(
            matches!(answer, Ok(ToNode::Digest { ask: None, .. })),
            "{answer:?}"
        );
        assert_eq!(known(&mut world), confirmed);
    }
    assert_eq!(world.ns.blocks().unconfirmed(), 0);
    // What is confirmed is remembered again, by the same bytes.
    assert_eq!(image(&world.ns).last(), chunks.last());
}

/// Images of the version before, without these sections, are read; and so is one whose side sections are missing.
#[test]
fn an_image_without_locations_is_read() {
    let (old, _) = known_files();
    let mut chunks = image(&old.ns);
    chunks.retain(|(section, _)| !section.is_side());
    load(&chunks).unwrap();
    let mut header = chunks[0].1.to_vec();
    for (version, is_read) in [(1, false), (2, true), (3, true), (4, false)] {
        header[0] = version;
        chunks[0].1 = header.clone().into();
        assert_eq!(load(&chunks).is_ok(), is_read, "version {version}");
    }
}

/// Hostile bytes: refused by name or harmless, never a panic, here or when the namespace is made of them.
#[test]
fn damaged_locations_are_refused_or_harmless() {
    let (old, _) = known_files();
    let chunks = image(&old.ns);
    for (at, (section, chunk)) in chunks.iter().enumerate().skip(chunks.len() - 2) {
        let mut refused = 0;
        for byte in 0..chunk.len() {
            for flip in [1u8, 4, 0x80] {
                let mut bytes = chunk.to_vec();
                bytes[byte] ^= flip;
                let mut flipped = chunks.clone();
                flipped[at].1 = bytes.into();
                match load(&flipped) {
                    Err(_) => refused += 1,
                    Ok(loaded) => {
                        let mut ns = Namesystem::load(config(), BlockConfig::default(), 1, loaded);
                        ns.start(old.now);
                        assert_eq!(ns.blocks().stats().safe, 0);
                    }
                }
            }
        }
        assert!(refused > 0 || *section == Section::Storages);
        let mut cut = chunks.clone();
        cut[at].1 = chunk.slice(..chunk.len() - 1);
        assert!(load(&cut).is_err(), "{section:?} is cut");
    }
    let mut without = chunks.clone();
    without.remove(chunks.len() - 2);
    assert!(load(&without).is_err(), "places of no storage");
    let mut twice = chunks.clone();
    twice.extend(chunks.last().cloned());
    assert!(load(&twice).is_err(), "files twice");
}

/// A replica that went before the digest came is not remembered any more.
#[test]
fn what_a_datanode_says_first_counts() {
    let (old, blocks) = known_files();
    let loaded = load(&image(&old.ns)).unwrap();
    let mut ns = Namesystem::load(config(), BlockConfig::default(), 1, loaded);
    ns.start(old.now);
    let mut world = World::standby(ns);
    world.activate(9);
    let mut node = Node::register_silent(1, &mut world);
    node.says(&mut world, ChangeKind::Deleted, blocks[0]);
    let FromNode::DigestReport { mut report } = root_of(1, &world, &blocks[1..]) else {
        unreachable!()
    };
    report.includes = 1;
    let answer = node.ask(&mut world, FromNode::DigestReport { report });
    assert!(
        matches!(answer, Ok(ToNode::Digest { ask: None, .. })),
        "{answer:?}"
    );
    let live = |block: &Block| world.ns.blocks().stored(block.id).unwrap().live;
    assert_eq!((live(&blocks[0]), live(&blocks[1])), (0, 1));
}
