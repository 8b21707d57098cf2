//! `namenode -bootstrapStandby`: a NameNode joins a namespace that another one serves (T-H28).

use crate::config::{JournalnodePeer, NamenodeConfig, NamenodePeer};
use crate::error::{BootstrapError, RunError};
use crate::fetch::{Description, describe, fetch_image};
use crate::identity;
use crate::images::images_dir;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use hadal_env::{Disk, Env, Expect, Net};
use hadal_proto::qjournal::{Call, Manifest, QjournalProtocol, Request, Response};
use hadal_quic::CallClient;
use hadal_types::{CURRENT_LAYOUT, NamespaceInfo, Role, Tick, TxId};
use std::collections::BTreeMap;
use std::pin::pin;

/// Who does not answer for so long, or cannot be reached, is done without.
const ANSWER_WAIT_MS: u64 = 15_000;

/// Between two questions to a NameNode that starts.
const RETRY_MS: u64 = 100;

/// What was set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrapped {
    /// Of which namespace.
    pub info: NamespaceInfo,
    /// From which NameNode.
    pub from: String,
    /// The image fetched; 0 when that NameNode has none yet, and the journal has everything.
    pub image: TxId,
}

/// Sets the directory up as a NameNode of the namespace that another NameNode serves: its identity and its newest
/// image. The shared journal is only read.
///
/// The identity is written last, so that a set-up cut short is not taken for a namespace.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap_standby<E: Env>(
    env: E,
    config: &NamenodeConfig,
    force: bool,
) -> Result<Bootstrapped, BootstrapError> {
    let disk = env.disk().clone();
    let _lock = identity::lock(&disk, &config.dir).await?;
    // A damaged or newer identity is a namespace too.
    if !force && !matches!(identity::read(&disk, &config.dir).await, Ok(None)) {
        return Err(BootstrapError::Exists {
            dir: config.dir.display().to_string(),
        });
    }
    let (peer, description) = find_peer(&env, config).await?;
    if description.info.layout != CURRENT_LAYOUT {
        return Err(BootstrapError::Run(RunError::Layout {
            dir: peer.name.clone(),
            found: description.info.layout.0,
            known: CURRENT_LAYOUT.0,
        }));
    }
    identity::remove(&disk, &config.dir).await?;
    let images = images_dir(&config.dir);
    if disk.exists(&images).await.map_err(RunError::from)? {
        disk.remove_dir_all(&images).await.map_err(RunError::from)?;
    }
    disk.create_dir_all(&images).await.map_err(RunError::from)?;
    let namespace_id = description.info.namespace_id;
    let fetched = fetch_image(&env, &images, peer, namespace_id).await?;
    let image = fetched.image.map_or(TxId(0), |offer| offer.txid);
    check_edits(&env, config, namespace_id, image, description.committed).await?;
    identity::write(&disk, &config.dir, &fetched.info).await?;
    Ok(Bootstrapped {
        info: fetched.info,
        from: peer.name.clone(),
        image,
    })
}

/// The first other NameNode that says who it is. All are asked side by side: one that is gone holds up nobody.
async fn find_peer<'a, E: Env>(
    env: &E,
    config: &'a NamenodeConfig,
) -> Result<(&'a NamenodePeer, Description), BootstrapError> {
    let deadline = env.now().after_ms(ANSWER_WAIT_MS);
    let mut asked: FuturesUnordered<_> = (config.peers.iter().enumerate())
        .map(|(at, peer)| async move { (at, describe_when_started(env, peer, deadline).await) })
        .collect();
    let mut reasons = BTreeMap::new();
    while let Some((at, answered)) = asked.next().await {
        let peer = &config.peers[at];
        match answered {
            Ok(description) => return Ok((peer, description)),
            Err(reason) => {
                let (name, address) = (&peer.name, peer.address);
                reasons.insert(at, format!("{name} at {address}: {reason}"));
            }
        }
    }
    let reasons: Vec<String> = reasons.into_values().collect();
    Err(BootstrapError::NoNamenode {
        reasons: match reasons.is_empty() {
            true => "the configuration names no other".into(),
            false => reasons.join("; "),
        },
    })
}

/// Asks again until `deadline` while the other NameNode says that it starts, or cannot be reached yet: both may be set up in
/// one go.
async fn describe_when_started<E: Env>(
    env: &E,
    peer: &NamenodePeer,
    deadline: Tick,
) -> Result<Description, String> {
    let mut reason = "no answer".to_owned();
    loop {
        let late = env.sleep_until(deadline);
        match select(pin!(describe(env, peer)), pin!(late)).await {
            Either::Left((Ok(description), _)) => return Ok(description),
            Either::Left((Err(error), _)) => {
                reason = error.to_string();
                let again = env.now().after_ms(RETRY_MS);
                if !error.is_retriable() || again >= deadline {
                    return Err(reason);
                }
                env.sleep_until(again).await;
            }
            Either::Right(_) => return Err(reason),
        }
    }
}

/// The JournalNodes must hold what comes behind the image, else the new NameNode could not start.
async fn check_edits<E: Env>(
    env: &E,
    config: &NamenodeConfig,
    namespace_id: u64,
    image: TxId,
    committed: TxId,
) -> Result<(), BootstrapError> {
    let mut next = image.next();
    if committed < next {
        return Ok(());
    }
    let mut asked = Vec::new();
    let mut runs = Vec::new();
    if let Some(dir) = &config.shared_edits_dir {
        let found = crate::shared::runs(env.disk(), dir).await;
        asked.push(match found {
            Ok(found) => {
                runs = found;
                format!("{}: read", dir.display())
            }
            Err(fault) => format!("{}: {fault}", dir.display()),
        });
    }
    for journalnode in &config.journalnodes {
        let late = env.sleep_until(env.now().after_ms(ANSWER_WAIT_MS));
        let manifest = pin!(manifest(env, journalnode, namespace_id, next));
        let reason = match select(manifest, pin!(late)).await {
            Either::Left((Ok(manifest), _)) => {
                let held = manifest.segments.iter();
                runs.extend(held.map(|segment| (segment.first, segment.last)));
                "answered".into()
            }
            Either::Left((Err(reason), _)) => reason,
            Either::Right(_) => "no answer".into(),
        };
        asked.push(format!("{}: {reason}", journalnode.name));
    }
    while next <= committed {
        let behind = runs
            .iter()
            .filter(|(first, _)| *first <= next)
            .map(|(_, last)| *last)
            .max();
        match behind.filter(|last| *last >= next) {
            Some(last) => next = last.next(),
            None => {
                return Err(BootstrapError::MissingEdits {
                    image: image.0,
                    from: next.0,
                    to: committed.0,
                    asked: asked.join("; "),
                });
            }
        }
    }
    Ok(())
}

async fn manifest<E: Env>(
    env: &E,
    peer: &JournalnodePeer,
    namespace_id: u64,
    from: TxId,
) -> Result<Manifest, String> {
    let expect = Expect::node(Role::Journalnode, peer.name.clone());
    let conn = env.net().connect(peer.address, &expect).await;
    let conn = conn.map_err(|error| error.to_string())?;
    let opened = CallClient::<QjournalProtocol>::open(&conn).await;
    let (client, driver) = opened.map_err(|error| error.to_string())?;
    let request = Request {
        namespace_id,
        call: Call::GetManifest {
            from,
            in_progress: true,
        },
    };
    let call = async { client.call(&request).await };
    match select(pin!(call), pin!(driver)).await {
        Either::Left((Ok(Response::Manifest { manifest }), _)) => Ok(manifest),
        Either::Left((Ok(other), _)) => Err(format!("{} to GetManifest", other.name())),
        Either::Left((Err(error), _)) => Err(error.to_string()),
        Either::Right((error, _)) => Err(error.to_string()),
    }
}
