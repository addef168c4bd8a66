//! Durable bytes.

pub mod buffer;
pub mod disk;
