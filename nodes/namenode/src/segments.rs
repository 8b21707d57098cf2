//! The journal's segments, while active: when one ends, and which ones nobody needs any more.

use crate::node::Node;
use hadal_env::Env;
use hadal_types::{HaState, TxId};

/// A segment ends after so many checkpoints' worth of edits, though no checkpoint came (HDFS's
/// `dfs.namenode.edit.log.autoroll.multiplier.threshold`).
const ROLL_CHECKPOINTS: u64 = 2;

impl<E: Env> Node<E> {
    /// Ends the segment when an image was published or it is long, and purges edits that the oldest kept image holds,
    /// but for the extra ones a NameNode that was away may still ask for (F-14).
    pub(crate) fn care_for_segments(&self) {
        let mut slot = self.namesystem.borrow_mut();
        let Some(namesystem) = slot.as_mut() else {
            return;
        };
        if namesystem.state() != HaState::Active || !self.may_edit(namesystem) {
            return;
        }
        let oldest_image = self.images.oldest_kept.take();
        let length = namesystem.applied().0.saturating_sub(self.segment.get().0);
        let long = self.config.checkpoint.txns.saturating_mul(ROLL_CHECKPOINTS);
        if oldest_image.is_some() || length > long {
            self.segment.set(namesystem.roll_edits(self.env.wall_ms()));
        }
        let extra = self.config.extra_edits_retained;
        let below = oldest_image.map_or(0, |image| image.next().0.saturating_sub(extra));
        if below > 1 {
            tracing::info!("purging edits below {below} from the journal");
            // Refused only when the role is lost, and then it is the next one's to do.
            let _ = self.writer.borrow_mut().purge(TxId(below));
        }
    }
}
