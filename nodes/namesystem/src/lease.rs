//! Leases: who may write which file (E-01..E-05).

use crate::radix::{Radix, Sparse};
use alloc::collections::{BTreeMap, BTreeSet};
use hadal_types::{ClientId, InodeId, Tick};

/// The holder of files the NameNode itself recovers (HDFS's `HDFS_NameNode`).
pub const NAMENODE_HOLDER: ClientId = ClientId(u128::MAX);
/// The holder of files whose last block is being cut (F-10): the NameNode too, but block recovery ends at the length
/// recorded. Being the holder it is in edits and images, so a truncate survives restarts and failovers.
pub const TRUNCATE_HOLDER: ClientId = ClientId(u128::MAX - 1);

/// Whether a holder is the NameNode itself, not a client.
pub(crate) fn is_namenode(holder: ClientId) -> bool {
    holder == NAMENODE_HOLDER || holder == TRUNCATE_HOLDER
}

struct Lease {
    renewed: Tick,
    files: BTreeSet<InodeId>,
}

/// The lease manager. Which file is open and who holds it is part of the namespace (edits, image); when a
/// lease was renewed last is not (F-07: all count as renewed at promotion).
#[derive(Default)]
pub(crate) struct Leases {
    open: Radix<Sparse<ClientId>>,
    by_client: BTreeMap<ClientId, Lease>,
    by_age: BTreeSet<(Tick, ClientId)>,
    count: u64,
    now: Tick,
}

impl Leases {
    /// Tells the time to leases that edits create.
    pub(crate) fn set_now(&mut self, now: Tick) {
        self.now = self.now.max(now);
    }

    /// `inode` is open and held by `holder`: the file joins that client's one lease (E-02), which counts as
    /// renewed.
    pub(crate) fn add(&mut self, inode: InodeId, holder: ClientId) {
        assert!(
            self.open.insert(inode.0, holder).is_none(),
            "inode {inode} is open already"
        );
        self.count += 1;
        let now = self.now;
        let lease = self.by_client.entry(holder).or_insert_with(|| Lease {
            renewed: now,
            files: BTreeSet::new(),
        });
        lease.files.insert(inode);
        self.renew(holder, now);
        self.by_age
            .insert((self.by_client[&holder].renewed, holder));
    }

    /// `inode` is no longer open; the client's last file takes its lease with it (E-03). Returns the holder.
    pub(crate) fn remove(&mut self, inode: InodeId) -> Option<ClientId> {
        let holder = self.open.remove(inode.0)?;
        self.count -= 1;
        let lease = self
            .by_client
            .get_mut(&holder)
            .expect("every open file is in its holder's lease");
        lease.files.remove(&inode);
        if lease.files.is_empty() {
            self.by_age.remove(&(lease.renewed, holder));
            self.by_client.remove(&holder);
        }
        Some(holder)
    }

    /// Who holds an open file.
    pub(crate) fn holder(&self, inode: InodeId) -> Option<ClientId> {
        self.open.get(inode.0).copied()
    }

    /// Renews a client's lease, if it has one.
    pub(crate) fn renew(&mut self, holder: ClientId, now: Tick) {
        if let Some(lease) = self.by_client.get_mut(&holder)
            && lease.renewed < now
        {
            self.by_age.remove(&(lease.renewed, holder));
            lease.renewed = now;
            self.by_age.insert((now, holder));
        }
    }

    /// All leases count as renewed now (F-07).
    pub(crate) fn renew_all(&mut self, now: Tick) {
        self.by_age.clear();
        for (holder, lease) in &mut self.by_client {
            lease.renewed = now;
            self.by_age.insert((now, *holder));
        }
    }

    /// Whether a holder's lease is older than `limit_ms`; true without a lease.
    pub(crate) fn is_expired(&self, holder: ClientId, now: Tick, limit_ms: u64) -> bool {
        self.by_client
            .get(&holder)
            .is_none_or(|lease| now.ms_since(lease.renewed) > limit_ms)
    }

    /// Open files of leases older than `limit_ms`, oldest lease first.
    pub(crate) fn expired(
        &self,
        now: Tick,
        limit_ms: u64,
    ) -> impl Iterator<Item = (ClientId, InodeId)> + '_ {
        self.by_age
            .iter()
            .take_while(move |(renewed, _)| now.ms_since(*renewed) > limit_ms)
            .flat_map(|(_, holder)| {
                let files = &self.by_client[holder].files;
                files.iter().map(|inode| (*holder, *inode))
            })
    }

    /// The open files of one holder.
    pub(crate) fn files_of(&self, holder: ClientId) -> impl Iterator<Item = InodeId> + '_ {
        self.by_client
            .get(&holder)
            .into_iter()
            .flat_map(|lease| lease.files.iter().copied())
    }

    /// Open files in inode order, from one on.
    pub(crate) fn open_from(
        &self,
        inode: InodeId,
    ) -> impl Iterator<Item = (InodeId, ClientId)> + '_ {
        self.open
            .range(inode.0)
            .map(|(inode, holder)| (InodeId(inode), *holder))
    }

    /// How many files are open.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The open files as a view.
    pub(crate) fn view(&self) -> Radix<Sparse<ClientId>> {
        self.open.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    /// E-02: one lease covers all files of a client; E-03: its last file ends it.
    #[test]
    fn e02_e03_one_lease_per_client() {
        let mut leases = Leases::default();
        leases.add(InodeId(10), A);
        leases.add(InodeId(11), A);
        leases.set_now(Tick::from_ms(100));
        leases.add(InodeId(12), B);
        leases.renew(A, Tick::from_ms(500));
        assert!(!leases.is_expired(A, Tick::from_ms(560), 60));
        assert!(leases.is_expired(A, Tick::from_ms(561), 60));
        let at = Tick::from_ms(600);
        let expired: Vec<_> = leases.expired(at, 99).collect();
        assert_eq!(
            expired,
            [(B, InodeId(12)), (A, InodeId(10)), (A, InodeId(11))]
        );
        assert_eq!(leases.remove(InodeId(12)), Some(B));
        assert!(leases.is_expired(B, Tick::from_ms(0), u64::MAX), "no lease");
        assert_eq!(leases.remove(InodeId(12)), None);
        leases.remove(InodeId(10));
        leases.remove(InodeId(11));
        assert_eq!(leases.expired(Tick::NEVER, 0).count(), 0);
        assert_eq!(leases.count(), 0);
    }

    /// F-07: at promotion nobody's lease is old.
    #[test]
    fn f07_all_leases_are_renewed_at_promotion() {
        let mut leases = Leases::default();
        leases.add(InodeId(10), A);
        leases.add(InodeId(12), B);
        leases.renew_all(Tick::from_ms(9_000));
        assert_eq!(leases.expired(Tick::from_ms(9_100), 100).count(), 0);
        assert_eq!(leases.expired(Tick::from_ms(9_101), 100).count(), 2);
    }
}
