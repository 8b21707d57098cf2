//! Pages against a plain model.

use super::*;
use alloc::collections::BTreeMap;
use alloc::string::String;
use hadal_types::InodeId;

fn block(id: u64) -> Block {
    Block {
        id: BlockId(id),
        generation_stamp: GenerationStamp(id + 1),
        length: id * 3,
    }
}

fn file(blocks: BlockList) -> Inode {
    let body = FileBody {
        block_size: 128,
        replication: 3,
        is_open: true,
        blocks,
    };
    Inode::new(0o644, 5, 7, Body::File(body))
}

/// What a page must say of an inode.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    name: String,
    parent: u64,
    times: (u64, u64),
    permission: u16,
    owner: u32,
    content: Content,
}

#[derive(Clone, PartialEq, Debug)]
enum Content {
    Directory(Vec<u64>),
    File {
        block_size: u64,
        replication: u16,
        is_open: bool,
        blocks: Vec<Block>,
    },
}

fn seen(inode: InodeRef<'_>, name: &str) -> Model {
    let content = match inode.file() {
        None => {
            assert!(inode.is_dir());
            let ids = inode.children().map(|children| children.iter().collect());
            assert_eq!(inode.child_count(), ids.as_ref().map_or(0, Vec::len));
            Content::Directory(ids.unwrap_or_default())
        }
        Some(file) => {
            assert!(inode.children().is_none());
            Content::File {
                block_size: file.block_size,
                replication: file.replication,
                is_open: file.is_open,
                blocks: file.blocks.iter().collect(),
            }
        }
    };
    Model {
        name: name.into(),
        parent: inode.parent(),
        times: (inode.modified_ms(), inode.accessed_ms()),
        permission: inode.permission(),
        owner: inode.owner(),
        content,
    }
}

fn check(page: &InodePage, model: &BTreeMap<u32, Model>) {
    for slot in 0..PAGE_IDS as u32 {
        let found = page.get(slot).map(|(inode, name)| seen(inode, name));
        assert_eq!(found.as_ref(), model.get(&slot));
        let name = model.get(&slot).map(|it| it.name.as_bytes());
        assert_eq!(page.name(slot), name);
    }
    let all: BTreeMap<u32, Model> = page
        .iter()
        .map(|(slot, inode, name)| (slot, seen(inode, name)))
        .collect();
    assert_eq!(&all, model);
    assert_eq!(page.is_empty(), model.is_empty());
    // Nothing is kept that no inode needs, and nothing twice.
    let of_use = |at: usize| page.records.iter().any(|it| usize::from(it.common) == at);
    assert!((0..page.common.len()).all(of_use));
    assert!((0..page.common.len()).all(|at| !page.common[..at].contains(&page.common[at])));
    let mut more: Vec<usize> = page.records.iter().filter_map(Record::more).collect();
    more.sort_unstable();
    assert!(more.into_iter().eq(0..page.more.len()));
}

#[test]
fn a_page_is_what_was_done_to_it() {
    let mut page = InodePage::default();
    let mut model: BTreeMap<u32, Model> = BTreeMap::new();
    let mut seed = 3u64;
    let mut draw = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut views: Vec<(InodePage, BTreeMap<u32, Model>)> = Vec::new();
    for round in 0..20_000u64 {
        let slot = draw(64) as u32;
        let value = draw(1 << 20);
        let name = alloc::format!("n{round:0width$}", width = draw(200) as usize);
        let what = draw(16);
        let Some(known) = model.get_mut(&slot) else {
            let is_dir = what % 3 == 0;
            let mut inode = Inode::new(0o755, value as u32 % 9, value, Body::Directory);
            inode.parent = value % 7;
            let mut content = Content::Directory(Vec::new());
            if !is_dir {
                let mut blocks = BlockList::Empty;
                (0..what % 4).for_each(|at| blocks.push(block(value + at)));
                content = Content::File {
                    block_size: value % 3,
                    replication: 2,
                    is_open: what % 2 == 0,
                    blocks: blocks.as_slice().to_vec(),
                };
                inode.body = Body::File(FileBody {
                    block_size: value % 3,
                    replication: 2,
                    is_open: what % 2 == 0,
                    blocks,
                });
            }
            let made = Model {
                name: name.clone(),
                parent: inode.parent,
                times: (value, value),
                permission: 0o755,
                owner: inode.owner,
                content,
            };
            page.insert(slot, inode, &name);
            model.insert(slot, made);
            continue;
        };
        let mut inode = page.get_mut(slot).expect("the model has it");
        match (what, &mut known.content) {
            (0, _) => {
                assert!(page.remove(slot) && !page.remove(slot));
                model.remove(&slot);
            }
            (1 | 2, _) => {
                page.rename(slot, &name);
                known.name = name;
            }
            (3, _) => {
                inode.set_parent(value % 7);
                known.parent = value % 7;
            }
            (4, _) => {
                inode.set_modified_ms(value);
                inode.set_accessed_ms(round);
                known.times = (value, round);
            }
            (5, _) => {
                inode.set_permission(value as u16);
                known.permission = value as u16 & 0o1777;
            }
            (6, _) => {
                inode.set_owner(value as u32);
                known.owner = value as u32;
            }
            (7..=10, Content::Directory(ids)) => {
                *ids = (0..value % 5).map(|at| value + at).collect();
                let entries = ids.iter().map(|id| crate::children::entry(*id, b"x"));
                let children = (!ids.is_empty()).then(|| Children::from_sorted(entries.collect()));
                inode.set_children(children);
                assert_eq!(
                    page.get_mut(slot)
                        .and_then(InodeMut::children)
                        .map(|it| it.len()),
                    (!ids.is_empty()).then_some(ids.len())
                );
            }
            (_, Content::Directory(_)) => assert!(inode.file().is_none()),
            (
                what,
                Content::File {
                    replication,
                    is_open,
                    blocks,
                    ..
                },
            ) => {
                let mut file = inode.file().expect("the model has a file");
                match what {
                    7..=10 => {
                        file.push_block(block(value));
                        blocks.push(block(value));
                    }
                    11 => assert_eq!(file.pop_block(), blocks.pop()),
                    12 if !blocks.is_empty() => {
                        file.set_last_block(block(value));
                        blocks.pop();
                        blocks.push(block(value));
                    }
                    13 => {
                        assert_eq!(file.take_blocks().as_slice(), &blocks[..]);
                        blocks.clear();
                    }
                    14 => {
                        file.set_open(!*is_open);
                        *is_open = !*is_open;
                    }
                    _ => {
                        file.set_replication(value as u16 % 5);
                        *replication = value as u16 % 5;
                    }
                }
                assert_eq!(file.read().blocks.len(), blocks.len());
            }
        }
        check(&page, &model);
        if round % 5_000 == 0 {
            views.push((page.clone(), model.clone()));
        }
    }
    for (page, model) in &views {
        check(page, model);
    }
    for slot in 0..64 {
        page.remove(slot);
    }
    check(&page, &BTreeMap::new());
}

#[test]
fn a_built_page_is_the_inserted_one() {
    let (mut builder, mut inserted) = (PageBuilder::default(), InodePage::default());
    assert!(builder.take().is_none());
    for round in 0..2u32 {
        for slot in (round..64).step_by(3) {
            let mut blocks = BlockList::Empty;
            (0..u64::from(slot % 4)).for_each(|at| blocks.push(block(at)));
            let mut inode = file(blocks);
            inode.parent = InodeId::ROOT.0 + u64::from(slot) / 20;
            let name = alloc::format!("n{slot}");
            builder.push(slot, inode.clone(), name.as_bytes());
            if round == 0 {
                inserted.insert(slot, inode, &name);
            }
        }
        let built = builder.take().expect("inodes were pushed");
        assert_eq!(built.records.capacity(), built.records.len());
        if round == 0 {
            let all = |page: &InodePage| -> Vec<(u32, Model)> {
                page.iter()
                    .map(|(slot, inode, name)| (slot, seen(inode, name)))
                    .collect()
            };
            assert_eq!(all(&built), all(&inserted));
        } else {
            assert!(built.get(0).is_none() && built.get(1).is_some());
        }
    }
}

#[test]
fn a_full_page_has_no_room_to_spare() {
    let mut page = InodePage::default();
    for slot in 0..64 {
        page.insert(slot, file(BlockList::One(block(1))), "part-00000001");
    }
    // 32 bytes and the name for each, and what all have in common.
    assert!(
        page.heap_bytes() <= 64 * (32 + 13) + 256,
        "{}",
        page.heap_bytes()
    );
}

#[test]
fn few_that_are_left_do_not_keep_the_room_of_all() {
    let mut page = InodePage::default();
    for slot in 0..64 {
        page.insert(slot, file(BlockList::One(block(1))), "part-00000001");
    }
    (0..64)
        .filter(|slot| slot % 16 != 3)
        .for_each(|slot| assert!(page.remove(slot)));
    assert_eq!(page.inodes().count(), 4);
    assert!(page.iter().all(|(_, _, name)| name == "part-00000001"));
    // Four times what they need at most, and the page itself.
    assert!(
        page.heap_bytes() <= 4 * 4 * (32 + 13) + 256,
        "{}",
        page.heap_bytes()
    );
}

#[test]
fn names_may_be_as_long_as_names_can_be() {
    let mut page = InodePage::default();
    let long = |slot: u32| alloc::format!("{slot:0255}");
    for slot in (0..64).rev() {
        page.insert(slot, file(BlockList::Empty), &long(slot));
    }
    page.rename(31, "");
    page.rename(31, &long(131));
    for slot in 0..64 {
        let name = long(if slot == 31 { 131 } else { slot });
        assert_eq!(page.name(slot), Some(name.as_bytes()));
    }
}

#[test]
fn block_lists_grow_and_shrink() {
    let mut page = InodePage::default();
    page.insert(9, file(BlockList::Empty), "a");
    let mut list = page.get_mut(9).and_then(InodeMut::file).expect("a file");
    for id in 0..4 {
        list.push_block(block(id));
        assert_eq!(list.read().blocks.last(), Some(block(id)));
    }
    assert_eq!(list.read().blocks.length(), 18);
    assert_eq!(list.read().blocks.penultimate(), Some(block(2)));
    list.set_last_block(block(9));
    for id in [9, 2, 1, 0] {
        assert_eq!(list.pop_block(), Some(block(id)));
    }
    assert_eq!(list.pop_block(), None);
    assert_eq!(list.read().blocks.len(), 0);
    assert!(page.more.is_empty());
}
