//! A writer in a process of its own, to be killed: `harness-writer CLIENT_TOML PATH SEED [append]`.
//!
//! It opens the file and does what the lines on its standard input say: `write N`, `hflush`, `hsync`, `close`. Each is
//! answered with `ok POSITION` or `error WORDS`, and so is the opening. The bytes are those of [`harness::Pattern`].

use hadal_client::{AppendOptions, CreateOptions};
use harness::{Pattern, TestClient};
use std::io::BufRead;
use std::path::Path;

/// Bytes handed over at once.
const PIECE: usize = 1 << 20;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (config, path, seed) = match &words[..] {
        [config, path, seed, ..] => (config, path, seed.parse().expect("a seed")),
        _ => panic!("usage: harness-writer CLIENT_TOML PATH SEED [append]"),
    };
    let pattern = Pattern(seed);
    let client = TestClient::of_config(Path::new(config));
    let dfs = client.dfs_quick(|_| {});
    // As long as its orders take: whoever gives them has a limit for each.
    client.runtime().block_on(async {
        let opened = match words.get(3).map(String::as_str) {
            Some("append") => dfs.append(path, &AppendOptions::default()).await,
            _ => dfs.create(path, &CreateOptions::default()).await,
        };
        let mut out = match opened {
            Ok(out) => out,
            Err(error) => return println!("error {error}"),
        };
        println!("ok {}", out.position());
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("a line");
            let outcome = match line.split_once(' ') {
                Some(("write", length)) => {
                    let mut left: usize = length.parse().expect("a number of bytes");
                    loop {
                        let piece = left.min(PIECE);
                        let bytes = pattern.bytes(out.position(), piece);
                        match out.write_bytes(bytes.into()).await {
                            Ok(()) if left > piece => left -= piece,
                            outcome => break outcome,
                        }
                    }
                }
                _ => match &*line {
                    "hflush" => out.hflush().await,
                    "hsync" => out.hsync().await,
                    "close" => out.close().await,
                    other => panic!("what is `{other}'?"),
                },
            };
            match outcome {
                Ok(()) => println!("ok {}", out.position()),
                Err(error) => println!("error {error}"),
            }
        }
    });
}
