//! Memory that Direct I/O accepts: aligned to 4,096 bytes. One of the two places with `unsafe`.
