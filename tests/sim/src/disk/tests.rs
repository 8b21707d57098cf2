//! Disk tests.
