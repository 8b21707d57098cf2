//! The durability ledger (reliability.md S7): what every acknowledged hflush and hsync owes, given what became of the
//! nodes that have the bytes.
//!
//! * **hsync**: the bytes are there as long as the disk of one node of the pipeline is.
//! * **hflush**: as long as one node of the pipeline lives on; or, when all were started again, none of them lost what
//!   its kernel held (E-19: of replicas that only waited, the shortest counts).
//! * What a reader **saw** beyond that: as long as no node of the pipeline ended.

use crate::node::NodeId;
use crate::world::Handle;

/// A node of a pipeline at the time of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Member {
    node: NodeId,
    life: u32,
    losses: u64,
}

impl Member {
    fn of(world: &Handle, node: NodeId) -> Self {
        Self {
            node,
            life: world.life(node),
            losses: losses(world, node),
        }
    }

    fn lives_on(&self, world: &Handle) -> bool {
        world.life(self.node) == self.life
    }

    fn lost_nothing(&self, world: &Handle) -> bool {
        losses(world, self.node) == self.losses
    }
}

/// How often a machine may have lost bytes it had not synced.
fn losses(world: &Handle, node: NodeId) -> u64 {
    let counters = world.disk_of(node).disk_counters();
    counters.power_failures + counters.errors
}

/// Who had the bytes when they were acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    /// The pipeline.
    members: Vec<Member>,
    /// All DataNodes.
    all: Vec<Member>,
    /// Nothing was written since: no pipeline recovery changed the pipeline.
    pub(super) is_last: bool,
}

/// DataNodes that the last blow of a run struck: down for good, or with a disk that rotted.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LastBlow {
    pub(super) gone: Option<NodeId>,
    pub(super) rotten: Option<NodeId>,
}

impl LastBlow {
    pub(super) fn struck(&self) -> bool {
        self.gone.is_some() || self.rotten.is_some()
    }

    fn spared(&self, member: &Member) -> bool {
        Some(member.node) != self.gone && Some(member.node) != self.rotten
    }
}

impl Witness {
    /// Before a flush, with all DataNodes as they are now.
    pub(super) fn before(world: &Handle, datanodes: &[NodeId]) -> Self {
        let all = datanodes.iter().map(|node| Member::of(world, *node));
        Self {
            members: Vec::new(),
            all: all.collect(),
            is_last: true,
        }
    }

    /// The flush was acknowledged by the pipeline with these nodes. One that ended meanwhile may have had the bytes
    /// before, so it does not count as living on (seed 13, one minute: after the bytes had arrived the flush waited for a
    /// NameNode while power failed everywhere).
    pub(super) fn acknowledged(mut self, world: &Handle, pipeline: &[String]) -> Self {
        let nodes: Vec<_> = pipeline.iter().map(|name| world.node(name)).collect();
        let is_one = |member: &&Member| nodes.contains(&Some(member.node));
        self.members = self.all.iter().filter(is_one).copied().collect();
        self
    }

    /// The nodes are known that had the last acknowledged bytes.
    fn is_known(&self) -> bool {
        self.is_last && !self.members.is_empty()
    }

    /// What was synced is owed.
    pub(super) fn owes_synced(&self, blow: &LastBlow) -> bool {
        if self.is_known() {
            self.members.iter().any(|member| blow.spared(member))
        } else {
            // A pipeline may have shrunk to the node that was struck.
            !blow.struck()
        }
    }

    /// What was flushed is owed.
    pub(super) fn owes_flushed(&self, world: &Handle, blow: &LastBlow) -> bool {
        if !self.is_known() {
            return !blow.struck() && self.all.iter().all(|member| member.lost_nothing(world));
        }
        if self.owes_visible(world, blow) {
            return true;
        }
        let takes_part = |member: &&Member| Some(member.node) != blow.gone;
        let rotten_leads = self
            .members
            .iter()
            .any(|member| Some(member.node) == blow.rotten && member.lives_on(world));
        self.owes_synced(blow)
            && !rotten_leads
            && self
                .members
                .iter()
                .filter(takes_part)
                .all(|member| member.lost_nothing(world))
    }

    /// What was flushed is owed to a reader without a lease recovery: a node of the pipeline lives on.
    pub(super) fn owes_visible(&self, world: &Handle, blow: &LastBlow) -> bool {
        let serves = |member: &Member| blow.spared(member) && member.lives_on(world);
        self.is_known() && self.members.iter().any(serves)
    }

    /// What a reader saw is owed: nobody of the pipeline ended.
    pub(super) fn owes_seen(&self, world: &Handle, blow: &LastBlow) -> bool {
        let serves = |member: &Member| blow.spared(member) && member.lives_on(world);
        self.is_known() && self.members.iter().all(serves)
    }
}
