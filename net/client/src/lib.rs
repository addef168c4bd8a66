//! The Rust client of Celeriant, an event store.
//!
//! ```no_run
//! use celeriant_client::{AggregateKey, Client, Event};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("celeriant://localhost:7440").await?;
//! let key: AggregateKey = "acme/account/alice".parse()?;
//!
//! let deposited = Event::json("Deposited", &serde_json::json!({ "amount": 100 }))?;
//! let receipt = client.append(&key, [deposited]).await?;
//!
//! let mut batches = client.read(&key).stream();
//! while let Some(batch) = batches.next().await {
//!     for event in batch?.events {
//!         println!("{} {} {:?}", event.version, event.event_type, event.payload);
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! ```text
//! Client       one or a few connections to each node, shared by all clones; goes where the leader
//!              is, and repeats what is safe to repeat
//!  ├ append, write   Write: guards, sequences, many aggregates at once
//!  ├ read            Read: a stream of batches, asked for page by page
//!  ├ head, list      state and names
//!  ├ verify          an aggregate's hashes, computed anew
//!  ├ watch           Watch: a stream of what happens, that resumes by itself; Projection: state
//!  │                 that is made of it
//!  ├ schema          what payloads must conform to: registered, shown, demanded
//!  ├ writer          Writer: read, decide, append, on conflict again: exactly once, as one call
//!  └ once            Once: the same, at most once per request id, across processes
//! keys         payloads that only those read who have the key, until it is destroyed
//! Credentials  what to show, asked for again when it has ended
//! Aggregate    how an application's events make state
//! Error        what went wrong, whether trying again helps, whether it is certain
//! ```
//!
//! **What is sent again.** Reads always. A write with sequences, identically, until its timeout:
//! the store recognises it, so it lands once. A write without sequences only while it certainly was
//! not done; if the connection is lost after sending, the answer is `Error::UnknownOutcome`.
//!
//! **Two nodes.** A URL names all nodes of a store: `celeriant://a:7440,b:7440`. Calls go to the
//! one that leads, wherever that moves, also to an address that only a node named; one that cannot
//! be reached, or falls silent, is left for the next. While nobody leads, calls wait, until their
//! timeout. `read(..).any()` and `head(..).any()` go to a node that does not lead, if there is one,
//! and may be behind; `min_stamp` says how far it must be.
//!
//! **TLS.** With [`Options::tls`], or `?ca=FILE&cert=FILE&key=FILE` in the URL, connections are
//! TLS 1.3: nodes must show a certificate of that authority, and are shown this one.
//!
//! **Who asks.** Over TLS, or to this machine, a client shows an API key, or a token of one:
//! [`Options::api_key`], `?api_key=FILE` or `CELERIANT_API_KEY`. Tokens end within hours; a client
//! that goes on for longer is given [`Options::credentials`], and asks for the next one:
//!
//! ```no_run
//! use celeriant_client::{Client, Credentials, Options};
//!
//! # async fn ask_the_backend() -> std::io::Result<String> { Ok(String::new()) }
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let credentials = Credentials::new(|| async {
//!     let token = ask_the_backend().await.map_err(|error| error.to_string())?;
//!     token.parse().map_err(|error| format!("{error}"))
//! });
//! let options = Options { credentials: Some(credentials), ..Options::default() };
//! let client = Client::connect_with("celeriant://db-a.internal?ca=certs/ca.crt", options).await?;
//! # Ok(()) }
//! ```
//! Calls and watches go on over the end of a token without an error; so they do when a key is
//! exchanged for another and revoked.
//!
//! Deliberately absent: the server and everything it needs, and everything that only one operating
//! system has.

// A client runs in other people's programs: it has its own clock, randomness and tasks. Simulation
// speaks to a node without it.
#![allow(clippy::disallowed_methods)]

mod aggregate;
pub mod audit;
mod backoff;
mod client;
mod credentials;
mod error;
mod event;
#[cfg(test)]
mod fake;
pub mod keys;
mod link;
mod nodes;
mod queries;
mod read;
mod resend;
pub mod schemas;
mod sealing;
mod tls;
mod typed;
mod url;
mod verify;
mod watch;
mod write;
mod writer;

pub use aggregate::{Aggregate, Decision, DecisionMany, ExecuteError, Outcome};
pub use celeriant_schema::event::Envelope;
pub use celeriant_schema::key::KeyError;
pub use celeriant_schema::{
    AggregateKey, AggregateReceipt, AlreadyApplied, ApiKey, ApiKeyError, ApiKeyId, ClientId,
    Conflict, ContentType, Credential, CredentialError, EventId, Guard, Hash, HeadInfo, ListPage,
    Receipt, Refusal, Retry, SchemaVersion, Selector, Sequence, Stamp, Version, WriteId,
};
pub use client::{Client, Options};
pub use credentials::Credentials;
pub use error::Error;
pub use event::{Batch, Event, IntoId, Payload, Recorded};
pub use link::{Pipe, dial};
pub use queries::{Head, List, Names};
pub use read::{Batches, Page, Read};
pub use tls::Tls;
pub use url::Url;
pub use verify::{Verified, Verify, VerifyError};
pub use watch::{Feed, Projection, Watch, Watched};
pub use write::{Expect, Write};
pub use writer::{Once, Writer};
