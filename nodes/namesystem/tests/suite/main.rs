//! The NameNode's mind, tested as values: calls in, edits and answers out.

mod append;
mod barrier;
mod concat;
mod datanode;
mod files;
mod first_block;
mod ha;
mod leases;
mod loading;
mod locations;
mod outage;
mod permissions;
mod recovery;
mod replay;
mod rules;
mod standby_reads;
mod support;
mod truncate;
