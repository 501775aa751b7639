//! Decides, without I/O, clock, threads or randomness, what happens to a partition and to each of its workspaces.

pub mod position;

pub use position::{Offset, PartitionId};
