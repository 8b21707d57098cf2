//! The namespace's identity on disk: a small durable record with the encoded [`NamespaceInfo`].

use crate::error::RunError;
use hadal_env::Disk;
use hadal_proto::{Wire, codec::Input, encode};
use hadal_types::{CURRENT_LAYOUT, LayoutVersion, NamespaceInfo};
use std::path::{Path, PathBuf};
use store_record::{Contents, Record};

fn path(dir: &Path) -> PathBuf {
    dir.join("VERSION")
}

/// Locks the directory against other processes.
pub(crate) async fn lock<D: Disk>(disk: &D, dir: &Path) -> Result<D::Lock, RunError> {
    disk.create_dir_all(dir).await?;
    match disk.lock(&dir.join("in_use.lock")).await {
        Ok(lock) => Ok(lock),
        Err(error) if error.is_locked() => Err(RunError::Locked {
            dir: dir.display().to_string(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The identity, `None` in an empty directory.
pub(crate) async fn read<D: Disk>(disk: &D, dir: &Path) -> Result<Option<NamespaceInfo>, RunError> {
    let path = path(dir);
    if !disk.exists(&path).await? {
        return Ok(None);
    }
    let damaged = |what: String| RunError::Damaged {
        path: path.display().to_string(),
        what,
    };
    let (_, contents) = Record::open(disk, &path).await?;
    let payload = match contents {
        Contents::Empty => return Ok(None),
        Contents::Present { payload, .. } => payload,
        Contents::Unreadable => return Err(damaged("both copies are unreadable".into())),
    };
    let mut input = Input::new(bytes::Bytes::copy_from_slice(payload.as_ref()));
    // The layout stands first, so that a newer one is refused by name and not as damage.
    let layout =
        LayoutVersion::decode(&mut input.clone()).map_err(|error| damaged(error.to_string()))?;
    if layout != CURRENT_LAYOUT {
        return Err(RunError::Layout {
            dir: dir.display().to_string(),
            found: layout.0,
            known: CURRENT_LAYOUT.0,
        });
    }
    NamespaceInfo::decode(&mut input)
        .map(Some)
        .map_err(|error| damaged(error.to_string()))
}

/// Removes the identity, durable at return: what is in the directory is no namespace any more.
pub(crate) async fn remove<D: Disk>(disk: &D, dir: &Path) -> Result<(), RunError> {
    let path = path(dir);
    if disk.exists(&path).await? {
        disk.remove_file(&path).await?;
        disk.sync_dir(dir).await?;
    }
    Ok(())
}

/// Writes the identity, durable at return.
pub(crate) async fn write<D: Disk>(
    disk: &D,
    dir: &Path,
    info: &NamespaceInfo,
) -> Result<(), RunError> {
    let mut record = Record::recreate(disk, &path(dir)).await?;
    record.store(&encode(info)).await?;
    Ok(())
}

/// Counts this start and returns the new count, durable at return: the terms of an election never repeat (protocols.md
/// section 2). A damaged count starts again from the clock, which is far above any count.
pub(crate) async fn count_start<D: Disk>(
    disk: &D,
    dir: &Path,
    wall_ms: u64,
) -> Result<u64, RunError> {
    let path = dir.join("starts");
    let (mut record, contents) = Record::open(disk, &path).await?;
    let before = match contents {
        Contents::Empty => Some(0),
        Contents::Present { payload, .. } => {
            let bytes: Option<[u8; 8]> = payload.as_slice().try_into().ok();
            bytes.map(u64::from_le_bytes)
        }
        Contents::Unreadable => None,
    };
    let count = match before {
        Some(before) => before + 1,
        None => {
            record = Record::recreate(disk, &path).await?;
            (wall_ms >> 10) & u64::from(u32::MAX >> 1)
        }
    };
    record.store(&count.to_le_bytes()).await?;
    Ok(count)
}
