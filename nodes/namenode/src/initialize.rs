//! `namenode -initializeSharedEdits`: a journal that begins behind this NameNode's newest image, on JournalNodes or in a
//! shared directory. So a cluster changes from the one to the other, or to new JournalNodes.

use crate::config::NamenodeConfig;
use crate::error::{InitializeError, RunError};
use crate::format::format_journal;
use crate::identity;
use crate::life::{assemble, claim, drive, finish, load, resign};
use crate::links::in_time;
use hadal_env::Env;
use hadal_proto::qjournal::CommitMark;
use hadal_types::{NamespaceInfo, TxId};

/// The first segment is begun and ended within this time.
const BEGIN_MS: u64 = 60_000;

/// What was set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Initialized {
    /// Of which namespace.
    pub info: NamespaceInfo,
    /// The journal holds what comes behind this txid.
    pub behind: TxId,
}

/// Formats the journal for the namespace of this directory and begins it behind the newest image. Edits of an old journal
/// behind that image are not taken over: save the namespace first, and stop all NameNodes. The other NameNodes join with `-bootstrapStandby`.
///
/// # Errors
/// [`InitializeError`].
pub async fn initialize_shared_edits<E: Env>(
    env: E,
    mut config: NamenodeConfig,
    force: bool,
) -> Result<Initialized, InitializeError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    let info = identity::read(&disk, &config.dir).await?;
    let info = info.ok_or_else(|| RunError::NotFormatted {
        dir: config.dir.display().to_string(),
    })?;
    format_journal(&env, &config, &info, force).await?;
    let starts = identity::count_start(&disk, &config.dir, env.wall_ms()).await?;
    // The others have no part in it.
    config.peers.clear();
    let node = assemble(env.clone(), config, info.clone(), starts);
    let digest = load(&node).await?;
    let behind = crate::catch_up::applied(&node);
    let failed = |reason: &str| InitializeError::NotBegun {
        txid: behind.0,
        reason: reason.to_owned(),
    };
    let Some((epoch, end)) = claim(&node).await else {
        return Err(failed("it could not be claimed; the log says why"));
    };
    if end.txid > TxId(0) {
        resign(&node);
        return Err(InitializeError::HoldsEdits { end: end.txid.0 });
    }
    if behind > TxId(0) {
        let mark = CommitMark {
            txid: behind,
            digest,
        };
        let now = env.now();
        node.start_log(digest);
        {
            let mut writer = node.writer.borrow_mut();
            writer.begin_behind(mark).expect("it is claimed and empty");
            writer.begin(now).expect("just recovered");
        }
        {
            let mut slot = node.namesystem.borrow_mut();
            let namesystem = slot.as_mut().expect("loaded above");
            namesystem.become_active(now, env.wall_ms(), epoch, behind.next());
        }
        // An edit of its own: an empty segment would be no beginning.
        let finished = drive(&node, finish(&node));
        match in_time(&env, now.after_ms(BEGIN_MS), finished).await {
            Some(Ok(())) => {}
            Some(Err(reason)) => return Err(failed(&reason)),
            None => return Err(failed("no answer in time")),
        }
    }
    resign(&node);
    Ok(Initialized { info, behind })
}
