//! One function applies edits for the active, the standby and replay: they cannot drift apart (Q41, T-C2,
//! F-06, C-01).

use crate::support::{Rng, World, create, delete, mkdirs, reload, root, some_call};
use hadal_namesystem::{ImageError, ImageLoader, ImageSource, Section};
use hadal_proto::client::Response;
use hadal_proto::edit::EditOp;

/// Random calls by a few clients; errors are part of the game.
fn play(world: &mut World, rng: &mut Rng, calls: u64) -> u64 {
    let mut done = 0;
    for _ in 0..calls {
        let client = 1 + u128::from(rng.below(3));
        let request = some_call(rng);
        done += u64::from(world.call_as(&root(), client, request).is_ok());
        if rng.chance(2) {
            world.pass(rng.below(200_000));
        }
    }
    done
}

/// Q41: replaying the edits on a fresh core gives the same namespace and the same retry cache (T-H27).
#[test]
fn q41_replay_gives_an_equal_digest() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        let done = play(&mut world, &mut rng, 400);
        assert!(done > 60, "seed {seed}: only {done} calls did anything");
        let standby = world.replayed();
        assert_eq!(standby.applied(), world.ns.applied());
        let (ours, theirs) = (world.ns.view(), standby.view());
        assert_eq!(ours.digest(), theirs.digest(), "seed {seed}");
        assert_eq!(ours.retry_digest(), theirs.retry_digest(), "seed {seed}");
    }
}

/// T-C2: an image holds everything, at whatever txid it is taken, and replay goes on behind it.
#[test]
fn t_c2_an_image_and_the_edits_behind_it_give_an_equal_digest() {
    for seed in 100..120 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        play(&mut world, &mut rng, 250);
        let mut other = reload(&world.ns);
        assert_eq!(other.view().digest(), world.ns.view().digest());
        assert_eq!(other.view().retry_digest(), world.ns.view().retry_digest());
        let from = world.journal.len();
        play(&mut world, &mut rng, 150);
        for (txid, edit) in &world.journal[from..] {
            other.replay(world.now, *txid, edit);
        }
        assert_eq!(other.view().digest(), world.ns.view().digest());
        assert_eq!(other.view().retry_digest(), world.ns.view().retry_digest());
        // Images of equal namespaces are equal bytes.
        let ours: Vec<_> = ImageSource::new(world.ns.view()).collect();
        for same in [&other, &reload(&other), &world.replayed()] {
            let theirs: Vec<_> = ImageSource::new(same.view()).collect();
            assert_eq!(ours, theirs, "seed {seed}");
        }
    }
}

/// The digest sees every kind of difference.
#[test]
fn q41_the_digest_sees_small_differences() {
    let mut digests = std::collections::BTreeSet::new();
    for op in [
        None,
        Some(mkdirs("/d")),
        Some(create("/f")),
        Some(delete("/base", true)),
        Some(crate::support::rename("/base", "/base2", false)),
        Some(hadal_proto::client::Request::SetPermission {
            path: "/base".into(),
            permission: 0o700,
        }),
        Some(hadal_proto::client::Request::SetOwner {
            path: "/base".into(),
            owner: "x".into(),
            group: String::new(),
        }),
        Some(hadal_proto::client::Request::SetTimes {
            path: "/base".into(),
            modified_ms: 5,
            accessed_ms: u64::MAX,
        }),
    ] {
        let mut world = World::new();
        world.mkdirs("/base");
        world.touch("/base/file");
        if let Some(op) = op {
            world.ok(op);
        }
        assert!(digests.insert(world.ns.view().digest()));
    }
}

/// protocols.md section 3: a view does not change while the namespace goes on, and is a valid image of its
/// own txid.
#[test]
fn a_view_is_isolated_from_later_writes() {
    let mut rng = Rng::new(5);
    let mut world = World::new();
    let mut views = Vec::new();
    for _ in 0..12 {
        play(&mut world, &mut rng, 60);
        let view = world.ns.view();
        views.push((view.digest(), view.retry_digest(), view));
    }
    for (digest, retry_digest, view) in views {
        assert_eq!(view.digest(), digest);
        assert_eq!(view.retry_digest(), retry_digest);
        let mut loader = ImageLoader::new(world.ns.config());
        for (section, chunk) in ImageSource::new(view.clone()) {
            loader.feed(section, &chunk).unwrap();
        }
        assert_eq!(loader.finish().unwrap().txid(), view.txid());
    }
}

/// A large tree crosses chunk borders in every section.
#[test]
fn large_directories_survive_the_image() {
    let mut world = World::new();
    for at in 0..110_000u32 {
        let name = at.wrapping_mul(2_654_435_761);
        world.mkdirs(&format!("/big/{name:010}-with-a-rather-long-name"));
    }
    for at in 0..300 {
        world.open(&format!("/open/{at}"));
    }
    let chunks: Vec<_> = ImageSource::new(world.ns.view()).collect();
    // Those of directories are cut by what is looked at, too: 110 000 entries.
    for (section, least) in [
        (Section::Inodes, 2),
        (Section::RetryCache, 2),
        (Section::Directories, 8),
    ] {
        let of = chunks.iter().filter(|(s, _)| *s == section).count();
        assert!(of >= least, "{section:?} is in {of} chunks");
    }
    // Sections written one by one are the same bytes.
    let parts: Vec<_> = Section::ALL
        .into_iter()
        .flat_map(|section| ImageSource::section(world.ns.view(), section))
        .collect();
    assert_eq!(parts, chunks);
    // So are pieces, made in any order.
    let mut source = ImageSource::new(world.ns.view());
    let mut pieces: Vec<_> = core::iter::from_fn(|| source.next_piece()).collect();
    assert!(pieces.len() > 10);
    let mut made: Vec<Vec<_>> = pieces.drain(..).rev().map(Iterator::collect).collect();
    made.reverse();
    assert_eq!(made.concat(), chunks);
    let other = reload(&world.ns);
    assert_eq!(other.view().digest(), world.ns.view().digest());
    let mut other = World::standby(other);
    other.activate(2);
    assert_eq!(other.names("/big").len(), 1_000);
}

/// Damage that got past the container's checksums is refused by name, never a panic.
#[test]
fn a_wrong_image_is_refused() {
    let mut world = World::new();
    world.mkdirs("/a/b");
    world.touch("/a/f");
    world.open("/a/g");
    let chunks: Vec<_> = ImageSource::new(world.ns.view()).collect();
    let load = |chunks: &[(Section, bytes::Bytes)]| {
        let mut loader = ImageLoader::new(world.ns.config());
        for (section, chunk) in chunks {
            loader.feed(*section, chunk)?;
        }
        loader.finish()
    };
    assert!(load(&chunks).is_ok());
    assert!(matches!(load(&[]), Err(ImageError::NoHeader)));
    for missing in 0..chunks.len() {
        let mut fewer = chunks.clone();
        let (section, _) = fewer.remove(missing);
        assert!(load(&fewer).is_err(), "without {section:?}");
    }
    let mut swapped = chunks.clone();
    swapped.swap(2, 3);
    assert!(matches!(load(&swapped), Err(ImageError::Order { .. })));
    for (at, (section, chunk)) in chunks.iter().enumerate() {
        for length in 0..chunk.len() {
            let mut cut = chunks.clone();
            cut[at].1 = chunk.slice(..length);
            assert!(load(&cut).is_err(), "{section:?} cut at {length}");
        }
        for byte in 0..chunk.len() {
            for flip in [1u8, 0x80] {
                let mut bytes = chunk.to_vec();
                bytes[byte] ^= flip;
                let mut flipped = chunks.clone();
                flipped[at].1 = bytes.into();
                // Some flips give another valid image (a name, a time); none may panic.
                let _ = load(&flipped);
            }
        }
    }
}

/// Directories that contain each other but hang nowhere add up in every count; walking up from them would
/// never end.
#[test]
fn an_image_with_a_ring_of_directories_is_refused() {
    let header = vec![2, 5, 3, 0, 0, 3, 0, 0, 1, 0, 0, 0, 0];
    let owners = vec![1, b'o', 1, b'g'];
    let tree = |parent_of_a: u8, root_entries: &[u8], b_entries: &[u8]| {
        let tail = [0xed, 3, 0, 0, 0];
        let mut inodes = vec![1, 0, 0, 0];
        inodes.extend(tail);
        inodes.extend([1, 0, parent_of_a, 1, b'a']);
        inodes.extend(tail);
        inodes.extend([1, 0, 2, 1, b'b']);
        inodes.extend(tail);
        let mut directories = root_entries.to_vec();
        directories.extend([2, 1, 2]);
        directories.extend(b_entries);
        let mut loader = ImageLoader::new(&crate::support::config());
        for (section, bytes) in [
            (Section::Header, header.clone()),
            (Section::Owners, owners.clone()),
            (Section::Inodes, inodes),
            (Section::Directories, directories),
        ] {
            loader.feed(section, &bytes.into()).unwrap();
        }
        loader.finish().map(|loaded| loaded.txid())
    };
    assert_eq!(tree(1, &[1, 1, 2], &[]), Ok(hadal_types::TxId(5)));
    assert!(matches!(
        tree(3, &[], &[3, 1, 1]),
        Err(ImageError::Count {
            what: "directories below the root",
            expected: 3,
            found: 1
        })
    ));
}

/// F-06, T-H27: a retried call is answered as before and makes no edit, before and after a failover and
/// after loading an image.
#[test]
fn f06_t_h27_a_retried_call_runs_once() {
    for seed in 0..20 {
        let mut rng = Rng::new(900 + seed);
        let mut world = World::new();
        let mut kept = Vec::new();
        for call in 1..200 {
            let request = some_call(&mut rng);
            let before = world.ns.applied();
            let ticket = world.send(&root(), 7, call, request.clone());
            let outcome = world.answer(ticket).unwrap();
            if let Ok(reply) = outcome
                && world.ns.applied() > before
            {
                kept.push((call, request, reply));
            }
        }
        assert!(kept.len() > 30, "seed {seed}: {} mutations", kept.len());
        let mut replayed = World::standby(world.replayed());
        replayed.activate(2);
        let mut reloaded = World::standby(reload(&world.ns));
        reloaded.activate(2);
        for world in [&mut world, &mut replayed, &mut reloaded] {
            let before = world.ns.view().digest();
            for (call, request, reply) in &kept {
                let ticket = world.send(&root(), 7, *call, request.clone());
                assert_eq!(world.answer(ticket).unwrap().as_ref(), Ok(reply));
            }
            assert_eq!(world.ns.view().digest(), before);
        }
    }
}

/// F-06: mkdirs of several levels is several edits; a journal that ends between them must not make a retry
/// believe it is done.
#[test]
fn f06_half_a_mkdirs_is_not_an_outcome() {
    let mut world = World::new();
    let ticket = world.send(&root(), 7, 1, mkdirs("/x/y/z"));
    assert!(world.answer(ticket).unwrap().is_ok());
    let mkdirs_edits = world
        .journal
        .iter()
        .filter(|(_, edit)| matches!(edit.op, EditOp::Mkdir { .. }));
    assert_eq!(mkdirs_edits.count(), 3);
    world.journal.truncate(world.journal.len() - 2);
    let mut other = World::standby(world.replayed());
    other.activate(2);
    assert!(other.stat("/x/y").is_none());
    let ticket = other.send(&root(), 7, 1, mkdirs("/x/y/z"));
    assert_eq!(
        other.answer(ticket).unwrap().unwrap().response,
        Response::Flag { value: true }
    );
    assert!(other.stat("/x/y/z").is_some());
}

/// F-06: outcomes expire by the time that edits show, ten minutes by default.
#[test]
fn f06_outcomes_expire_after_ten_minutes() {
    let mut world = World::new();
    let ticket = world.send(&root(), 7, 1, mkdirs("/a"));
    world.answer(ticket);
    world.ok(delete("/a", false));
    edits_for(&mut world, 598);
    let ticket = world.send(&root(), 7, 1, mkdirs("/a"));
    assert!(world.answer(ticket).unwrap().is_ok());
    assert!(world.stat("/a").is_none(), "answered from the cache");
    edits_for(&mut world, 4);
    let ticket = world.send(&root(), 7, 1, mkdirs("/a"));
    assert!(world.answer(ticket).unwrap().is_ok());
    assert!(world.stat("/a").is_some(), "run as a new call");
}

/// An edit per second.
fn edits_for(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.pass(1_000);
        let now = world.wall_ms;
        world.mkdirs(&format!("/tick{now}"));
    }
}

/// F-06: the wall clock jumps ahead by a day and back by two; a client that retries finds its outcome, on the active, on
/// a standby that replayed, and behind an image.
#[test]
fn f06_t_h27_outcomes_survive_a_jumping_wall_clock() {
    let mut world = World::new();
    let ticket = world.send(&root(), 7, 1, mkdirs("/a"));
    world.answer(ticket);
    edits_for(&mut world, 5);
    world.wall_ms += 86_400_000;
    edits_for(&mut world, 5);
    let mut reloaded = World::standby(reload(&world.ns));
    let from = world.journal.len();
    world.wall_ms -= 2 * 86_400_000;
    edits_for(&mut world, 5);
    world.ok(delete("/a", false));
    for (txid, edit) in &world.journal[from..] {
        reloaded.ns.replay(world.now, *txid, edit);
    }
    let replayed = World::standby(world.replayed());
    let digest = world.ns.view().retry_digest();
    for other in [&mut reloaded, &mut World::standby(replayed.ns)] {
        assert_eq!(other.ns.view().retry_digest(), digest);
        other.activate(2);
        let ticket = other.send(&root(), 7, 1, mkdirs("/a"));
        assert!(other.answer(ticket).unwrap().is_ok());
        assert!(other.stat("/a").is_none(), "the call ran a second time");
    }
    let ticket = world.send(&root(), 7, 1, mkdirs("/a"));
    assert!(world.answer(ticket).unwrap().is_ok());
    assert!(world.stat("/a").is_none(), "the call ran a second time");
}

#[test]
#[should_panic(expected = "without gaps")]
fn c02_replay_refuses_a_gap() {
    let mut world = World::new();
    world.mkdirs("/a");
    world.mkdirs("/b");
    world.journal.remove(1);
    let _ = world.replayed();
}
