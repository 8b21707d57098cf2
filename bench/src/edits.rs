//! `edits`: records straight to the journal writer, three JournalNode processes on one device.

use crate::cluster::{binary, free_ports};
use crate::cpu::{own_seconds, process_seconds};
use crate::disk;
use crate::journal_driver::JournalDriver;
use crate::report::{Better, Question, Row, Run};
use crate::settings::{Settings, given_or};
use crate::stats::Latencies;
use anyhow::{Context, Result, ensure};
use hadal_daemon::Config;
use hadal_daemon::config::Member;
use hadal_quic::{ClusterCa, Identity, QuicNet, TransportOptions, Validity};
use hadal_shard::{ShardHandle, ShardOptions, run_on_this_thread, udp};
use hadal_types::{Role, TxId};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// JournalNodes.
const JOURNALNODES: u16 = 3;
/// Callers, each with one record on its way.
const CALLERS: [usize; 4] = [1, 64, 1024, 4096];
/// Bytes of one record; 24 more frame it.
const RECORD_BYTES: usize = 200;
/// Batches on their way at once, and the share of the callers that one takes at most.
const BATCHES_IN_FLIGHT: usize = 4;
/// Name of the writer in its certificate.
const WRITER: &str = "nn1";

/// The JournalNode processes; they end with this.
struct Journalnodes(Vec<(String, SocketAddr, Child)>);

impl Drop for Journalnodes {
    fn drop(&mut self) {
        for (name, _, child) in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("hadal-bench: stopping {name}: {error}");
            }
        }
    }
}

impl Journalnodes {
    fn start(dir: &Path, settings: &Settings) -> Result<Self> {
        let binary = binary()?;
        let base = free_ports(settings.port_base)?;
        let tls = dir.join("tls");
        let ca = ClusterCa::init(&tls, "hadal-bench")?;
        let name = |number: u16| format!("jn{number}");
        let mut config = Config::default();
        config.tls.dir.clone_from(&tls);
        config.cluster.journalnodes = (1..=JOURNALNODES)
            .map(|number| Member {
                id: name(number),
                address: (Ipv4Addr::LOCALHOST, base + number).into(),
                http: None,
            })
            .collect();
        ca.issue_to(&tls, Role::Namenode, WRITER, &[], Validity::days(1))?;
        let mut nodes = Self(Vec::new());
        for member in config.cluster.journalnodes.clone() {
            ca.issue_to(&tls, Role::Journalnode, &member.id, &[], Validity::days(1))?;
            config.journalnode.dir = dir.join(&member.id);
            let file = dir.join(format!("{}.toml", member.id));
            std::fs::write(&file, toml::to_string(&config)?)?;
            let log = std::fs::File::create(dir.join(format!("{}.log", member.id)))?;
            let child = Command::new(&binary)
                .args(["journalnode", "--id", &member.id, "--config"])
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot run {}", binary.display()))?;
            nodes.0.push((member.id, member.address, child));
        }
        Ok(nodes)
    }

    fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.0
            .iter()
            .map(|(name, address, _)| (name.clone(), *address))
            .collect()
    }

    /// Processor seconds so far of the JournalNodes and of this process.
    fn cpu_seconds(&self) -> Result<f64> {
        let mut seconds = own_seconds()?;
        for (name, _, child) in &self.0 {
            let pid = i32::try_from(child.id())?;
            seconds +=
                process_seconds(pid).with_context(|| format!("{name} ended under the load"))?;
        }
        Ok(seconds)
    }
}

/// Asks the question.
///
/// # Errors
/// When the JournalNodes do not come up, or no majority of them goes on.
pub fn run(settings: &Settings) -> Result<Question> {
    let callers = given_or(&settings.threads, &CALLERS);
    ensure!(
        !callers.contains(&0),
        "--threads 0: at least one caller is needed"
    );
    let dir = tempfile::Builder::new()
        .prefix("hadal-bench-")
        .tempdir_in(&settings.dir)?;
    let nodes = Journalnodes::start(dir.path(), settings)?;
    let tls = dir.path().join("tls");
    let path = |name: &str| tls.join(name);
    let identity = Identity::load(
        &path("ca.pem"),
        &path(&format!("{WRITER}.pem")),
        &path(&format!("{WRITER}-key.pem")),
    )?;
    let measured = run_on_this_thread(ShardOptions::new("bench-writer"), |shard: ShardHandle| {
        let (nodes, identity) = (&nodes, &identity);
        async move { rows(&shard, nodes, identity, callers, settings).await }
    })?;
    // What the JournalNodes said is the only hint when one of them failed; the directory goes with this function.
    let (mut rows, batches) = measured.with_context(|| logs(dir.path(), &nodes))?;
    drop(nodes);
    rows.push(disk::append_limit(settings)?);
    Ok(Question {
        name: "edits".into(),
        notes: vec![
            format!(
                "{RECORD_BYTES}-byte records (24 more bytes frame each) straight to the journal writer, {JOURNALNODES} JournalNodes on one device; framing and digests included"
            ),
            format!(
                "a caller hands in its next record when its last one is durable on a majority; at most {BATCHES_IN_FLIGHT} batches in flight"
            ),
            batches,
        ],
        rows,
    })
}

fn logs(dir: &Path, nodes: &Journalnodes) -> String {
    let mut text = String::from("the JournalNodes said:");
    for (name, _, _) in &nodes.0 {
        let log = std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(5)..] {
            text.push_str(&format!("\n  {name}: {line}"));
        }
    }
    text
}

async fn rows(
    shard: &ShardHandle,
    nodes: &Journalnodes,
    identity: &Identity,
    callers: &[usize],
    settings: &Settings,
) -> Result<(Vec<Row>, String)> {
    let bound = udp::bind((Ipv4Addr::LOCALHOST, 0).into(), udp::BUFFER_BYTES)?;
    let options = TransportOptions::default();
    let net = QuicNet::new(bound.socket, udp::runtime(), identity, &options, false)?;
    let journal = JournalDriver::start(shard.clock(), &net, &nodes.addresses()).await?;
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for callers in callers {
        let mut runs = Vec::new();
        let mut per_batch = 0.0;
        for round in 0..=settings.runs {
            let cpu = nodes.cpu_seconds()?;
            let load = load(&journal, *callers, settings.time).await?;
            let records = load.latencies.count() as f64;
            if round > 0 {
                per_batch = records / load.batches as f64;
                runs.push(Run {
                    value: records / load.elapsed.as_secs_f64(),
                    cpu: Some((nodes.cpu_seconds()? - cpu) / records * 1e6),
                    latencies: Some(load.latencies),
                });
            }
            journal.roll_and_purge().await?;
        }
        batches.push(format!("{per_batch:.0} with {callers} callers"));
        let row = Row::new(
            "edits to the quorum",
            format!("{callers} callers"),
            ("txn/s", Better::Higher),
            "1 M txn",
            &runs,
        )?;
        rows.push(row);
    }
    Ok((rows, format!("records per batch: {}", batches.join(", "))))
}

struct Load {
    latencies: Latencies,
    elapsed: Duration,
    batches: u64,
}

/// Keeps `callers` records on their way for `time`.
async fn load(journal: &Rc<JournalDriver>, callers: usize, time: Duration) -> Result<Load> {
    let record = [0x5A; RECORD_BYTES];
    let start = Instant::now();
    // When each waiting caller became ready, and per batch in flight its last record and its callers.
    let mut waiting: VecDeque<Instant> = vec![start; callers].into();
    let mut in_flight: VecDeque<(TxId, Vec<Instant>)> = VecDeque::new();
    let mut latencies = Latencies::default();
    let mut batches = 0;
    let most = batch_records(callers);
    loop {
        while in_flight.len() < BATCHES_IN_FLIGHT && !waiting.is_empty() {
            let batch: Vec<Instant> = waiting.drain(..waiting.len().min(most)).collect();
            let last = journal.append(batch.iter().map(|_| &record))?;
            in_flight.push_back((last, batch));
            batches += 1;
        }
        if in_flight.is_empty() {
            break;
        }
        let committed = journal.committed().await?;
        let now = Instant::now();
        while in_flight
            .front()
            .is_some_and(|(last, _)| *last <= committed)
        {
            let (_, batch) = in_flight.pop_front().expect("looked at above");
            for asked in batch {
                latencies.record(now - asked);
                if now - start < time {
                    waiting.push_back(now);
                }
            }
        }
    }
    Ok(Load {
        latencies,
        elapsed: start.elapsed(),
        batches,
    })
}

/// Records one batch takes at most: callers that all wait for one batch would leave the JournalNodes idle while it is
/// framed.
fn batch_records(callers: usize) -> usize {
    callers.div_ceil(2)
}
