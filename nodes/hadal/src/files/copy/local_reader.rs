//! Local files read ahead of the network, on threads of their own.

use bytes::Bytes;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// Bytes per piece.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead per file.
const READ_AHEAD: usize = 4;
/// Buffers kept for reuse: fresh memory costs page faults.
const KEPT: usize = 64;

static BUFFERS: LazyLock<Arc<Buffers>> = LazyLock::new(Arc::default);

/// Buffers of [`PIECE_BYTES`] not in use.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

/// A buffer with content; goes back to the others when dropped.
struct Piece {
    data: Vec<u8>,
    length: usize,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.data));
        }
    }
}

/// Reads the next piece; shorter than [`PIECE_BYTES`] only at the end of the file.
fn next_piece(file: &mut impl Read) -> io::Result<Bytes> {
    let kept = {
        let mut kept = BUFFERS.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pop()
    };
    let mut piece = Piece {
        data: kept.unwrap_or_else(|| vec![0; PIECE_BYTES]),
        length: 0,
        home: Arc::clone(&BUFFERS),
    };
    while piece.length < PIECE_BYTES {
        match file.read(&mut piece.data[piece.length..]) {
            Ok(0) => break,
            Ok(count) => piece.length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Bytes::from_owner(piece))
}

/// A local file, or standard input, being read.
pub(super) struct LocalReader {
    first: Option<Bytes>,
    rest: Option<mpsc::Receiver<io::Result<Bytes>>>,
    /// What the system says of the file; `None` for standard input.
    pub(super) metadata: Option<Metadata>,
}

impl LocalReader {
    /// Opens a file. A small one is read at once.
    pub(super) async fn open(path: PathBuf) -> io::Result<Self> {
        let opened = spawn_blocking(move || {
            let mut file = File::open(&path)?;
            let metadata = file.metadata()?;
            if metadata.len() > PIECE_BYTES as u64 {
                // Advice only: a system that does not take it reads all the same.
                let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
            }
            let first = next_piece(&mut file)?;
            Ok::<_, io::Error>((file, metadata, first))
        });
        let (file, metadata, first) = opened.await.map_err(io::Error::other)??;
        let rest = (first.len() == PIECE_BYTES).then(|| read_ahead(file));
        Ok(Self {
            first: Some(first),
            rest,
            metadata: Some(metadata),
        })
    }

    /// Standard input.
    pub(super) fn standard_input() -> Self {
        Self {
            first: None,
            rest: Some(read_ahead(io::stdin())),
            metadata: None,
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Ok(Some(first));
        }
        match &mut self.rest {
            Some(rest) => rest.recv().await.transpose(),
            None => Ok(None),
        }
    }
}

fn read_ahead(mut file: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, receiver) = mpsc::channel(READ_AHEAD);
    // Ends by itself: at the end of the file, at an error, or when nobody listens any more.
    drop(spawn_blocking(move || {
        loop {
            let piece = next_piece(&mut file);
            let last = !matches!(&piece, Ok(bytes) if bytes.len() == PIECE_BYTES);
            let empty = matches!(&piece, Ok(bytes) if bytes.is_empty());
            if empty || pieces.blocking_send(piece).is_err() || last {
                return;
            }
        }
    }));
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(length: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let mut reader = LocalReader::open(path).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = reader.next().await.unwrap() {
            assert!(!bytes.is_empty() && bytes.len() <= PIECE_BYTES);
            all.extend_from_slice(&bytes);
        }
        assert!(all == content, "{length} bytes came back changed");
        all
    }

    #[tokio::test]
    async fn files_of_all_lengths_come_whole() {
        for length in [
            0,
            1,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            7 * PIECE_BYTES + 3,
        ] {
            assert_eq!(read(length).await.len(), length);
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_told() {
        let error = LocalReader::open("/nowhere/at/all".into()).await;
        assert!(matches!(error, Err(error) if error.kind() == io::ErrorKind::NotFound));
    }
}
