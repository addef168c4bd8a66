//! The HTTP gateway of a real node: what both ways in mean alike, what only HTTP has, its
//! description, and bad input.

mod described;
mod hostile;
mod schemas;
mod semantics;
mod shapes;
mod sync;

use crate::support::{Http, Node};

/// A node of two shards that serves HTTP, and where its data is.
fn node() -> (tempfile::TempDir, Node, Http) {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev(&dir.path().join("data"), &["--shards", "2"]);
    let http = node.http();
    (dir, node, http)
}
