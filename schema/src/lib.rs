//! The vocabulary of Celeriant: what every other crate means by an event, a write, a receipt.
//!
//! ```text
//! limits   every bound, checked against each other at compile time
//! ids      numbers with a meaning: Lsn, Version, Stamp, ClientId …
//! key      org / type / id
//! event    what a writer gives: an Event, and its canonical bytes (EncodedEvents)
//! request  Write, Read, Head, List, Feed — what a client may ask
//! response Receipt, Page, HeadInfo … — what it may be answered
//! feed     events of many aggregates in stamp order: which, and a page of them
//! refusal  every error a client can see, with number, advice and fields
//! hash     event chain, record hash, frame hash, write hash
//! audit    checking what was read: event chains, Merkle mountain ranges
//! encryption  the envelope around payloads that clients encrypt (feature `encryption`)
//! record   what one entry of a shard's log is, in bytes
//! wire     what travels between client and server, in bytes
//! api_key  what a client shows instead of a certificate
//! credential  an API key, or a token of one, as text
//! system   what the store writes down about itself: schemas and policies
//! payload  schemas compiled, checked, compared (feature `payloads`)
//! registry which schemas and policies there are, and whether a write conforms (`payloads`)
//! peer     what the two nodes of a pair say to each other, in bytes
//! fuzzing  what must hold for any bytes, as functions that tests and fuzzers call
//! ```
//!
//! Deliberately absent: I/O, clocks, runtimes, threads. Everything here is a value or a pure
//! function of values, so that clients in any environment can use it.
//!
//! To change an encoding: change the byte tables in `docs/wire.md` or `docs/record.md`, the code,
//! and the golden vectors, in one commit, and raise the version that the frame carries.

mod api_key;
pub mod audit;
mod codec;
pub mod credential;
#[cfg(feature = "encryption")]
pub mod encryption;
pub mod event;
pub mod feed;
pub mod fuzzing;
pub mod hash;
pub mod ids;
pub mod key;
pub mod limits;
#[cfg(feature = "payloads")]
pub mod payload;
pub mod peer;
pub mod record;
pub mod refusal;
#[cfg(feature = "payloads")]
pub mod registry;
pub mod request;
pub mod response;
pub mod system;
pub mod wire;

#[cfg(test)]
mod samples;

pub use api_key::{ApiKey, ApiKeyError, ApiKeyHash, ApiKeyId, SECRET_BYTES, TokenKey};
pub use codec::DecodeError;
pub use credential::{Credential, CredentialError, TokenText};
pub use event::{ContentType, EncodedEvents, Event, SchemaVersion};
pub use feed::{FeedBatch, FeedPage, FeedQuery, Following, Notice, Selector};
pub use hash::Hash;
pub use ids::{
    BootId, ClientId, ClusterId, Epoch, EventId, Lsn, Sequence, ShardId, Stamp, StoreId, TxnId,
    Version, WriteId,
};
pub use key::AggregateKey;
pub use refusal::{AlreadyApplied, Conflict, Refusal, Retry};
pub use request::{Guard, HeadQuery, ListQuery, Member, ReadQuery, Request, Retention, Write};
pub use response::{
    AggregateReceipt, BatchHeader, HeadInfo, ListPage, Page, ReadBatch, ReadEvent, Receipt,
    Response,
};
