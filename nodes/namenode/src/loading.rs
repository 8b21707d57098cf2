//! The namespace of an image, made on all cores: the shard hands out pieces of work and puts their results together, so that
//! what is under way is bounded and the outcome is that of one core.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;
use hadal_blocks::BlockConfig;
use hadal_env::Compute;
use hadal_namesystem::{
    ChunkDone, ChunkWork, ImageError, ImageLoader, Loaded, Namesystem, NamesystemConfig, Section,
};

/// Pieces under way per core: while one is worked on the next waits at hand.
const UNDER_WAY: usize = 2;

/// An image on its way to a namespace: [`ImageLoader`] with its work on other cores.
pub struct ImageLoading<C> {
    compute: C,
    loader: ImageLoader,
    /// The section at hand.
    section: Section,
    under_way: FuturesOrdered<LocalBoxFuture<'static, ChunkDone>>,
}

impl<C: Compute> ImageLoading<C> {
    /// Nothing read yet; of the settings only the retry cache's matter.
    pub fn new(compute: C, config: &NamesystemConfig) -> Self {
        Self {
            compute,
            loader: ImageLoader::new(config),
            section: Section::Header,
            under_way: FuturesOrdered::new(),
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`ImageError`] of this chunk or of one before it.
    pub async fn feed(&mut self, section: Section, chunk: Bytes) -> Result<(), ImageError> {
        if section != self.section {
            self.settle(0).await?;
            self.section = section;
        }
        match self.loader.begin(section, chunk)? {
            Some(work) => self.push(work).await,
            None => Ok(()),
        }
    }

    /// There are no more chunks.
    ///
    /// # Errors
    /// As [`Self::feed`], or when the sections contradict the header or each other.
    pub async fn finish(mut self) -> Result<Loaded, ImageError> {
        self.settle(0).await?;
        for work in self.loader.end()? {
            self.push(work).await?;
        }
        self.settle(0).await?;
        self.loader.finish()
    }

    async fn push(&mut self, work: ChunkWork) -> Result<(), ImageError> {
        let done = self.compute.compute(move || work.run());
        self.under_way.push_back(Box::pin(done));
        self.settle(UNDER_WAY * self.compute.lanes()).await
    }

    /// Takes what is done until no more than `most` are under way.
    async fn settle(&mut self, most: usize) -> Result<(), ImageError> {
        while self.under_way.len() > most {
            let done = self.under_way.next().await.expect("some are under way");
            self.loader.take(done)?;
        }
        Ok(())
    }
}

/// The namespace of an image with its block map in order: [`Namesystem::load`], with its work on other cores.
pub async fn namesystem_of<C: Compute>(
    compute: &C,
    config: NamesystemConfig,
    blocks: BlockConfig,
    seed: u64,
    image: Loaded,
) -> Namesystem {
    let mut namesystem = Namesystem::load(config, blocks, seed, image);
    let mut under_way = FuturesOrdered::new();
    for sorting in namesystem.sorting() {
        under_way.push_back(compute.compute(move || sorting.run()));
        if under_way.len() >= UNDER_WAY * compute.lanes() {
            let sorted = under_way.next().await.expect("one was begun");
            namesystem.sorted(sorted);
        }
    }
    while let Some(sorted) = under_way.next().await {
        namesystem.sorted(sorted);
    }
    namesystem
}
