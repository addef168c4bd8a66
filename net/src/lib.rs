//! Bytes in motion: clients connect here, requests become values, answers become bytes.
//!
//! ```text
//! listener    accepts (one per thread, SO_REUSEPORT), caps the number of connections; TLS
//! connection  one task per client: socket ⇄ frames ⇄ Service, and the limits
//! http        the gateway: the same Service over HTTP
//! json        receipts, events, writes as JSON: of the gateway and of the command line
//! keyring     the API keys that are good here and now
//! link        the other node of a pair: the seam, and its implementation over QUIC
//! rights      who is on the other end, and what he may do
//! rooms       how many of one org may be there at a time
//! service     what stands behind: submit a batch of requests, answers come back in batches
//! settings    identity and limits as plain data; the signal to stop
//! tls         certificates: loaded, exchanged while running, made
//! token       what a backend gives to a browser in place of an API key
//! ```
//!
//! Deliberately absent: actors, shards, disks. Whatever implements [`Service`] is a node; tests and
//! simulation use it without sockets.

pub mod connection;
pub mod http;
pub mod json;
pub mod keyring;
pub mod link;
pub mod listener;
pub mod rights;
pub mod rooms;
pub mod service;
pub mod settings;
pub mod tls;
pub mod token;

pub use keyring::Keyring;
pub use listener::{Door, bind, serve};
pub use rights::Rights;
pub use rooms::Rooms;
pub use service::{Elsewhere, Incoming, Reply, ReplyReceiver, ReplySender, Service};
pub use settings::{Settings, Shutdown, Stop};
pub use token::Token;
