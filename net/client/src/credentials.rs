//! What a client shows at each new connection, for those whose token ends before they do.
//!
//! ```text
//! a connection is made ─▶ ask ─▶ hello: key or token ─▶ requests ─▶ Unauthenticated: it is over
//!          ▲                                                              │ nothing was done
//!          └──────────────────────────────────────────────────────────────┘
//! ```
//! The caller notices nothing of it but the time that it takes.
//! Deliberately absent: when a token ends. The node says so.

#[cfg(test)]
mod credentials_test;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use celeriant_schema::Credential;

type Asking = Pin<Box<dyn Future<Output = Result<Credential, String>> + Send>>;

/// Where a [`Client`](crate::Client) gets its API key or token from, over and over.
#[derive(Clone)]
pub struct Credentials(Arc<dyn Fn() -> Asking + Send + Sync>);

impl Credentials {
    /// `ask` is called for every connection that is made, and so again after the node has refused
    /// what was shown. What it returns must count now; whether it keeps that for some time is its
    /// own matter. It has what is left of [`connect_timeout`], and is dropped then. While it fails
    /// there are no new connections: calls wait, until their timeout, and return `Error::Connect`
    /// with what it said.
    ///
    /// [`connect_timeout`]: crate::Options::connect_timeout
    pub fn new<F, A, E>(ask: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Credential, E>> + Send + 'static,
        E: fmt::Display,
    {
        Self(Arc::new(move || {
            let asked = ask();
            Box::pin(async move { asked.await.map_err(|error| format!("credentials: {error}")) })
        }))
    }

    pub(crate) async fn ask(&self) -> Result<Credential, String> {
        (self.0)().await
    }
}

impl From<Credential> for Credentials {
    /// The same one, always.
    fn from(credential: Credential) -> Self {
        Self::new(move || std::future::ready(Ok::<_, std::convert::Infallible>(credential.clone())))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}
