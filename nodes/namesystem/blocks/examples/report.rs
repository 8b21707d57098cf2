//! Blocks per second of a full report: first, repeated, and of a storage that has a tenth of the map.
//!
//! `cargo run --release -p hadal-blocks --example report -- [blocks] [grown]`: with `grown` the map was filled by edits,
//! block by block, not from an image.

use hadal_blocks::{BlockConfig, BlockManager};
use hadal_proto::datanode::{
    BlockReport, REPORT_PART_MAX, Registration, ReportEntries, Request, StorageReport,
};
use hadal_types::{
    Block, BlockId, BlockPoolId, CURRENT_LAYOUT, ClusterId, DatanodeUuid, Epoch, GenerationStamp,
    HaState, InodeId, NamespaceInfo, StorageUuid, Tick, TxId, mix,
};
use std::time::Instant;

const NODES: u128 = 3;

fn main() {
    let count: u64 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |text| text.parse().expect("a number of blocks"));
    let info = NamespaceInfo {
        layout: CURRENT_LAYOUT,
        namespace_id: 1,
        cluster_id: ClusterId("CID".into()),
        block_pool_id: BlockPoolId("BP".into()),
        created_ms: 0,
    };
    let mut manager = BlockManager::new(BlockConfig::default(), info.clone(), 1);
    manager.become_standby(Tick(0), HaState::Standby);
    let mut blocks: Vec<Block> = (0..count)
        .map(|n| Block {
            id: BlockId((1 << 30) + n),
            generation_stamp: GenerationStamp(1000 + n),
            length: 1 << 27,
        })
        .collect();
    let start = Instant::now();
    let grown = std::env::args().nth(2).is_some_and(|word| word == "grown");
    for block in &blocks {
        if grown {
            manager.allocated(TxId(1), *block, InodeId(16_386 + block.id.0), 3);
            manager.completed(TxId(1), *block);
            continue;
        }
        manager.load(*block, InodeId(16_386 + block.id.0), 3, false);
    }
    manager.applied(
        TxId(1),
        BlockId((1 << 30) + count),
        GenerationStamp(1000 + count),
    );
    manager.start(Tick(0));
    print(
        if grown { "edits" } else { "image" },
        count,
        start.elapsed().as_secs_f64(),
    );
    for node in 0..NODES {
        let registration = Registration {
            uuid: DatanodeUuid(node),
            name: format!("dn{node}"),
            address: format!("10.0.0.{node}:9866"),
            http_address: String::new(),
            shards: 1,
            rack: "/default-rack".into(),
            layout: CURRENT_LAYOUT,
            info: info.clone(),
            software: String::new(),
            storages: vec![StorageReport {
                storage: StorageUuid(node),
                ..StorageReport::default()
            }],
        };
        call(&mut manager, node, Request::Register { registration });
    }
    blocks.sort_by_key(|block| mix(block.id));
    let tenth: Vec<Block> = blocks
        .iter()
        .copied()
        .filter(|b| b.id.0 % 10 == 0)
        .collect();
    let (all, tenth) = (pack(&blocks), pack(&tenth));
    for node in 0..NODES - 1 {
        let seconds = report(&mut manager, node, 1, &all);
        print("first report", count, seconds);
    }
    let repeated = |manager: &mut BlockManager, node, packed, what| {
        // The best of several, since other work on the machine only ever adds.
        let best = (10..25).map(|id| report(manager, node, id, packed));
        print(what, entries(packed), best.fold(f64::MAX, f64::min));
    };
    repeated(&mut manager, 0, &all, "nothing changed");
    let last = NODES - 1;
    let seconds = report(&mut manager, last, 1, &tenth);
    print("first report, a tenth", entries(&tenth), seconds);
    repeated(&mut manager, last, &tenth, "nothing changed, a tenth");
    let seconds = report(&mut manager, last, 2, &all);
    print("nine tenths new", count, seconds);
    let stats = manager.stats();
    assert_eq!((stats.safe, stats.complete), (count, count));
    println!(
        "map: {:.1} bytes per block with three locations",
        manager.map_bytes() as f64 / count as f64
    );
}

fn pack(blocks: &[Block]) -> bytes::Bytes {
    let mut packed = Vec::with_capacity(blocks.len() * ReportEntries::ENTRY_LEN);
    for block in blocks {
        ReportEntries::push(&mut packed, block);
    }
    packed.into()
}

fn call(manager: &mut BlockManager, node: u128, request: Request) {
    let name = format!("dn{node}");
    manager
        .handle_request(Tick(0), &name, request, TxId(1))
        .expect("the request is good");
}

fn entries(packed: &bytes::Bytes) -> u64 {
    (packed.len() / ReportEntries::ENTRY_LEN) as u64
}

/// Sends a report in as many parts as it needs; seconds it took.
fn report(manager: &mut BlockManager, node: u128, id: u64, packed: &bytes::Bytes) -> f64 {
    let part_len = REPORT_PART_MAX * ReportEntries::ENTRY_LEN;
    let parts = packed.len().div_ceil(part_len).max(1);
    let start = Instant::now();
    for part in 0..parts {
        let finalized = packed.slice(part * part_len..packed.len().min((part + 1) * part_len));
        let report = BlockReport {
            uuid: DatanodeUuid(node),
            storage: StorageUuid(node),
            report_id: id,
            part: part as u32,
            parts: parts as u32,
            includes: 0,
            acknowledged: Epoch(0),
            finalized,
            open: Vec::new(),
        };
        call(manager, node, Request::BlockReport { report });
    }
    start.elapsed().as_secs_f64()
}

fn print(what: &str, blocks: u64, seconds: f64) {
    println!(
        "{what:26} {blocks:9} blocks {:8.1} ms {:7.1} M blocks/s",
        seconds * 1e3,
        blocks as f64 / seconds / 1e6
    );
}
