//! Short-circuit reads: tickets for readers on this host.
//!
//! A reader asks for a replica over QUIC, where its right to read is checked, and gets a ticket. It shows it at a Unix
//! socket of this process, which hands out a read-only descriptor (protocols.md section 5). The socket is the binary's
//! matter: it belongs to the machine, like the QUIC endpoint.

use crate::error::fault_of;
use crate::node::Node;
use hadal_blockpool::OpenedBlocks;
use hadal_env::Env;
use hadal_proto::transfer::LocalReplica;
use hadal_proto::{Fault, FaultClass};
use hadal_types::{Block, Tick};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

/// How long a ticket is good.
const TICKET_MS: u64 = 10_000;
/// Tickets that were not shown yet; with so many, readers are sent to the network.
const TICKETS_MAX: usize = 4_096;

struct Ticket {
    path: PathBuf,
    expires: Tick,
}

/// The tickets of one DataNode, and the name of the socket where they are shown. Clones share them.
#[derive(Clone)]
pub struct LocalDoor {
    socket: Rc<str>,
    tickets: Rc<RefCell<BTreeMap<u128, Ticket>>>,
    opened: Rc<RefCell<OpenedBlocks>>,
}

impl LocalDoor {
    /// No ticket yet; `socket` is a name in Linux's abstract namespace. `cache_bytes` is what the page cache can be
    /// expected to hold: only replicas that come round within so many opened bytes are read through it.
    #[must_use]
    pub fn new(socket: &str, cache_bytes: u64) -> Self {
        Self {
            socket: socket.into(),
            tickets: Rc::default(),
            opened: Rc::new(RefCell::new(OpenedBlocks::new(cache_bytes))),
        }
    }

    /// The file a ticket stands for. It is good once.
    #[must_use]
    pub fn redeem(&self, now: Tick, ticket: u128) -> Option<PathBuf> {
        let ticket = self.tickets.borrow_mut().remove(&ticket)?;
        (now < ticket.expires).then_some(ticket.path)
    }

    /// Issues a ticket. Whether the replica is to be read through the page cache; who is sent to the network opens nothing.
    fn issue(&self, now: Tick, ticket: u128, path: PathBuf, block: Block) -> Result<bool, Fault> {
        let mut tickets = self.tickets.borrow_mut();
        if tickets.len() >= TICKETS_MAX {
            tickets.retain(|_, ticket| now < ticket.expires);
        }
        if tickets.len() >= TICKETS_MAX {
            return Err(Fault::new(
                FaultClass::Retry,
                "too many readers asked for local files and did not fetch them: read over the network",
            ));
        }
        let expires = now.after_ms(TICKET_MS);
        tickets.insert(ticket, Ticket { path, expires });
        let mut opened = self.opened.borrow_mut();
        Ok(opened.handle_opened(block.id, block.length))
    }
}

/// Answers a reader that wants the file itself.
pub(crate) fn open_local<E: Env>(node: &Rc<Node<E>>, block: Block) -> Result<LocalReplica, Fault> {
    let Some(door) = &node.local else {
        return Err(Fault::new(
            FaultClass::Unsupported,
            format!(
                "{} hands out no local files (datanode.local_reads)",
                node.config.name
            ),
        ));
    };
    let file = node
        .store()?
        .local_file(block.id, block.generation_stamp)
        .map_err(|error| fault_of(&error))?;
    let Some(file) = file else {
        return Err(Fault::new(
            FaultClass::NotFound,
            format!("{block} has no file of its own here, or is being written"),
        ));
    };
    let geometry = &file.geometry;
    let ticket = u128::from(node.env.random_u64()) << 64 | u128::from(node.env.random_u64());
    let bounded = |value: usize| u32::try_from(value).expect("a group is far below 4 GiB");
    let cached = door.issue(node.env.now(), ticket, file.path, file.block)?;
    Ok(LocalReplica {
        socket: door.socket.to_string(),
        ticket,
        block: file.block,
        bytes_per_checksum: bounded(geometry.bytes_per_checksum),
        whole: file.whole,
        first_group: geometry.group_offset(0),
        head: bounded(geometry.head),
        group: bounded(geometry.group),
        tail: file.tail,
        cached,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{BlockId, GenerationStamp};

    fn block(id: u64) -> Block {
        Block {
            id: BlockId(id),
            generation_stamp: GenerationStamp(1),
            length: 10,
        }
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let door = LocalDoor::new("here", 0);
        let at = |ms| Tick(0).after_ms(ms);
        door.issue(at(0), 7, "a".into(), block(1)).unwrap();
        door.issue(at(0), 8, "b".into(), block(2)).unwrap();
        assert_eq!(door.redeem(at(1), 9), None);
        assert_eq!(door.redeem(at(1), 7), Some("a".into()));
        assert_eq!(door.redeem(at(1), 7), None);
        assert_eq!(door.redeem(at(TICKET_MS), 8), None);
    }

    #[test]
    fn tickets_are_bounded_and_old_ones_make_room() {
        let door = LocalDoor::new("here", 0);
        for ticket in 0..TICKETS_MAX as u128 {
            door.issue(Tick(0), ticket, "a".into(), block(1)).unwrap();
        }
        let fault = door
            .issue(Tick(0), 1 << 64, "a".into(), block(1))
            .unwrap_err();
        assert_eq!(fault.class, FaultClass::Retry);
        let later = Tick(0).after_ms(TICKET_MS);
        door.issue(later, 1 << 64, "b".into(), block(2)).unwrap();
        assert_eq!(door.redeem(later, 1 << 64), Some("b".into()));
    }

    #[test]
    fn a_replica_that_is_opened_again_is_read_through_the_cache() {
        let door = LocalDoor::new("here", 20);
        let open = |ticket: u64, id| {
            let path = PathBuf::from("a");
            door.issue(Tick(0), ticket.into(), path, block(id))
        };
        assert!(!open(1, 1).unwrap());
        assert!(open(2, 1).unwrap());
        assert!(!open(3, 2).unwrap());
        // More than the cache holds came in between.
        assert!(!open(4, 3).unwrap());
        assert!(!open(5, 1).unwrap());
        // Who gets no ticket opens nothing.
        for ticket in 6..=TICKETS_MAX as u64 {
            open(ticket, 1).unwrap();
        }
        assert!(open(0, 9).is_err());
        let later = Tick(0).after_ms(TICKET_MS);
        assert!(!door.issue(later, 0, "a".into(), block(9)).unwrap());
    }
}
