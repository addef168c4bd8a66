//! What one entry of a shard's log is, in bytes.
