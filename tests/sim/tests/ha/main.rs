//! NameNodes whose roles an operator moves or that find them, that make images for each other, and whose callers, peers
//! and JournalNodes misbehave: the real daemons over virtual time. Scenarios of behaviour.md 6.6 to 6.8 and complaints
//! of its section 4 by id.

mod calls;
mod checkpoints;
mod cluster;
mod election;
mod promotion;
mod roles;
