//! The chunks of an image, made on other cores than the shard's.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;
use hadal_env::Compute;
use hadal_namesystem::{ImagePiece, ImageSource, Section};

/// Pieces under way per core: while one is worked on the next waits at hand.
const UNDER_WAY: usize = 2;
/// Chunks of a piece made at once: what they take is bounded though one directory may be larger than all the rest.
const AT_ONCE: usize = 8;

/// What became of a piece: its next chunks, and what is left of it.
type Made = (Vec<(Section, Bytes)>, Option<ImagePiece>);

/// The image of an [`ImageSource`], in its order, with the work on all cores.
pub struct ImageSaving<C> {
    compute: C,
    source: ImageSource,
    under_way: FuturesOrdered<LocalBoxFuture<'static, Made>>,
    made: std::vec::IntoIter<(Section, Bytes)>,
}

impl<C: Compute> ImageSaving<C> {
    /// Nothing made yet.
    pub fn new(compute: C, source: ImageSource) -> Self {
        Self {
            compute,
            source,
            under_way: FuturesOrdered::new(),
            made: Vec::new().into_iter(),
        }
    }

    /// The next chunk; `None` behind the last.
    pub async fn next(&mut self) -> Option<(Section, Bytes)> {
        loop {
            if let Some(chunk) = self.made.next() {
                return Some(chunk);
            }
            while self.under_way.len() < UNDER_WAY * self.compute.lanes() {
                let Some(piece) = self.source.next_piece() else {
                    break;
                };
                let begun = self.begin(piece);
                self.under_way.push_back(begun);
            }
            let (made, rest) = self.under_way.next().await?;
            self.made = made.into_iter();
            if let Some(rest) = rest {
                let begun = self.begin(rest);
                self.under_way.push_front(begun);
            }
        }
    }

    fn begin(&self, mut piece: ImagePiece) -> LocalBoxFuture<'static, Made> {
        Box::pin(self.compute.compute(move || {
            let made: Vec<_> = piece.by_ref().take(AT_ONCE).collect();
            let is_rest = made.len() == AT_ONCE;
            (made, is_rest.then_some(piece))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::ready;
    use hadal_blocks::BlockConfig;
    use hadal_namesystem::{Namesystem, NamesystemConfig};
    use hadal_proto::edit::{Edit, EditOp};
    use hadal_types::{CallId, ClientId, InodeId, Tick};
    use std::cell::Cell;
    use std::rc::Rc;

    /// Three cores, on each of which work is done when it is begun.
    #[derive(Clone, Default)]
    struct Three(Rc<Cell<usize>>);

    impl Compute for Three {
        fn lanes(&self) -> usize {
            3
        }

        fn compute<T: Send + 'static>(
            &self,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> impl Future<Output = T> + 'static {
            self.0.set(self.0.get() + 1);
            ready(work())
        }
    }

    /// One directory is larger than what is made of a piece at once.
    #[test]
    fn the_image_is_that_of_one_core() {
        let mut namesystem =
            Namesystem::format(NamesystemConfig::default(), BlockConfig::default(), 1);
        for number in 0..150_000 {
            let inode = InodeId(InodeId::ROOT.0 + 1 + number);
            // Later pieces have entries, too.
            let parent = match number % 1000 {
                999 => InodeId(inode.0 - 1),
                _ => InodeId::ROOT,
            };
            let op = EditOp::Mkdir {
                parent,
                inode,
                name: format!("d{number}"),
                permission: 0o755,
                owner: "hdfs".into(),
                group: "supergroup".into(),
            };
            let edit = Edit {
                time_ms: 1,
                client: ClientId(0),
                call: CallId(0),
                op,
            };
            let txid = namesystem.applied().next();
            namesystem.replay(Tick(0), txid, &edit);
        }
        let cores = Three::default();
        let source = ImageSource::new(namesystem.view());
        let mut saving = ImageSaving::new(cores.clone(), source);
        let mut made = Vec::new();
        while let Some(chunk) = futures_util::FutureExt::now_or_never(saving.next()).expect("ready")
        {
            made.push(chunk);
        }
        let expected: Vec<_> = ImageSource::new(namesystem.view()).collect();
        assert!(made == expected, "other chunks, or in another order");
        assert!(cores.0.get() > 20, "{} pieces", cores.0.get());
    }
}
