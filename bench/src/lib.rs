//! The measuring harness: every performance claim of Hadal is a row of one of its tables.
//!
//! One module per question (`disk`, `quic`, `edits`, `namespace`, `small_files`, `pipeline`, `block_report`, `image`,
//! `failover`, `standby`, `flush`, `recovery`, `balancer`), each of which gives a
//! [`report::Question`]; [`report`] prints and stores them, [`compare`] sets two results side by side, [`plot`] draws
//! one. Rules: a warm-up first, at least three runs, median and spread, latencies from HDR histograms. All loads are
//! closed loops (a caller asks again when it was answered), so there is no coordinated omission to correct: throughput
//! at a stated number of callers is what is claimed, and the latency is that of the load itself.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod block_report;
pub mod cluster;
pub mod compare;
pub mod cpu;
pub mod curves;
pub mod disk;
pub mod edits;
pub mod environment;
pub mod failover;
pub mod fake_datanode;
pub mod fill;
pub mod flush;
pub mod goals;
pub mod growth;
pub mod image;
pub mod journal_driver;
pub mod load;
pub mod memory;
pub mod namespace;
pub mod pipeline;
pub mod plot;
pub mod quic;
pub mod recovery;
pub mod report;
pub mod restart;
pub mod settings;
pub mod small_files;
pub mod standby;
pub mod stats;
