//! The way from a node's gateway to the node that leads: the client crate, with the node's own
//! certificate.
//!
//! One client per leader that is known of, made when something is first asked of it. It finds a
//! newer leader by itself; certificates are read again at each connection.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use celeriant_actors::settings::Settings;
use celeriant_client::{Client, Error, Options, Tls};
use celeriant_net::Elsewhere;
use celeriant_schema::{Refusal, Request, Response};
use tokio::time::{Instant, timeout_at};

use super::super::failure::Failure;

/// Asks the leader.
pub(super) struct Leader {
    tls: Option<Tls>,
    node_id: String,
    /// The last one, and by which address.
    known: Mutex<Option<(String, Client)>>,
}

impl Leader {
    /// For a node with these settings.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub(super) fn new(settings: &Settings) -> Result<Self, Failure> {
        let files = settings.certificates.as_ref().filter(|_| settings.clients.is_some());
        let tls = files.map(|files| {
            let identity = (files.certificate.clone(), files.key.clone());
            Tls::from_files(&files.authority, Some(identity))
        });
        let tls = tls.transpose().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self { tls, node_id: settings.node_id.clone(), known: Mutex::new(None) })
    }

    /// The client is kept for others, so the patience of one request is none of its options.
    async fn client(&self, leader: String) -> Result<Client, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, client)) = known.filter(|(address, _)| *address == leader) {
            return Ok(client);
        }
        let url = format!("celeriant://{leader}");
        let (tls, name) = (self.tls.clone(), format!("gateway of {}", self.node_id));
        let options = Options { tls, name, ..Options::default() };
        let client = Client::connect_with(&url, options).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((leader, client.clone()));
        Ok(client)
    }
}

impl Elsewhere for Leader {
    fn ask(
        &self,
        leader: String,
        request: Request,
        patience: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send + '_>> {
        Box::pin(async move {
            let deadline = Instant::now() + patience;
            let client = match timeout_at(deadline, self.client(leader)).await {
                Ok(Ok(client)) => client,
                failed => {
                    let error = failed.ok().and_then(Result::err);
                    tracing::warn!(?error, "the leader cannot be reached in time");
                    // Nothing was sent.
                    return Err(Refusal::NoLeader);
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            client.pass_on(&request, left).await.map_err(|error| {
                tracing::debug!(%error, "from the leader");
                error.refusal().unwrap_or(match error.is_definite() {
                    true => Refusal::NoLeader,
                    false => Refusal::UnknownOutcome,
                })
            })
        })
    }
}
