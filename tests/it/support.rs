//! What process tests share: the program, a running node or two, calls of the command line, writers
//! with an oracle, waiting.

pub(crate) mod disk;
pub(crate) mod http;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod oracle;
pub(crate) mod pair;
pub(crate) mod program;
pub(crate) mod site;
pub(crate) mod wait;
pub(crate) mod world;

pub(crate) use http::Http;
pub(crate) use node::Node;
pub(crate) use pair::{Pair, Place};
pub(crate) use program::{call, skipped};
pub(crate) use world::World;
