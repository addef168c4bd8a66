//! The HTTP gateway of a real node: what both ways in mean alike, what only HTTP has, its
//! description, and bad input.

mod described;
mod hostile;
mod schemas;
mod semantics;
mod shapes;
mod sync;
