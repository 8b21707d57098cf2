//! The images of a NameNode: where they are, what is going on with them, and the policy about them.

use crate::config::NamenodeConfig;
use crate::transfer::gentle_rate;
use hadal_daemon::Notify;
use hadal_env::Env;
use hadal_namesystem::Checkpointer;
use hadal_proto::image::ImageOffer;
use hadal_types::{NamespaceInfo, TxId};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use store_fsimage::{ImageCopy, ImageInfo};

/// Where images are.
pub(crate) fn images_dir(dir: &Path) -> PathBuf {
    dir.join("images")
}

/// An image as it is offered to others.
pub(crate) fn offer_of(info: &ImageInfo) -> ImageOffer {
    ImageOffer {
        txid: info.txid,
        length: info.length,
        digest: u128::from_le_bytes(info.file_digest),
    }
}

/// An upload that has not ended yet, or broke off and can go on.
pub(crate) struct Partial<E: Env> {
    pub(crate) offer: ImageOffer,
    pub(crate) copy: ImageCopy<<E as Env>::Disk>,
}

/// What all tasks about images share.
pub(crate) struct Images<E: Env> {
    pub(crate) env: E,
    pub(crate) dir: PathBuf,
    pub(crate) info: NamespaceInfo,
    /// Images kept.
    pub(crate) retained: usize,
    /// Most bytes per second of a transfer sent; 0 for no limit.
    pub(crate) bytes_per_second: u64,
    /// The checkpoint period, over a part of which the work on an image is spread.
    period_ms: u64,
    pub(crate) policy: RefCell<Checkpointer>,
    /// The namespace is loaded: images are taken and given.
    pub(crate) ready: Cell<bool>,
    /// An upload is arriving.
    pub(crate) receiving: Cell<bool>,
    pub(crate) partial: RefCell<Option<Partial<E>>>,
    /// Fetches being served.
    pub(crate) serving: Cell<usize>,
    /// Wakes the checkpointer: an image was published, or the role changed.
    pub(crate) wake: Notify,
    /// The oldest image kept, since images last changed: an active NameNode purges the journal far below it.
    pub(crate) oldest_kept: Cell<Option<TxId>>,
}

impl<E: Env> Images<E> {
    pub(crate) fn new(env: E, config: &NamenodeConfig) -> Self {
        let policy = Checkpointer::new(config.checkpoint.clone(), config.peers.len());
        Self {
            env,
            dir: images_dir(&config.dir),
            info: config.namesystem.info.clone(),
            retained: config.images_retained,
            bytes_per_second: config.image_bytes_per_second,
            period_ms: config.checkpoint.period_ms,
            policy: RefCell::new(policy),
            ready: Cell::new(false),
            receiving: Cell::new(false),
            partial: RefCell::new(None),
            serving: Cell::new(0),
            wake: Notify::new(),
            oldest_kept: Cell::new(None),
        }
    }

    /// Bytes per second for a checkpoint's image of this length.
    pub(crate) fn gentle_rate(&self, length: u64) -> u64 {
        gentle_rate(length, self.period_ms, self.bytes_per_second)
    }

    /// The namespace is loaded; `image` is what it was loaded from, 0 for none.
    pub(crate) fn loaded(&self, image: TxId) {
        self.policy.borrow_mut().note_image(self.env.now(), image);
        self.ready.set(true);
    }

    /// An image of our own was published.
    pub(crate) fn saved(&self, txid: TxId) {
        self.policy.borrow_mut().note_image(self.env.now(), txid);
        self.wake.notify();
    }
}
