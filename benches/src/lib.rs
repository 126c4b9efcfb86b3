//! What the benchmarks share: a bounded load on loopback, the servers written by hand that ours is
//! measured against, and figures that survive a noisy machine (medians of interleaved rounds,
//! ratios, CPU time).

#![allow(missing_docs, reason = "a package of the workspace's own")]

pub mod baseline;
pub mod drain;
pub mod load;
pub mod measure;
pub mod ours;
pub mod servers;
pub mod setup;
pub mod stall;
#[path = "../../tests/common/stuck.rs"]
pub mod stuck;
