//! How fast the core is by itself: operations per CPU second and bytes per inode. Run with `--release`.
//!
//! `cargo run --release -p hadal-namesystem --example ops -- [COUNT]`

use hadal_blocks::BlockConfig;
use hadal_namesystem::{Caller, ImageLoader, ImageSource, Namesystem, NamesystemConfig, Output};
use hadal_proto::admin;
use hadal_proto::client::{ClientCall, Request};
use hadal_types::{CallId, ClientId, Epoch, InodeId, Tick, TxId};
use std::time::Duration;

/// Calls between two polls, as a busy driver would batch them.
const BURST: u64 = 64;

/// CPU time of this thread, so that a busy machine does not matter.
struct Instant(Duration);

impl Instant {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        let ns = text.split(' ').next().expect("CPU time").parse();
        Self(Duration::from_nanos(ns.expect("nanoseconds")))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

struct Bench {
    ns: Namesystem,
    caller: Caller,
    calls: u64,
    edit_bytes: usize,
}

impl Bench {
    fn run(&mut self, name: &str, count: u64, request: impl Fn(u64) -> Request) {
        let started = Instant::now();
        let (edits, bytes) = (self.ns.applied().0, self.edit_bytes);
        let mut failed = 0;
        for at in 0..count {
            self.calls += 1;
            let call = ClientCall {
                client: ClientId(1 + u128::from(at % 64)),
                call: CallId(self.calls),
                seen: TxId(0),
                from_standby: false,
                request: request(at),
            };
            let now = Tick::from_ms(1_000);
            self.ns
                .handle_client(now, 1_700_000_000_000, &self.caller, at, call);
            if at % BURST == BURST - 1 || at + 1 == count {
                failed += self.pump();
            }
        }
        let each = started.elapsed().as_secs_f64() / count as f64;
        let edits = self.ns.applied().0 - edits;
        println!(
            "{name:<14} {:>9.0} ops/s {:>6.0} ns/op, {edits} edits of {} bytes, {failed} failed",
            1.0 / each,
            each * 1e9,
            (self.edit_bytes - bytes) as u64 / edits.max(1),
        );
    }

    fn pump(&mut self) -> u64 {
        let mut failed = 0;
        for _ in 0..2 {
            while let Some(output) = self.ns.poll_output() {
                match output {
                    Output::Edits { records, .. } => {
                        self.edit_bytes += records.iter().map(|record| record.len()).sum::<usize>();
                    }
                    Output::Reply {
                        answer: hadal_namesystem::Answer::Client(Err(fault)),
                        ..
                    } => {
                        if failed == 0 {
                            eprintln!("{fault}");
                        }
                        failed += 1;
                    }
                    _ => {}
                }
            }
            let applied = self.ns.applied();
            self.ns.handle_committed(Tick::from_ms(1_000), applied);
        }
        failed
    }
}

fn main() {
    let count = std::env::args()
        .nth(1)
        .map_or(200_000, |count| count.parse().expect("a number"));
    // As much as a client can still ask for again, so that the image is about the namespace.
    let config = NamesystemConfig {
        retry_cache_max: 100_000,
        ..NamesystemConfig::default()
    };
    let mut ns = Namesystem::format(config, BlockConfig::default(), 1);
    let now = Tick::from_ms(1);
    ns.start(now);
    ns.become_active(now, 1, Epoch(1), TxId(1));
    let leave = admin::Request::SafeMode {
        action: admin::SafeModeAction::Leave,
    };
    ns.handle_admin(now, 1, 0, leave);
    let mut bench = Bench {
        ns,
        caller: Caller::superuser("hdfs"),
        calls: 0,
        edit_bytes: 0,
    };
    // As NNThroughputBenchmark: a hundred entries per directory.
    let dir = |at: u64| format!("/nnThroughputBenchmark/mkdirs/dir-{:06}/d{at:08}", at / 100);
    let file = |at: u64| {
        format!(
            "/nnThroughputBenchmark/create/dir-{:06}/part-{at:08}-0123",
            at / 100
        )
    };
    bench.run("mkdirs", count, |at| Request::Mkdirs {
        path: dir(at),
        permission: 0o755,
        create_parent: true,
    });
    bench.run("create", count, |at| Request::Create {
        path: file(at),
        permission: 0o644,
        overwrite: false,
        create_parent: true,
        replication: 3,
        block_size: 128 << 20,
        first_block: None,
    });
    bench.run("complete", count, |at| Request::Complete {
        path: file(at),
        inode: InodeId(0),
        last: None,
    });
    bench.run("getFileInfo", count, |at| Request::GetFileInfo {
        path: file(at.wrapping_mul(7_919) % count),
    });
    bench.run("create, 1 dir", count, |at| Request::Create {
        path: format!("/flat/{:010}", at.wrapping_mul(2_654_435_761) % (1 << 32)),
        permission: 0o644,
        overwrite: false,
        create_parent: true,
        replication: 3,
        block_size: 128 << 20,
        first_block: None,
    });
    let memory = bench.ns.memory_estimate();
    println!(
        "{} inodes, {} bytes each (names and directory entries included)",
        memory.inodes,
        memory.tree_bytes / memory.inodes
    );

    let started = Instant::now();
    let view = bench.ns.view();
    println!(
        "view           {:>9.1} us",
        started.elapsed().as_secs_f64() * 1e6
    );
    let started = Instant::now();
    let chunks: Vec<_> = ImageSource::new(view.clone()).collect();
    let bytes: usize = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
    let inodes = memory.inodes as f64;
    println!(
        "image save     {:>9.0} inodes/s, {bytes} bytes",
        inodes / started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let mut loader = ImageLoader::new(bench.ns.config());
    for (section, chunk) in &chunks {
        loader.feed(*section, chunk).expect("a good image");
    }
    let loaded = loader.finish().expect("a good image");
    println!(
        "image load     {:>9.0} inodes/s, txid {}",
        inodes / started.elapsed().as_secs_f64(),
        loaded.txid()
    );
    let started = Instant::now();
    let digest = view.digest();
    println!(
        "digest         {:>9.0} inodes/s, {:02x}{:02x}..",
        inodes / started.elapsed().as_secs_f64(),
        digest[0],
        digest[1]
    );

    bench.run("rename", count, |at| Request::Rename {
        from: dir(at),
        to: format!("{}-renamed", dir(at)),
        overwrite: false,
    });
    bench.run("delete", count, |at| Request::Delete {
        path: file(at),
        recursive: false,
    });
}
