//! `namenode -recover`: a namespace whose journal or images are damaged is read up to the damage, and begun anew there.
//!
//! What stands behind the first edit that nobody has, or that cannot be decoded, is given up even where it can be read: it
//! was made on a namespace this one would not be. So the outcome is always a state the namespace once had. (HDFS's
//! recovery may also go on behind the damage, edit by edit.)

use crate::catch_up::{applied, catch_up};
use crate::checkpoint::{self, Saved};
use crate::config::NamenodeConfig;
use crate::error::{RecoverError, RunError};
use crate::identity;
use crate::initialize::initialize_shared_edits;
use crate::life::{assemble, claim, drive, load, resign};
use hadal_env::Env;
use hadal_types::{NamespaceInfo, TxId};

/// What would be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The last edit before the damage: the namespace would be as of it.
    pub applied: TxId,
    /// The edits that would be dropped, first and last.
    pub dropped: (TxId, TxId),
    /// What is wrong with the first of them.
    pub reason: String,
}

/// How a recovery ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovered {
    /// Everything up to this txid can be read: nothing was changed.
    Undamaged {
        /// Of which namespace.
        info: NamespaceInfo,
        /// Last edit of the journal.
        end: TxId,
    },
    /// Whoever was asked did not want it: nothing was changed.
    Declined(Damage),
    /// The namespace is as of `damage.applied`, in an image, and a new journal begins behind it.
    Begun {
        /// Of which namespace.
        info: NamespaceInfo,
        /// What was lost.
        damage: Damage,
    },
}

/// Reads the newest image that verifies and the journal behind it. Where the journal is damaged, `confirm` is asked; if it
/// agrees, what was read is saved as an image and the journal is made an empty one behind it. All other NameNodes must be
/// stopped; afterwards they join with `-bootstrapStandby -force`.
///
/// # Errors
/// [`RecoverError`].
pub async fn recover<E: Env>(
    env: E,
    config: NamenodeConfig,
    confirm: impl FnOnce(&Damage) -> bool,
) -> Result<Recovered, RecoverError> {
    let (info, damage) = match read(&env, &config, confirm).await? {
        Read::Begin(info, damage) => (info, damage),
        Read::Done(recovered) => return Ok(recovered),
    };
    initialize_shared_edits(env, config, true).await?;
    Ok(Recovered::Begun { info, damage })
}

enum Read {
    Begin(NamespaceInfo, Damage),
    Done(Recovered),
}

/// Everything but the new journal: the directory's lock ends with it.
async fn read<E: Env>(
    env: &E,
    config: &NamenodeConfig,
    confirm: impl FnOnce(&Damage) -> bool,
) -> Result<Read, RecoverError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    let info = identity::read(&disk, &config.dir).await?;
    let info = info.ok_or_else(|| RunError::NotFormatted {
        dir: config.dir.display().to_string(),
    })?;
    let starts = identity::count_start(&disk, &config.dir, env.wall_ms()).await?;
    // The others have no part in it.
    let mut alone = config.clone();
    alone.peers.clear();
    let node = assemble(env.clone(), alone, info.clone(), starts);
    let mut digest = load(&node).await?;
    let image = applied(&node);
    let Some((_, end)) = claim(&node).await else {
        return Err(RecoverError::NotClaimed);
    };
    let outcome = drive(&node, catch_up(&node, &mut digest, end)).await;
    resign(&node);
    let reason = match outcome {
        Ok(()) => {
            let end = end.txid;
            return Ok(Read::Done(Recovered::Undamaged { info, end }));
        }
        Err(error @ (RunError::Gap { .. } | RunError::Edit { .. })) => error.to_string(),
        Err(error) => return Err(error.into()),
    };
    let damage = Damage {
        applied: applied(&node),
        dropped: (applied(&node).next(), end.txid),
        reason,
    };
    if !confirm(&damage) {
        return Ok(Read::Done(Recovered::Declined(damage)));
    }
    if damage.applied > image {
        match checkpoint::save_standby(&node, &|| false).await {
            Ok(Saved::Published(_)) => {}
            Ok(Saved::Cancelled) => unreachable!("nobody cancels it"),
            Err(fault) => return Err(RecoverError::NotSaved(fault)),
        }
    }
    Ok(Read::Begin(info, damage))
}
