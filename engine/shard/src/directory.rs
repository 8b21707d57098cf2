//! Operations on directories: rare, blocking, on tokio's blocking threads, so that a large or cold
//! directory does not hold the shard up.

use hadal_env::{DirEntry, DiskError, DiskOp};
use std::fs;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;

/// Runs `work` on a blocking thread. A panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// Creates what is missing of `path`, and syncs the directory above each part of it: a part found
/// there may be the unsynced work of a process that died.
pub(crate) fn create_all(path: &Path) -> Result<(), DiskError> {
    let path = std::path::absolute(path)
        .map_err(|source| DiskError::new(DiskOp::Directory, path, source))?;
    let mut parts: Vec<&Path> = path
        .ancestors()
        .filter(|part| part.parent().is_some())
        .collect();
    parts.reverse();
    for part in parts {
        let created = match fs::create_dir(part) {
            Ok(()) => true,
            Err(_) if part.is_dir() => false,
            Err(source) => return Err(DiskError::new(DiskOp::Directory, part, source)),
        };
        let above = part.parent().unwrap_or(part);
        match fs::File::open(above).and_then(|directory| directory.sync_all()) {
            Ok(()) => {}
            // Directories of the system that we may pass but not open, or that cannot be synced, are not our making.
            Err(source) if !created && is_refused(&source) => {}
            Err(source) => return Err(DiskError::new(DiskOp::Sync, above, source)),
        }
    }
    Ok(())
}

/// Not for us, or not of this file system: not a failed sync.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(
        error.kind(),
        PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported
    )
}

/// Lists a directory, sorted by name. What vanishes meanwhile, and links to nowhere, are left out.
pub(crate) fn list(path: &Path) -> Result<Vec<DirEntry>, DiskError> {
    let failed = |source| DiskError::new(DiskOp::Directory, path, source);
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else {
            continue;
        };
        match fs::metadata(path.join(&name)) {
            Ok(found) if found.is_dir() => entries.push(DirEntry {
                name,
                is_dir: true,
                length: 0,
            }),
            Ok(found) => entries.push(DirEntry {
                name,
                is_dir: false,
                length: found.len(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    entries.sort();
    Ok(entries)
}
