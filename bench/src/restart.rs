//! `restart`: a NameNode's core from its image to serving, with DataNodes that confirm what the image remembers by digests,
//! or report everything.

use crate::cpu::own_seconds;
use crate::fake_datanode::{FakeDatanode, Traffic, homes};
use crate::image::{NOW, WALL_MS, block_of, build, load, save};
use crate::report::{Better, Question, Row, Run};
use crate::settings::Settings;
use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use hadal_blocks::BlockConfig;
use hadal_env::Compute;
use hadal_namesystem::{Answer, LocationSource, Namesystem, Output, Section};
use hadal_proto::datanode::{Request, Response};
use hadal_proto::{decode, encode};
use hadal_shard::Cores;
use hadal_types::{Epoch, Principal, Role};
use std::time::Instant;

/// Files of one block each.
const FILES: [usize; 2] = [100_000, 1_000_000];
pub(crate) const DATANODES: usize = 30;
pub(crate) const REPLICATION: usize = 3;
const EPOCH: Epoch = Epoch(1);

/// How DataNodes report behind a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Digests,
    Full,
}

/// Asks the question.
///
/// # Errors
/// When the core refuses something, or does not know every replica in the end.
pub fn run(settings: &Settings) -> Result<Question> {
    let sizes = match settings.files {
        None => FILES.to_vec(),
        Some(files) => vec![files],
    };
    let datanodes = settings.datanodes.unwrap_or(DATANODES);
    ensure!(
        !sizes.contains(&0) && datanodes >= REPLICATION,
        "restart needs --files of at least 1 and --datanodes of at least {REPLICATION}"
    );
    let mut rows = Vec::new();
    for files in sizes {
        rows.extend(rows_of(files, datanodes, settings.runs)?);
    }
    Ok(Question {
        name: "restart".into(),
        notes: vec![
            format!("in process: the image is read from memory, on {} cores (its file, checksums and the journal's tail come on top), calls are decoded and answered on one, network not included", Cores.lanes()),
            "serving: safe mode is left (extension 0, threshold 0.999); reported: every storage has reported. Bytes are those of all reports and their answers".into(),
        ],
        rows,
    })
}

/// What one restart took.
struct Restart {
    load: f64,
    serving: f64,
    reported: f64,
    cpu: f64,
    traffic: Traffic,
}

fn rows_of(files: usize, datanodes: usize, runs: usize) -> Result<Vec<Row>> {
    let (image, sides, mut datanodes) = prepare(files, datanodes)?;
    let mut restarts: [Vec<Restart>; 2] = [Vec::new(), Vec::new()];
    for round in 0..=runs {
        for (mode, all) in [Mode::Digests, Mode::Full].into_iter().zip(&mut restarts) {
            let restart = restart(&image, &mut datanodes, files, mode)?;
            if round > 0 {
                all.push(restart);
            }
        }
    }
    let load = format!(
        "{files} files of one block, {REPLICATION} replicas, {} DataNodes",
        datanodes.len()
    );
    let row = |figure: &str, unit: (&str, Better), per: &str, runs: Vec<Run>| {
        Row::new(figure, load.clone(), unit, per, &runs)
    };
    let seconds = ("s", Better::Lower);
    let mut rows = Vec::new();
    for (how, all) in ["digests", "full reports"].into_iter().zip(&restarts) {
        let of = |value: fn(&Restart) -> f64| -> Vec<Run> {
            all.iter()
                .map(|restart| Run {
                    value: value(restart),
                    latencies: None,
                    cpu: None,
                })
                .collect()
        };
        let mut serving = of(|restart| restart.serving);
        for (run, restart) in serving.iter_mut().zip(all) {
            run.cpu = Some(restart.cpu);
        }
        rows.push(row(
            &format!("start to serving, {how}"),
            seconds,
            "restart",
            serving,
        )?);
        rows.push(row(
            &format!("start to all reported, {how}"),
            seconds,
            "",
            of(|restart| restart.reported),
        )?);
        rows.push(row(
            &format!("bytes of reports, {how}"),
            ("B", Better::Lower),
            "",
            of(|restart| restart.traffic.bytes() as f64),
        )?);
        rows.push(row(
            &format!("bytes per storage, {how}"),
            ("B", Better::Lower),
            "",
            {
                let mut per = of(|restart| restart.traffic.bytes() as f64);
                per.iter_mut()
                    .for_each(|run| run.value /= datanodes.len() as f64);
                per
            },
        )?);
    }
    let loads = restarts.iter().flatten().map(|restart| Run {
        value: restart.load,
        ..Run::default()
    });
    rows.push(row("image to started", seconds, "", loads.collect())?);
    let size = |bytes: usize| {
        vec![Run {
            value: bytes as f64 / files as f64,
            ..Run::default()
        }]
    };
    let per_file = ("B/file", Better::Lower);
    let all: usize = image.iter().map(|(_, chunk)| chunk.len()).sum();
    rows.push(row("image with locations", per_file, "", size(all))?);
    rows.push(row("locations in the image", per_file, "", size(sides))?);
    Ok(rows)
}

type Image = Vec<(Section, Bytes)>;

/// An image of a NameNode that knows every replica, the bytes of its side sections, and the DataNodes.
fn prepare(files: usize, count: usize) -> Result<(Image, usize, Vec<FakeDatanode>)> {
    let mut namesystem = build(files);
    namesystem.start(NOW);
    let info = namesystem.config().info.clone();
    let mut blocks = vec![Vec::new(); count];
    for number in 0..files as u64 {
        for home in homes(number, count, REPLICATION)? {
            blocks[home].push(block_of(number));
        }
    }
    let mut datanodes: Vec<FakeDatanode> = blocks
        .into_iter()
        .enumerate()
        .map(|(number, blocks)| FakeDatanode::new(number, &info, blocks))
        .collect();
    for datanode in &mut datanodes {
        call(
            &mut namesystem,
            &datanode.name(),
            datanode.registration(&info),
        )?;
        for part in datanode.full_report() {
            call(&mut namesystem, &datanode.name(), decode(part)?)?;
        }
    }
    let mut image = save(&namesystem)?;
    let mut source = LocationSource::new(namesystem.view(), &namesystem);
    let mut sides = 0;
    while let Some((section, chunk)) = source.next_chunk(&namesystem) {
        sides += chunk.len();
        image.push((section, chunk));
    }
    Ok((image, sides, datanodes))
}

pub(crate) fn call(
    namesystem: &mut Namesystem,
    datanode: &str,
    request: Request,
) -> Result<Response> {
    let peer = Principal {
        role: Role::Datanode,
        name: datanode.into(),
    };
    namesystem.handle_datanode(NOW, WALL_MS, &peer, 1, request);
    let mut answered = None;
    while let Some(output) = namesystem.poll_output() {
        if let Output::Reply {
            answer: Answer::Datanode(answer),
            ..
        } = output
        {
            answered = Some(answer);
        }
    }
    match answered {
        Some(Ok(response)) => Ok(response),
        Some(Err(fault)) => bail!("{datanode} was refused: {fault:?}"),
        None => bail!("{datanode} got no answer"),
    }
}

fn restart(
    image: &Image,
    datanodes: &mut [FakeDatanode],
    files: usize,
    mode: Mode,
) -> Result<Restart> {
    let (cpu, start) = (own_seconds()?, Instant::now());
    let blocks = BlockConfig {
        safe_mode_extension_ms: 0,
        digest_reports: mode == Mode::Digests,
        ..BlockConfig::default()
    };
    let mut namesystem = load(image, blocks)?;
    namesystem.start(NOW);
    let next = namesystem.applied().next();
    namesystem.become_active(NOW, WALL_MS, EPOCH, next);
    let load = start.elapsed().as_secs_f64();
    let info = namesystem.config().info.clone();
    let (mut traffic, mut serving) = (Traffic::default(), None);
    for datanode in datanodes.iter_mut() {
        datanode.acknowledged = EPOCH;
        let registration = encode(&datanode.registration(&info));
        call(&mut namesystem, &datanode.name(), decode(registration)?)?;
        let name = datanode.name();
        match mode {
            Mode::Digests => traffic
                .add(datanode.digest_report(|bytes| call(&mut namesystem, &name, decode(bytes)?))?),
            Mode::Full => {
                for part in datanode.full_report() {
                    let sent = part.len();
                    let answer = call(&mut namesystem, &name, decode(part)?)?;
                    traffic.add(Traffic {
                        sent,
                        received: encode(&answer).len(),
                        calls: 1,
                    });
                }
            }
        }
        if serving.is_none() && !namesystem.in_safe_mode() {
            serving = Some(start.elapsed().as_secs_f64());
        }
    }
    let reported = start.elapsed().as_secs_f64();
    let cpu = own_seconds()? - cpu;
    let stats = namesystem.blocks().stats();
    ensure!(
        (stats.safe, stats.complete) == (files as u64, files as u64)
            && stats.unreported_storages == 0
            && stats.under_replicated == 0,
        "after all reports {} of {files} blocks are safe, {} lack replicas, {} storages are silent",
        stats.safe,
        stats.under_replicated,
        stats.unreported_storages
    );
    let Some(serving) = serving else {
        bail!("safe mode is still on after all reports");
    };
    Ok(Restart {
        load,
        serving,
        reported,
        cpu,
        traffic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The point of remembered locations: a call of under 300 bytes each instead of 24 bytes per replica.
    #[test]
    fn a_small_restart_exchanges_what_it_should() {
        let settings = Settings {
            files: Some(3_000),
            ..Settings::new(std::env::temp_dir())
        };
        let question = run(&settings).unwrap();
        let median = |figure: &str| {
            let row = question.rows.iter().find(|row| row.figure == figure);
            row.unwrap().median
        };
        assert!(median("bytes per storage, digests") < 300.0);
        assert!(median("bytes of reports, full reports") > 3_000.0 * 3.0 * 24.0);
        assert!(median("locations in the image") < 6.0);
    }
}
