//! Local files written behind the network, on threads of their own.

use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes gathered before they are written: network pieces are small, system calls are not free.
const BATCH_BYTES: usize = 1 << 20;
/// Pieces gathered at most, what one `writev` takes.
const BATCH_PIECES: usize = 1024;
/// Batches on their way to the disk.
const BATCHES: usize = 4;

/// A file being written. It appears at its path at once.
pub(super) struct LocalWriter {
    path: PathBuf,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    thread: Option<Thread>,
}

struct Thread {
    batches: mpsc::Sender<Vec<Bytes>>,
    outcome: JoinHandle<io::Result<File>>,
}

impl LocalWriter {
    /// Will create or overwrite `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            batch: Vec::new(),
            batch_bytes: 0,
            thread: None,
        }
    }

    /// Takes bytes to write. An error may be one of earlier bytes.
    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.batch_bytes += bytes.len();
        self.batch.push(bytes);
        if self.batch_bytes < BATCH_BYTES && self.batch.len() < BATCH_PIECES {
            return Ok(());
        }
        let batch = self.take_batch();
        let thread = self.thread.get_or_insert_with(|| {
            let (batches, mut queue) = mpsc::channel::<Vec<Bytes>>(BATCHES);
            let path = self.path.clone();
            let outcome = spawn_blocking(move || {
                let mut file = File::create(path)?;
                while let Some(batch) = queue.blocking_recv() {
                    write_all(&mut file, batch)?;
                }
                Ok(file)
            });
            Thread { batches, outcome }
        });
        if thread.batches.send(batch).await.is_err() {
            let thread = self.thread.take().expect("it just refused a batch");
            thread.outcome.await.map_err(io::Error::other)??;
            return Err(io::Error::other("the writing thread ended early"));
        }
        Ok(())
    }

    /// Writes what is left and returns the complete file.
    pub(super) async fn finish(mut self) -> io::Result<File> {
        let batch = self.take_batch();
        let outcome = match self.thread.take() {
            // A small file: all of it in one go.
            None => {
                let path = self.path;
                spawn_blocking(move || {
                    let mut file = File::create(path)?;
                    write_all(&mut file, batch)?;
                    Ok(file)
                })
            }
            Some(thread) => {
                // When the thread has ended already, its outcome says why.
                drop(thread.batches.send(batch).await);
                drop(thread.batches);
                thread.outcome
            }
        };
        outcome.await.map_err(io::Error::other)?
    }

    fn take_batch(&mut self) -> Vec<Bytes> {
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
    }
}

fn write_all(file: &mut File, batch: Vec<Bytes>) -> io::Result<()> {
    let mut pieces: Vec<Bytes> = batch;
    let mut done = 0;
    while done < pieces.len() {
        let slices: Vec<IoSlice<'_>> = pieces[done..]
            .iter()
            .take(BATCH_PIECES)
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut written = match file.write_vectored(&slices) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        };
        let before = done;
        while done < pieces.len() && written >= pieces[done].len() {
            written -= pieces[done].len();
            done += 1;
        }
        if written > 0 {
            pieces[done].advance(written);
        } else if done == before {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn write(pieces: &[usize]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut writer = LocalWriter::new(path.clone());
        let mut expected = Vec::new();
        for (at, length) in pieces.iter().enumerate() {
            let piece = vec![at as u8; *length];
            expected.extend_from_slice(&piece);
            writer.write(piece.into()).await.unwrap();
        }
        writer.finish().await.unwrap();
        assert!(std::fs::read(path).unwrap() == expected, "{pieces:?}");
    }

    #[tokio::test]
    async fn what_is_written_is_there() {
        write(&[]).await;
        write(&[0]).await;
        write(&[1, 0, 3]).await;
        write(&[1200; 3000]).await;
        write(&[BATCH_BYTES; 9]).await;
        write(&[BATCH_BYTES - 1, 2, 3 * BATCH_BYTES, 1]).await;
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_made_is_told() {
        let mut writer = LocalWriter::new("/nowhere/at/all".into());
        let mut outcome = Ok(());
        for _ in 0..100 {
            outcome = writer.write(vec![0; BATCH_BYTES].into()).await;
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::NotFound);
        let writer = LocalWriter::new("/nowhere/at/all".into());
        let error = writer.finish().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
