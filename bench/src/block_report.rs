//! `block-report`: the block manager's core in this process, with DataNodes that send what real ones would (T-B2).

use crate::cpu::own_seconds;
use crate::fake_datanode::{FakeDatanode, Traffic, namespace};
use crate::report::{Better, Question, Row, Run};
use crate::settings::{Settings, given_or};
use crate::stats::Latencies;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hadal_blocks::{BlockConfig, BlockManager};
use hadal_proto::datanode::{Request, Response};
use hadal_proto::decode;
use hadal_types::{Block, BlockId, GenerationStamp, HaState, InodeId, Tick, TxId};
use std::time::{Duration, Instant};

/// Blocks of one storage.
const BLOCKS: [usize; 2] = [100_000, 1_000_000];
/// DataNodes, one storage each; every block has a replica on each.
const DATANODES: usize = 3;
/// Repeated reports of each DataNode per run.
const REPORTS: usize = 2;
/// Replicas lost without a word before the digest report that finds them.
const CHANGES: u64 = 10;
/// How long digests are asked for unmeasured after full reports.
const SETTLED: Duration = Duration::from_millis(100);
const FIRST_BLOCK: u64 = 1 << 30;
const STAMP: u64 = 1001;
const BLOCK_BYTES: u64 = 128 << 20;

/// Asks the question.
///
/// # Errors
/// When the block manager refuses a report, or does not count what was reported.
pub fn run(settings: &Settings) -> Result<Question> {
    let sizes = given_or(&settings.blocks, &BLOCKS);
    let datanodes = settings.datanodes.unwrap_or(DATANODES);
    let reports = settings.reports.unwrap_or(REPORTS);
    ensure!(
        datanodes > 0 && reports > 0 && !sizes.contains(&0),
        "-datanodes, -reports and -blocks are at least 1"
    );
    let mut rows = Vec::new();
    let mut sent = Vec::new();
    for blocks in sizes {
        let stored: Vec<Block> = (0..*blocks as u64).map(block).collect();
        let one = FakeDatanode::new(0, &namespace(), stored.clone());
        let whole: Vec<FakeDatanode> = (0..datanodes).map(|number| one.twin(number)).collect();
        let mut fakes = whole.clone();
        let bytes: usize = fakes[0].full_report().iter().map(Bytes::len).sum();
        sent.push(format!("{bytes} of {blocks} blocks"));
        let mut all: [Vec<Run>; 2] = Default::default();
        let mut digests: [Vec<Digested>; 3] = Default::default();
        for round in 0..=settings.runs {
            let mut world = World::new(&stored, &fakes)?;
            let first = world.digest(&mut fakes[..1])?;
            let mut world = World::new(&stored, &fakes)?;
            let fresh = world.reports(&mut fakes, 1)?;
            let unchanged = world.reports(&mut fakes, reports)?;
            world.check(&stored)?;
            world.settle(&mut fakes)?;
            let same = world.digest(&mut fakes)?;
            let step = (*blocks as u64 / CHANGES).max(1);
            for fake in &mut fakes {
                fake.lose(|block| (block.id.0 - FIRST_BLOCK).is_multiple_of(step));
            }
            let changed = world.digest(&mut fakes)?;
            let lost = (0..*blocks as u64).step_by(step as usize);
            for number in lost {
                let live = world.manager.stored(block(number).id).map(|it| it.live);
                ensure!(live == Some(0), "block {number} is lost, not {live:?}");
            }
            fakes.clone_from(&whole);
            if round > 0 {
                all[0].push(fresh);
                all[1].push(unchanged);
                for (runs, run) in digests.iter_mut().zip([first, same, changed]) {
                    runs.push(run);
                }
            }
        }
        let load = format!("{blocks} blocks, {datanodes} DataNodes");
        let rate = ("replicas/s", Better::Higher);
        let figures = ["full report, first", "full report, nothing changed"];
        for (figure, runs) in figures.into_iter().zip(&all) {
            rows.push(Row::new(figure, load.clone(), rate, "1 M replicas", runs)?);
        }
        let figures = [
            "digest report, first".to_owned(),
            "digest report, nothing changed".to_owned(),
            format!("digest report, {CHANGES} replicas lost"),
        ];
        for (figure, runs) in figures.into_iter().zip(&digests) {
            rows.extend(digest_rows(&figure, &load, runs)?);
        }
    }
    Ok(Question {
        name: "block-report".into(),
        notes: vec![
            "in process, on one core, decoding included, network not; the latency is that of one whole report of one storage".into(),
            format!("bytes sent per full report: {}", sent.join(", ")),
            "digest reports: median of the storages; bytes of all calls and answers. The first one of a storage ends in a full report. Unchanged ones are measured once the allocator has given back what the full reports before them took, which else falls into them".into(),
        ],
        rows,
    })
}

/// Digest reports of some storages.
struct Digested {
    latencies: Latencies,
    traffic: Traffic,
    storages: usize,
    cpu: f64,
}

fn digest_rows(figure: &str, load: &str, runs: &[Digested]) -> Result<[Row; 2]> {
    let times = runs.iter().map(|run| Run {
        value: run.latencies.at_us(0.5) / 1e3,
        latencies: Some(run.latencies.clone()),
        cpu: Some(run.cpu / run.storages as f64),
    });
    let bytes = runs.iter().map(|run| Run {
        value: run.traffic.bytes() as f64 / run.storages as f64,
        ..Run::default()
    });
    Ok([
        Row::new(
            figure,
            load,
            ("ms/storage", Better::Lower),
            "storage",
            &times.collect::<Vec<_>>(),
        )?,
        Row::new(
            format!("{figure}: bytes"),
            load,
            ("B/storage", Better::Lower),
            "",
            &bytes.collect::<Vec<_>>(),
        )?,
    ])
}

fn block(number: u64) -> Block {
    Block {
        id: BlockId(FIRST_BLOCK + number),
        generation_stamp: GenerationStamp(STAMP),
        length: BLOCK_BYTES,
    }
}

/// A standby that has loaded its image, and DataNodes that registered.
struct World {
    manager: BlockManager,
    datanodes: usize,
}

impl World {
    const NOW: Tick = Tick::from_ms(1_000_000);

    fn new(blocks: &[Block], datanodes: &[FakeDatanode]) -> Result<Self> {
        let mut manager = BlockManager::new(BlockConfig::default(), namespace(), 42);
        let replication = u16::try_from(datanodes.len())?;
        manager.reserve(blocks.len() as u64);
        for block in blocks {
            let inode = InodeId(block.id.0 - FIRST_BLOCK + 20_000);
            manager.load(*block, inode, replication, false);
        }
        let next = BlockId(FIRST_BLOCK + blocks.len() as u64);
        manager.applied(TxId(1), next, GenerationStamp(STAMP));
        manager.become_standby(Self::NOW, HaState::Standby);
        manager.start(Self::NOW);
        let mut world = Self {
            manager,
            datanodes: datanodes.len(),
        };
        for datanode in datanodes {
            world.send(&datanode.name(), datanode.registration(&namespace()))?;
        }
        Ok(world)
    }

    fn send(&mut self, datanode: &str, request: Request) -> Result<Response> {
        let answer = self
            .manager
            .handle_request(Self::NOW, datanode, request, TxId(1));
        answer.with_context(|| format!("a request of {datanode}"))
    }

    /// Every block must be known on every DataNode, or what was timed was not the work.
    fn check(&self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            let live = self
                .manager
                .stored(block.id)
                .map_or(0, |stored| usize::from(stored.live));
            ensure!(
                live == self.datanodes,
                "{} has {live} of {} replicas after all reports",
                block.id,
                self.datanodes
            );
        }
        Ok(())
    }

    /// Every DataNode sends `times` full reports of its storage.
    fn reports(&mut self, datanodes: &mut [FakeDatanode], times: usize) -> Result<Run> {
        let calls: Vec<Vec<(String, Vec<Bytes>)>> = (0..times)
            .map(|_| {
                let all = datanodes.iter_mut();
                all.map(|datanode| (datanode.name(), datanode.full_report()))
                    .collect()
            })
            .collect();
        let mut latencies = Latencies::default();
        let (cpu, start) = (own_seconds()?, Instant::now());
        for calls in calls {
            for (datanode, parts) in calls {
                let begun = Instant::now();
                for part in parts {
                    self.send(&datanode, decode(part)?)?;
                }
                latencies.record(begun.elapsed());
                while self.manager.poll_event().is_some() {}
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let each: usize = datanodes.iter().map(FakeDatanode::replicas).sum();
        let replicas = (times * each) as f64;
        Ok(Run {
            value: replicas / seconds,
            cpu: Some((own_seconds()? - cpu) / replicas * 1e6),
            latencies: Some(latencies),
        })
    }

    /// Digest reports that are not measured, until the allocator has given back what the full reports before them took: it
    /// does so with a delay, in whatever is allocated next, and that took ten times as long as a digest.
    fn settle(&mut self, datanodes: &mut [FakeDatanode]) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < SETTLED {
            std::thread::sleep(SETTLED / 10);
            self.digest(datanodes)?;
        }
        Ok(())
    }

    /// Every DataNode reports by digest.
    fn digest(&mut self, datanodes: &mut [FakeDatanode]) -> Result<Digested> {
        let (mut latencies, mut traffic) = (Latencies::default(), Traffic::default());
        let cpu = own_seconds()?;
        for datanode in &mut *datanodes {
            let name = datanode.name();
            let begun = Instant::now();
            traffic.add(datanode.digest_report(|bytes| self.send(&name, decode(bytes)?))?);
            latencies.record(begun.elapsed());
            while self.manager.poll_event().is_some() {}
        }
        Ok(Digested {
            latencies,
            traffic,
            storages: datanodes.len(),
            cpu: own_seconds()? - cpu,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T-B2: D DataNodes, R reports, B blocks per report; first and repeated.
    #[test]
    fn t_b2_every_replica_of_every_report_is_counted() {
        let settings = Settings {
            blocks: vec![1000],
            datanodes: Some(5),
            reports: Some(4),
            ..Settings::new(std::env::temp_dir())
        };
        let question = run(&settings).unwrap();
        let samples: Vec<u64> = question
            .rows
            .iter()
            .filter_map(|row| Some(row.latency.as_ref()?.samples))
            .collect();
        // Per measured run: one first report of each DataNode, then four of each; by digest of one, and of each.
        assert_eq!(samples, [3 * 5, 3 * 5 * 4, 3, 3 * 5, 3 * 5]);
        let median = |figure: &str| {
            let row = question.rows.iter().find(|row| row.figure == figure);
            row.unwrap().median
        };
        assert!(median("digest report, nothing changed: bytes") < 300.0);
        assert!(median("digest report, 10 replicas lost: bytes") > 1_000.0);
        assert!(median("digest report, first: bytes") > 24_000.0);
    }

    #[test]
    fn the_check_notices_a_block_nobody_reported() {
        let stored: Vec<Block> = (0..100).map(block).collect();
        let mut fakes = vec![FakeDatanode::new(0, &namespace(), stored.clone())];
        let mut world = World::new(&stored, &fakes).unwrap();
        assert!(world.check(&stored).is_err());
        world.reports(&mut fakes, 1).unwrap();
        world.check(&stored).unwrap();
        assert!(world.check(&[block(u64::from(u32::MAX))]).is_err());
    }
}
