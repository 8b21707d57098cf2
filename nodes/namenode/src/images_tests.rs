//! Images between simulated NameNodes: real streams, real store, power failures and cuts.

use crate::bootstrap::bootstrap_standby;
use crate::config::HaSettings;
use crate::config::{NamenodeConfig, NamenodePeer};
use crate::error::{BootstrapError, FetchError, RunError};
use crate::fetch::{self, fetch_image};
use crate::identity;
use crate::images::{Images, images_dir, offer_of};
use crate::transfer::ack;
use crate::upload::{receive, upload};
use bytes::Bytes;
use hadal_blocks::BlockConfig;
use hadal_env::{Conn, Disk, Env, Expect, Net, Seam};
use hadal_namesystem::{
    CheckpointConfig, ImageSource, Namesystem, NamesystemConfig, Section, UploadOutcome,
};
use hadal_proto::edit::{Edit, EditOp};
use hadal_proto::frame::FrameKind;
use hadal_proto::image::{self, ImageProtocol, PutImage};
use hadal_proto::{FaultClass, Protocol, ProtocolId};
use hadal_quic::{Incoming, accept, open_append};
use hadal_types::{
    BlockPoolId, CURRENT_LAYOUT, CallId, ClientId, ClusterId, HaState, InodeId, NamespaceInfo,
    Role, Tick, TxId,
};
use sim::{Crash, NodeId, SimEnv, World};
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use store_fsimage::{Image, ImageError, ImageWriter, SectionId, list};

/// Bytes of content of the images made here.
const CONTENT: usize = 3 << 20;

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, number], 8020))
}

fn peer(number: u8) -> NamenodePeer {
    NamenodePeer {
        name: format!("nn{number}"),
        address: address(number),
    }
}

fn info(namespace_id: u64) -> NamespaceInfo {
    NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id,
        cluster_id: ClusterId("CID-test".into()),
        block_pool_id: BlockPoolId("BP-test".into()),
        created_ms: 1,
    }
}

fn config(number: u8, bytes_per_second: u64) -> NamenodeConfig {
    NamenodeConfig {
        name: format!("nn{number}"),
        dir: PathBuf::from("/name"),
        journalnodes: Vec::new(),
        shared_edits_dir: None,
        ha: HaSettings::default(),
        peers: (1..=2).filter(|other| *other != number).map(peer).collect(),
        namesystem: NamesystemConfig {
            info: info(7),
            ..NamesystemConfig::default()
        },
        blocks: BlockConfig::default(),
        groups: Arc::new(|_| Vec::new()),
        batches_in_flight: 4,
        software: String::new(),
        images_retained: 2,
        extra_edits_retained: 1_000_000,
        checkpoint: CheckpointConfig::default(),
        image_bytes_per_second: bytes_per_second,
        planted: Default::default(),
        election_planted: Default::default(),
        hosts: Arc::new(|| Ok(Default::default())),
    }
}

/// What a NameNode does about images, without the rest of it.
async fn serve(env: SimEnv, number: u8, bytes_per_second: u64) {
    let config = config(number, bytes_per_second);
    let images = Rc::new(Images::new(env.clone(), &config));
    env.disk().create_dir_all(&images.dir).await.unwrap();
    let found = list(env.disk(), &images.dir).await.unwrap();
    let newest = found.first().map_or(TxId(0), |image| image.txid);
    images.loaded(newest);
    while let Some(conn) = env.net().accept().await {
        let (images, task) = (Rc::clone(&images), env.clone());
        env.spawn("connection", async move {
            while let Ok(incoming) = accept(&conn).await {
                let role = conn.peer().role;
                let images = Rc::clone(&images);
                match incoming {
                    Incoming::Append(ProtocolId::Image, stream) => {
                        task.spawn("arrives", async move {
                            receive(images, stream, role).await;
                        });
                    }
                    Incoming::Read(ProtocolId::Image, stream) => {
                        task.spawn("leaves", fetch::serve(images, stream));
                    }
                    Incoming::Call(ProtocolId::Image, stream) => {
                        let (mut requests, writer) = stream.split::<ImageProtocol>();
                        task.spawn("answers", writer);
                        task.spawn("calls", async move {
                            while let Some((_, responder)) = requests.next().await {
                                responder.answer(Ok(image::Response::Description {
                                    info: images.info.clone(),
                                    state: HaState::Active,
                                    committed: TxId(12),
                                }));
                            }
                        });
                    }
                    other => other.refuse(FaultClass::Unsupported),
                }
            }
        });
    }
}

struct Pair {
    world: World,
    /// Has images and does what a test says.
    here: NodeId,
    /// Serves.
    there: NodeId,
    bytes_per_second: u64,
}

impl Pair {
    fn new(seed: u64, bytes_per_second: u64) -> Self {
        let world = World::new(seed);
        let here = world.add_node("nn1", Role::Namenode, address(1), |_| {
            Box::pin(std::future::pending())
        });
        let there = world.add_node("nn2", Role::Namenode, address(2), move |env| {
            Box::pin(serve(env, 2, bytes_per_second))
        });
        Self {
            world,
            here,
            there,
            bytes_per_second,
        }
    }

    fn images(&self) -> Rc<Images<SimEnv>> {
        let env = self.world.env_of(self.here);
        Rc::new(Images::new(env, &config(1, self.bytes_per_second)))
    }

    /// Makes an image on a node.
    fn make(&self, node: NodeId, txid: u64, namespace_id: u64) {
        let env = self.world.env_of(node);
        self.world.block_on(node, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            env.disk().create_dir_all(&dir).await.unwrap();
            let made = ImageWriter::create(env.disk(), &dir, &info(namespace_id), TxId(txid)).await;
            let mut writer = made.unwrap();
            writer.section(SectionId(1), false);
            let content: Vec<u8> = (0..CONTENT as u64)
                .map(|n| (n * n % 251 + txid) as u8)
                .collect();
            writer.write(Bytes::from(content)).await.unwrap();
            writer.finish().await.unwrap();
        });
    }

    fn upload(&self, txid: u64) -> UploadOutcome {
        let images = self.images();
        self.world.block_on(self.here, async move {
            upload(&images, &peer(2), TxId(txid), &|| false).await
        })
    }

    /// Published images and whether each verifies.
    fn found(&self, node: NodeId) -> Vec<u64> {
        let env = self.world.env_of(node);
        self.world.block_on(node, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            let mut txids = Vec::new();
            for file in list(env.disk(), &dir).await.unwrap() {
                let image = Image::open(env.disk(), &dir, file.txid, 7).await.unwrap();
                image.verify().await.unwrap();
                txids.push(file.txid.0);
            }
            txids
        })
    }

    fn digest(&self, node: NodeId, txid: u64) -> [u8; 16] {
        let env = self.world.env_of(node);
        self.world.block_on(node, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            let image = Image::open(env.disk(), &dir, TxId(txid), 7).await.unwrap();
            image.info().file_digest
        })
    }

    fn seconds<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let before = self.world.now();
        let value = work();
        ((self.world.now() - before).as_secs(), value)
    }

    fn restart(&self, node: NodeId, crash: Crash) {
        self.world.crash(node, crash);
        self.world.restart(node);
    }
}

/// T-C1, T-C2, C-12: an upload is published, the same bytes; "has it already" is an answer; it survives a power failure.
#[test]
fn t_c1_t_c2_an_upload_is_published() {
    let pair = Pair::new(1, 0);
    pair.make(pair.here, 12, 7);
    assert_eq!(pair.upload(12), UploadOutcome::Published);
    pair.restart(pair.there, Crash::Power);
    assert_eq!(pair.found(pair.there), [12]);
    assert_eq!(pair.digest(pair.there, 12), pair.digest(pair.here, 12));
    assert_eq!(pair.upload(12), UploadOutcome::HasOne(TxId(12)));
    pair.make(pair.here, 20, 7);
    assert_eq!(pair.upload(20), UploadOutcome::Published);
    pair.make(pair.here, 21, 7);
    assert!(matches!(pair.upload(21), UploadOutcome::Later(ms) if ms > 2_000_000));
    assert_eq!(pair.found(pair.there), [20, 12]);
}

/// C-11: a checkpoint is in no hurry. However fast images may go, a small one is sent, and read back by both, in small
/// pieces with pauses between, so that the active's callers do not feel it; but in seconds, not in hours.
#[test]
fn c_11_a_small_image_is_sent_gently() {
    let pair = Pair::new(8, 64 << 20);
    pair.make(pair.here, 12, 7);
    let before = pair.world.now();
    assert_eq!(pair.upload(12), UploadOutcome::Published);
    let took = (pair.world.now() - before).as_millis();
    // 3 MiB at 8 MiB/s, and twice at 64 MiB/s.
    assert!((460..700).contains(&took), "{took} ms");
    assert_eq!(pair.found(pair.there), [12]);
}

/// Q27, T-N3: what is not wanted is refused before a byte of it is sent, though sending it would take an hour.
#[test]
fn q27_refusals_come_first() {
    let pair = Pair::new(2, 1_000);
    pair.make(pair.there, 30, 7);
    pair.restart(pair.there, Crash::Process);
    pair.make(pair.here, 12, 7);
    let (seconds, outcome) = pair.seconds(|| pair.upload(12));
    assert_eq!((seconds, outcome), (0, UploadOutcome::HasOne(TxId(30))));

    let images = {
        let mut config = config(1, 1_000);
        config.namesystem.info = info(8);
        Rc::new(Images::new(pair.world.env_of(pair.here), &config))
    };
    pair.make(pair.here, 40, 8);
    let (seconds, outcome) = pair.seconds(|| {
        pair.world.block_on(pair.here, async move {
            upload(&images, &peer(2), TxId(40), &|| false).await
        })
    });
    assert_eq!((seconds, outcome), (0, UploadOutcome::Failed));
    // One at a time.
    pair.make(pair.here, 50, 7);
    let images = pair.images();
    let first = async move {
        upload(&images, &peer(2), TxId(50), &|| false).await;
    };
    pair.world.spawn_on(pair.here, "first", first);
    pair.world.run_for(Duration::from_secs(5));
    let (seconds, outcome) = pair.seconds(|| pair.upload(50));
    assert_eq!((seconds, outcome), (0, UploadOutcome::Later(1_000)));
    assert_eq!(pair.found(pair.there), [30]);
}

/// T-C4, C-06: a throttled upload (100 B/s) is given up at once when the role changes.
#[test]
fn t_c4_a_throttled_upload_is_cancelled_at_once() {
    let pair = Pair::new(3, 100);
    pair.make(pair.here, 12, 7);
    let images = pair.images();
    let stop = Rc::new(Cell::new(false));
    let outcome = Rc::new(Cell::new(None));
    let (told, result) = (Rc::clone(&stop), Rc::clone(&outcome));
    pair.world.spawn_on(pair.here, "upload", async move {
        let ended = upload(&images, &peer(2), TxId(12), &|| told.get()).await;
        result.set(Some(ended));
    });
    pair.world.run_for(Duration::from_secs(60));
    assert_eq!(outcome.get(), None);
    stop.set(true);
    pair.world.run_for(Duration::from_secs(1));
    assert_eq!(outcome.get(), Some(UploadOutcome::Cancelled));
    assert!(pair.found(pair.there).is_empty());
}

/// T-C8: the sender or the receiver is killed at any time of an upload: nothing half is ever visible, and the next try
/// succeeds; after the sender's death it goes on where it broke.
#[test]
fn t_c8_kills_during_an_upload() {
    // 1 MiB/s: the upload takes three seconds.
    for (seed, ms) in (10..).zip([0, 5, 300, 1_500, 2_900, 3_010, 3_060, 3_100, 3_150]) {
        for sender in [true, false] {
            for crash in [Crash::Process, Crash::Power] {
                let pair = Pair::new(seed, 1 << 20);
                pair.make(pair.here, 12, 7);
                let images = pair.images();
                pair.world.spawn_on(pair.here, "upload", async move {
                    upload(&images, &peer(2), TxId(12), &|| false).await;
                });
                pair.world.run_for(Duration::from_millis(ms));
                pair.restart(if sender { pair.here } else { pair.there }, crash);
                pair.world.run_for(Duration::from_secs(20));
                let found = pair.found(pair.there);
                assert!(found.is_empty() || found == [12], "{found:?}");
                let (seconds, outcome) = pair.seconds(|| pair.upload(12));
                match found.is_empty() {
                    true => assert_eq!(outcome, UploadOutcome::Published, "{ms} ms"),
                    false => assert_eq!(outcome, UploadOutcome::HasOne(TxId(12))),
                }
                if sender && ms == 1_500 {
                    assert!(seconds < 2, "it started over: {seconds} s");
                }
                assert_eq!(pair.found(pair.there), [12]);
            }
        }
    }
}

/// T-C8: an image whose digest is not the one announced, or that is damaged on the way, is refused and leaves nothing.
#[test]
fn t_c8_a_wrong_image_is_refused() {
    for damage in ["digest", "byte", "frame"] {
        let pair = Pair::new(4, 0);
        pair.make(pair.here, 12, 7);
        let env = pair.world.env_of(pair.here);
        let fault = pair.world.block_on(pair.here, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            let image = Image::open(env.disk(), &dir, TxId(12), 7).await.unwrap();
            let mut offer = offer_of(image.info());
            let length = usize::try_from(offer.length).unwrap();
            let mut bytes = image.read_raw(0, length).await.unwrap().to_vec();
            if damage == "digest" {
                offer.digest ^= 1;
            }
            if damage == "byte" {
                bytes[1 << 20] ^= 1;
            }
            let expect = Expect::node(Role::Namenode, "nn2");
            let conn = env.net().connect(address(2), &expect).await.unwrap();
            let header = PutImage {
                info: info(7),
                offer,
            };
            let opened = open_append(&conn, ImageProtocol::ID, 1, &header).await;
            let (mut sender, mut acks) = opened.unwrap();
            assert_eq!(acks.next().await.unwrap(), Some(ack(u64::MAX, 0, None)));
            let mut at = 0;
            for piece in bytes.chunks(1 << 18) {
                let mut crc = crc32c_of(piece);
                if damage == "frame" {
                    crc ^= 1;
                }
                let aux = Bytes::copy_from_slice(&crc.to_le_bytes());
                let mut payload = [Bytes::copy_from_slice(piece)];
                let sent = sender.send(FrameKind::Data, 0, at, aux, &mut payload).await;
                if sent.is_err() {
                    break;
                }
                at += piece.len() as u64;
            }
            let finish = sender.send(FrameKind::Finish, 0, at, Bytes::new(), &mut []);
            let _ = finish.await;
            acks.next().await.unwrap().unwrap().fault.unwrap()
        });
        assert_eq!(fault.class, FaultClass::Corrupt, "{damage}: {fault}");
        assert!(pair.found(pair.there).is_empty(), "{damage}");
        assert_eq!(pair.upload(12), UploadOutcome::Published, "{damage}");
    }
}

fn crc32c_of(bytes: &[u8]) -> u32 {
    store_record::checksum::crc32c(bytes)
}

/// An operator may fetch, but not upload.
#[test]
fn an_operator_does_not_upload() {
    let pair = Pair::new(5, 0);
    let world = &pair.world;
    let admin = world.add_node("admin", Role::Admin, address(9), |_| {
        Box::pin(std::future::pending())
    });
    let env = world.env_of(admin);
    let fault = world.block_on(admin, async move {
        let expect = Expect::node(Role::Namenode, "nn2");
        let conn = env.net().connect(address(2), &expect).await.unwrap();
        let header = PutImage {
            info: info(7),
            offer: image::ImageOffer {
                txid: TxId(12),
                length: 1 << 20,
                digest: 0,
            },
        };
        let opened = open_append(&conn, ImageProtocol::ID, 1, &header).await;
        let (_sender, mut acks) = opened.unwrap();
        acks.next().await.unwrap().unwrap().fault.unwrap()
    });
    assert_eq!(fault.class, FaultClass::Forbidden);
}

/// A fetch is published, goes on where the server died, and says when there is nothing.
#[test]
fn a_fetch_survives_the_death_of_its_server() {
    let pair = Pair::new(6, 1 << 20);
    let fetched = |pair: &Pair| {
        let env = pair.world.env_of(pair.here);
        pair.world.block_on(pair.here, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            env.disk().create_dir_all(&dir).await.unwrap();
            fetch_image(&env, &dir, &peer(2), 7).await
        })
    };
    assert_eq!(fetched(&pair).unwrap().image, None);
    pair.make(pair.there, 12, 7);
    pair.restart(pair.there, Crash::Process);
    let there = pair.there;
    pair.world.at(Duration::from_millis(1_500), move |handle| {
        handle.crash(there, Crash::Process);
        handle.restart(there);
    });
    let (seconds, outcome) = pair.seconds(|| fetched(&pair));
    assert_eq!(outcome.unwrap().image.unwrap().txid, TxId(12));
    assert!(seconds < 15, "{seconds} s");
    assert_eq!(pair.digest(pair.there, 12), pair.digest(pair.here, 12));
    pair.world.crash(pair.there, Crash::Process);
    assert!(matches!(
        fetched(&pair),
        Err(FetchError::Unreachable { .. })
    ));
}

/// T-H28: a new NameNode gets identity and image; what is there is not overwritten without force; a missing peer and
/// missing edits have errors of their own and leave no namespace.
#[test]
fn t_h28_bootstrap_standby() {
    let pair = Pair::new(7, 0);
    let bootstrap = |pair: &Pair, force| {
        let env = pair.world.env_of(pair.here);
        pair.world.block_on(pair.here, async move {
            bootstrap_standby(env, &config(1, 0), force).await
        })
    };
    let identity = |pair: &Pair| {
        let env = pair.world.env_of(pair.here);
        pair.world.block_on(pair.here, async move {
            identity::read(env.disk(), &PathBuf::from("/name"))
                .await
                .unwrap()
        })
    };
    // The peer has no image, twelve edits are committed, and no JournalNode has them.
    assert!(matches!(
        bootstrap(&pair, false),
        Err(BootstrapError::MissingEdits {
            image: 0,
            from: 1,
            to: 12,
            ..
        })
    ));
    assert_eq!(identity(&pair), None);
    pair.make(pair.there, 12, 7);
    pair.restart(pair.there, Crash::Process);
    let done = bootstrap(&pair, false).unwrap();
    assert_eq!((done.image, done.from.as_str()), (TxId(12), "nn2"));
    assert_eq!(identity(&pair), Some(info(7)));
    assert_eq!(pair.found(pair.here), [12]);
    assert!(matches!(
        bootstrap(&pair, false),
        Err(BootstrapError::Exists { .. })
    ));
    assert_eq!(bootstrap(&pair, true).unwrap().image, TxId(12));
    pair.restart(pair.here, Crash::Power);
    assert_eq!(identity(&pair), Some(info(7)));
    assert_eq!(pair.found(pair.here), [12]);
    pair.world.crash(pair.there, Crash::Process);
    assert!(matches!(
        bootstrap(&pair, true),
        Err(BootstrapError::NoNamenode { .. })
    ));
    assert_eq!(identity(&pair), Some(info(7)), "nothing was touched");
}

/// A namespace's image in the container, one byte of a section wrong behind checksums that are right: the same typed error
/// whichever section it is. One byte of the file wrong: the image is passed over.
#[test]
fn q23_damage_in_each_section_is_an_error_of_its_kind() {
    let pair = Pair::new(3, 0);
    let mut made = Namesystem::format(config(1, 0).namesystem, BlockConfig::default(), 1);
    let op = EditOp::Mkdir {
        parent: InodeId::ROOT,
        inode: InodeId(2),
        name: "a".into(),
        permission: 0o755,
        owner: "o".into(),
        group: "g".into(),
    };
    let edit = Edit {
        time_ms: 1,
        client: ClientId(0),
        call: CallId(0),
        op,
    };
    made.replay(Tick::from_ms(1), TxId(1), &edit);
    let mut sections: Vec<(u32, Vec<u8>)> = vec![(0, vec![7; 16])];
    for (section, chunk) in ImageSource::new(made.view()) {
        let mut framed = (chunk.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&chunk);
        sections.push((u32::from(section as u8), framed));
    }
    // One storage of nothing.
    let side = [&32u32.to_le_bytes()[..], &[1; 32]].concat();
    sections.push((u32::from(Section::Storages as u8), side));
    let env = pair.world.env_of(pair.here);
    let load = |sections: Vec<(u32, Vec<u8>)>, flip: Option<u64>| {
        let env = env.clone();
        pair.world.block_on(pair.here, async move {
            let dir = images_dir(&PathBuf::from("/name"));
            env.disk().create_dir_all(&dir).await.unwrap();
            let made = ImageWriter::create(env.disk(), &dir, &info(7), TxId(9)).await;
            let mut writer = made.unwrap();
            for (id, content) in sections {
                writer.section(SectionId(id), false);
                writer.write(Bytes::from(content)).await.unwrap();
            }
            let length = writer.finish().await.unwrap().length;
            let path = dir.join(store_fsimage::image_name(TxId(9)));
            if let Some(at) = flip.filter(|at| *at < length) {
                env.disk().flip_bit(&path, 8 * at);
            }
            let read = crate::checkpoint::read_image(env.disk(), &env, &path).await;
            env.disk().remove_file(&path).await.unwrap();
            read.map(|image| image.view.txid())
        })
    };
    assert_eq!(load(sections.clone(), None).unwrap(), TxId(1));
    let ids: Vec<u32> = sections.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 7]);
    for at in 0..sections.len() {
        let id = sections[at].0;
        // The container's section ends early; the chunk in it does, and says so.
        for reframed in [false, true] {
            let mut cut = sections.clone();
            let content = &mut cut[at].1;
            content.truncate(content.len() - 1);
            if reframed && id > 0 {
                let length = content.len() as u32 - 4;
                content[..4].copy_from_slice(&length.to_le_bytes());
            }
            let error = load(cut, None).unwrap_err();
            assert!(
                matches!(error, RunError::BrokenImage { txid: 9, .. }),
                "section {id}: {error}"
            );
        }
    }
    // The file: header, the sections, their table, footer.
    for at in (16..3 * 4_096).step_by(97) {
        match load(sections.clone(), Some(at)) {
            Err(RunError::Image(ImageError::Damaged { .. })) => {}
            other => panic!("byte {at}: {other:?}"),
        }
    }
}
