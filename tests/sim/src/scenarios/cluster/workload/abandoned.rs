//! Files whose writers go away after a flush, perhaps with bytes on their way that a reader has seen.

use super::super::durability::LastBlow;
use super::super::model::content;
use super::super::nodes::{BLOCK_BYTES, wait_ms};
use super::{Client, Stream, check_bytes};
use crate::node::NodeId;
use crate::report::Promise;
use futures_util::future::select;
use std::pin::pin;

/// Time for a flush to reach the first node.
const FLUSH_MS: u64 = 200;
/// Tries to recover the lease of a file at once, and the pause between two.
const RECOVER_ATTEMPTS: u32 = 40;
const RECOVER_PAUSE_MS: u64 = 500;

impl Client {
    /// The writer goes away after a flush. Now and then what it wrote behind that reaches the first node of the pipeline
    /// only, is looked at, and the lease is recovered at once: nothing a reader saw may be gone (F-08).
    pub(super) async fn leave_open(&mut self, id: usize, path: &str, stream: Stream, written: u64) {
        self.ctx.handle.count("files left open", 1);
        let room = BLOCK_BYTES - written % BLOCK_BYTES;
        if written.is_multiple_of(BLOCK_BYTES) || self.rng.chance(1, 2) {
            return;
        }
        let cut = match self.rng.chance(1, 2) {
            true => self.cut_pipeline(&stream),
            false => None,
        };
        let more = self.rng.range(1, room);
        let is_cut = cut.is_some();
        self.write_and_see(id, path, stream, (written, more, room), is_cut)
            .await;
        if let Some((first, second)) = cut {
            // What was on its way between the two is gone with the connection.
            self.ctx.handle.reset_connections(first, second);
            self.ctx.handle.heal_between(first, second);
            self.recover(id, path).await;
        }
    }

    /// The first node of the pipeline hears no other.
    fn cut_pipeline(&self, stream: &Stream) -> Option<(NodeId, NodeId)> {
        let nodes = stream.pipeline_nodes();
        let mut nodes = nodes.iter().filter_map(|name| self.ctx.handle.node(name));
        let cut = nodes.next().zip(nodes.next());
        if let Some((first, second)) = cut {
            self.ctx.handle.count("tails at one node", 1);
            self.ctx.handle.cut(first, second);
        }
        cut
    }

    /// Bytes whose flush is not acknowledged, and what a reader sees of them.
    async fn write_and_see(
        &mut self,
        id: usize,
        path: &str,
        mut stream: Stream,
        (written, more, room): (u64, u64, u64),
        flushes: bool,
    ) {
        let number = self.file(id, |file| {
            file.written = written + more;
            file.number
        });
        let before = stream.pipeline_nodes();
        let result = stream.write_all(&content(number, written, more)).await;
        if self.gave_up(path, "write", result) || more == room || stream.pipeline_nodes() != before
        {
            // Another pipeline, or none.
            self.file(id, |file| file.witness.is_last = false);
            return;
        }
        if flushes {
            // Not waited for: it cannot come to an end.
            let enough = wait_ms(&self.env, FLUSH_MS);
            select(pin!(stream.hflush()), pin!(enough)).await;
        }
        if let Some(seen) = self.see_flushed(id, path).await
            && stream.pipeline_nodes() == before
        {
            self.file(id, |file| file.seen = seen);
        }
    }

    /// Closes the file without its writer, as far as the faults of the moment let it, and reads what is left of it.
    async fn recover(&self, id: usize, path: &str) {
        for _ in 0..RECOVER_ATTEMPTS {
            if self.ctx.stop.get() {
                return;
            }
            if let Ok(true) = self.dfs.recover_lease(path).await {
                break;
            }
            wait_ms(&self.env, RECOVER_PAUSE_MS).await;
        }
        let read = async {
            let is_closed = self.dfs.is_file_closed(path).await?;
            let bytes = self.dfs.open(path).await?.read_to_end().await?;
            Ok::<_, hadal_client::ClientError>((is_closed, bytes))
        };
        let Ok((true, bytes)) = read.await else {
            return;
        };
        self.ctx.handle.count("tails recovered at once", 1);
        let file = self.file(id, |file| file.clone());
        if let Err(words) = check_bytes(path, &file, &bytes) {
            self.violate(Promise::P5, &words);
        }
        // Asked now: whoever of the pipeline has not ended by now had not when the lease was recovered.
        let owed = file.owed_in_the_end(&self.ctx.handle, &LastBlow::default());
        let left = bytes.len() as u64;
        if left < owed {
            let words = format!(
                "{path} has {left} bytes after its lease was recovered, owed are {owed} ({} flushed, {} synced, {} seen): {:?}",
                file.flushed, file.synced, file.seen, file.witness
            );
            self.violate(Promise::P4, &words);
        }
    }

    /// What was flushed is visible to new readers (P4), if anything is: how much was.
    pub(super) async fn see_flushed(&self, id: usize, path: &str) -> Option<u64> {
        let file = self.tree().entry(id).file.clone()?;
        let read = async { self.dfs.open(path).await?.read_to_end().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::info!("read of the open {path}: {error}");
                self.ctx.handle.count("reads of open files failed", 1);
                return None;
            }
        };
        self.ctx.handle.count("reads of open files", 1);
        if let Err(words) = check_bytes(path, &file, &bytes) {
            self.violate(Promise::P5, &words);
        }
        let seen = bytes.len() as u64;
        let owed = file.owed(&self.ctx.handle, &LastBlow::default());
        if seen < owed {
            let words = format!("{path}: a reader sees {seen} bytes, {owed} are owed");
            self.violate(Promise::P4, &words);
        }
        Some(seen)
    }
}
