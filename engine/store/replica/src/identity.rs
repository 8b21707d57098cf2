//! The `VERSION` file of a data directory: whose data it holds.

use crate::StoreError;
use hadal_env::{Disk, DiskError, File, OpenOptions};
use hadal_types::{
    BlockPoolId, ClusterId, DatanodeUuid, LayoutVersion, NamespaceInfo, StorageUuid,
};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::Path;
use store_record::checksum::crc32c;

const NAME: &str = "VERSION";
const NEW_NAME: &str = "VERSION.new";
/// Longest identity file read.
const BYTES_MAX: usize = 4096;

/// What a data directory says of itself: lines `key=value`, the last one `crc32c` over those before, so that
/// people can read it and nobody edits it unnoticed. Written to another name, synced, renamed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeIdentity {
    /// The DataNode it belongs to.
    pub datanode: DatanodeUuid,
    /// Its own name.
    pub storage: StorageUuid,
    /// The namespace its blocks belong to.
    pub namespace: NamespaceInfo,
}

impl VolumeIdentity {
    fn encode(&self) -> String {
        let mut text = String::new();
        let n = &self.namespace;
        let lines: [(&str, &dyn Display); 7] = [
            ("layout", &n.layout.0),
            ("namespace", &n.namespace_id),
            ("cluster", &n.cluster_id),
            ("block_pool", &n.block_pool_id),
            ("created_ms", &n.created_ms),
            ("datanode", &format_args!("{:032x}", self.datanode.0)),
            ("storage", &format_args!("{:032x}", self.storage.0)),
        ];
        for (key, value) in lines {
            writeln!(text, "{key}={value}").expect("strings take everything");
        }
        let crc = crc32c(text.as_bytes());
        writeln!(text, "crc32c={crc:08x}").expect("strings take everything");
        text
    }

    fn decode(text: &str) -> Result<Self, &'static str> {
        let (body, crc) = text.rsplit_once("crc32c=").ok_or("no crc32c line")?;
        if crc != format!("{:08x}\n", crc32c(body.as_bytes())) {
            return Err("checksum does not match");
        }
        let fields: BTreeMap<&str, &str> = body
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let field = |key| fields.get(key).copied().ok_or("a line is missing");
        let number = |key| field(key)?.parse().map_err(|_| "a number is malformed");
        let uuid = |key| u128::from_str_radix(field(key)?, 16).map_err(|_| "an id is malformed");
        Ok(Self {
            datanode: DatanodeUuid(uuid("datanode")?),
            storage: StorageUuid(uuid("storage")?),
            namespace: NamespaceInfo {
                layout: LayoutVersion(
                    field("layout")?
                        .parse()
                        .map_err(|_| "the layout is malformed")?,
                ),
                namespace_id: number("namespace")?,
                cluster_id: ClusterId(field("cluster")?.to_owned()),
                block_pool_id: BlockPoolId(field("block_pool")?.to_owned()),
                created_ms: number("created_ms")?,
            },
        })
    }

    /// Refuses, by name, a directory of somebody else.
    pub(crate) fn check(&self, expected: &Self, dir: &Path) -> Result<(), StoreError> {
        let (a, b) = (&self.namespace, &expected.namespace);
        let fields: [(&'static str, String, String); 5] = [
            ("layout", a.layout.0.to_string(), b.layout.0.to_string()),
            (
                "cluster id",
                a.cluster_id.to_string(),
                b.cluster_id.to_string(),
            ),
            (
                "block pool",
                a.block_pool_id.to_string(),
                b.block_pool_id.to_string(),
            ),
            (
                "namespace id",
                a.namespace_id.to_string(),
                b.namespace_id.to_string(),
            ),
            (
                "datanode uuid",
                self.datanode.to_string(),
                expected.datanode.to_string(),
            ),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(StoreError::WrongIdentity {
                    dir: dir.to_owned(),
                    field,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// Reads the identity of a data directory; `None` when it has none (never formatted).
pub async fn read<D: Disk>(disk: &D, dir: &Path) -> Result<Option<VolumeIdentity>, StoreError> {
    let path = dir.join(NAME);
    let file = match disk.open(&path, OpenOptions::read()).await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let (result, buf) = file
        .read_at(disk.buf(BYTES_MAX).await, 0..BYTES_MAX, 0)
        .await;
    let bytes = &buf.as_ref()[..result?];
    let bad = |what| StoreError::BadIdentity {
        path: path.clone(),
        what,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| bad("not text"))?;
    VolumeIdentity::decode(text).map(Some).map_err(bad)
}

/// Writes the identity of a fresh data directory.
pub(crate) async fn write<D: Disk>(
    disk: &D,
    dir: &Path,
    identity: &VolumeIdentity,
) -> Result<(), DiskError> {
    let text = identity.encode();
    let bytes = text.as_bytes();
    let new = dir.join(NEW_NAME);
    let file = disk.open(&new, OpenOptions::create()).await?;
    file.truncate(0).await?;
    let mut buf = disk.buf(BYTES_MAX).await;
    assert!(
        bytes.len() <= BYTES_MAX,
        "identity of {} bytes",
        bytes.len()
    );
    buf.as_mut()[..bytes.len()].copy_from_slice(bytes);
    file.write_at(buf, 0..bytes.len(), 0).await.0?;
    file.sync_data().await?;
    disk.rename(&new, &dir.join(NAME)).await?;
    disk.sync_dir(dir).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_c2_an_edited_or_cut_identity_is_refused() {
        let identity = VolumeIdentity {
            datanode: DatanodeUuid(5),
            storage: StorageUuid(6),
            namespace: NamespaceInfo {
                cluster_id: ClusterId("CID-1".to_owned()),
                ..NamespaceInfo::default()
            },
        };
        let text = identity.encode();
        assert_eq!(VolumeIdentity::decode(&text), Ok(identity.clone()));
        for cut in 0..text.len() {
            assert!(
                VolumeIdentity::decode(&text[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(VolumeIdentity::decode(&text).is_err(), "bit {bit}");
            }
        }
    }
}
