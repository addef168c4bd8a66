//! Who leads: the cluster's register in the bucket (replication.md §1).

pub mod register;
