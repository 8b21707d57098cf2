//! Controls of the network's faults.

use super::events::{end_side, hearing_changed, mended};
use crate::node::NodeId;
use crate::report::Counters;
use crate::trace::Tag;
use crate::world::Handle;
use hadal_env::{NetError, NetErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

impl Handle {
    fn cut_links(&self, pairs: &[(NodeId, NodeId)]) {
        {
            let mut net = self.shared.net.borrow_mut();
            for (from, to) in pairs {
                if from != to {
                    net.link(*from, *to).cut = true;
                }
            }
            net.counters.cuts += 1;
        }
        for (from, to) in pairs {
            self.shared.note(
                Tag::Link,
                u64::from(from.0),
                u64::from(to.0) | 1 << 32,
                || format!("cut {from:?} to {to:?}"),
            );
        }
        hearing_changed(&self.shared);
    }

    fn everyone(&self) -> Vec<NodeId> {
        (0..self.shared.nodes.borrow().len())
            .map(|index| NodeId(index as u16))
            .collect()
    }

    /// Nothing passes from one node to the other any more; the way back stays.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.cut_links(&[(from, to)]);
    }

    /// Nothing passes between two nodes any more; both still see all others (a partial partition).
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.cut_links(&[(a, b), (b, a)]);
    }

    /// Nothing passes between this node and all others.
    pub fn isolate(&self, node: NodeId) {
        let pairs: Vec<_> = self
            .everyone()
            .into_iter()
            .flat_map(|other| [(node, other), (other, node)])
            .collect();
        self.cut_links(&pairs);
    }

    /// Nothing passes between these nodes and all others; among themselves they talk.
    pub fn split(&self, group: &[NodeId]) {
        let others: Vec<_> = self
            .everyone()
            .into_iter()
            .filter(|node| !group.contains(node))
            .collect();
        let pairs: Vec<_> = group
            .iter()
            .flat_map(|a| others.iter().flat_map(move |b| [(*a, *b), (*b, *a)]))
            .collect();
        self.cut_links(&pairs);
    }

    /// Mends all links and takes all delays and losses away.
    pub fn heal(&self) {
        for link in self.shared.net.borrow_mut().all_links() {
            *link = super::state::Link::default();
        }
        self.shared
            .note(Tag::Link, u64::MAX, 0, || "all links mended".to_owned());
        mended(&self.shared);
    }

    /// Mends the links between two nodes, both ways.
    pub fn heal_between(&self, a: NodeId, b: NodeId) {
        {
            let mut net = self.shared.net.borrow_mut();
            *net.link(a, b) = super::state::Link::default();
            *net.link(b, a) = super::state::Link::default();
        }
        self.shared
            .note(Tag::Link, u64::from(a.0), u64::from(b.0) | 2 << 32, || {
                format!("mended {a:?} and {b:?}")
            });
        mended(&self.shared);
    }

    /// Whether the way from one node to the other is cut.
    #[must_use]
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.shared.net.borrow().is_cut(from, to)
    }

    /// Messages from one node to the other take so much longer (zero: no longer).
    pub fn clog(&self, from: NodeId, to: NodeId, extra: Duration) {
        self.shared.net.borrow_mut().link(from, to).extra_ns = crate::world::nanos(extra);
    }

    /// So many messages per million from one node to the other lose a packet and come later.
    pub fn set_loss(&self, from: NodeId, to: NodeId, loss_ppm: u32) {
        self.shared.net.borrow_mut().link(from, to).loss_ppm = loss_ppm;
    }

    /// The next dials to this node fail at once, so many of them.
    pub fn fail_dials(&self, to: NodeId, count: u32) {
        self.shared.net.borrow_mut().refusals.insert(to, count);
    }

    /// Certificates of this node are refused from now on (true), or no longer.
    pub fn distrust(&self, node: NodeId, distrusted: bool) {
        let mut net = self.shared.net.borrow_mut();
        net.distrusted.retain(|other| *other != node);
        if distrusted {
            net.distrusted.push(node);
        }
    }

    /// Ends all connections between two nodes at once, at both sides; how many.
    pub fn reset_connections(&self, a: NodeId, b: NodeId) -> usize {
        let mut net = self.shared.net.borrow_mut();
        let mut count = 0;
        for key in net.between(a, b) {
            count += 1;
            for side in 0..2 {
                let error = NetError::new(NetErrorKind::Lost, "reset (injected)");
                end_side(&self.shared, &mut net, key, side, error);
            }
        }
        drop(net);
        self.shared
            .note(Tag::Link, u64::from(a.0), u64::from(b.0) | 3 << 32, || {
                format!("{count} connections of {a:?} and {b:?} reset")
            });
        count
    }

    /// A node's endpoint moves to another address; its connections stay.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn move_endpoint(&self, node: NodeId, shard: usize, addr: SocketAddr) {
        let endpoint = self.shared.nodes.borrow()[node.index()].endpoints[shard];
        let mut net = self.shared.net.borrow_mut();
        let old = net.endpoints[endpoint].addr;
        net.by_addr.remove(&old);
        let taken = net.by_addr.insert(addr, endpoint);
        assert!(taken.is_none(), "two endpoints at {addr}");
        net.endpoints[endpoint].addr = addr;
    }

    pub(crate) fn add_net_counters(&self, counters: &mut Counters) {
        let counts = self.shared.net.borrow().counters;
        counters.add("messages", counts.messages);
        counters.add("connections", counts.connections);
        counters.add("connections lost", counts.lost);
        counters.add("dials refused", counts.refused);
        counters.add("partitions", counts.cuts);
        counters.add("messages held by a cut", counts.stalls);
    }
}
