//! A whole node in one thread, one seed and no real time: everything that can go wrong, many times a second.

pub mod disk;
pub mod rng;
pub mod timeline;
pub mod trace;
