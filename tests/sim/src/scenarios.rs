//! The scenarios.

pub(crate) mod cluster;
pub(crate) mod duel;
pub(crate) mod ledger;
pub(crate) mod quic;
pub(crate) mod records;
