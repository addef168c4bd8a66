//! What process tests share: the program, a running node, calls of the command line, waiting.

pub(crate) mod node;
pub(crate) mod program;
pub(crate) mod wait;

pub(crate) use node::Node;
pub(crate) use program::call;
