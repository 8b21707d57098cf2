//! The scenarios.

pub(crate) mod ledger;
