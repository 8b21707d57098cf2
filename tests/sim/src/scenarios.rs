//! The scenarios.

pub(crate) mod ledger;
pub(crate) mod records;
