//! From a datagram to a candidate: handshake, certificate, greetings, choice; each with a deadline.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use celeriant_schema::BootId;
use quinn::{Connecting, Connection, ConnectionError, Endpoint, Incoming};
use tokio::time::timeout;

use super::choice::{self, Greeting, HANDSHAKE_BYTES_MAX, Held};
use super::session::{Broken, Inbox, Outbox};
use super::transport::{self, Code, reason_of};
use super::{Attempt, Shared};
use crate::link::{Lane, Reason};
use crate::tls::{Name, Verdict};

/// A connection on which both sides have greeted and proven who they are.
pub(super) struct Candidate {
    pub(super) with: String,
    pub(super) greeting: Greeting,
    pub(super) connection: Connection,
    /// By lane.
    pub(super) outboxes: [Outbox; 2],
    /// By lane.
    pub(super) inboxes: [Inbox; 2],
    /// Once it has been chosen: the arbiter's process, and its number.
    chosen: (BootId, u64),
}

/// An attempt that came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) with: String,
    pub(super) reason: Reason,
}

impl Candidate {
    pub(super) fn held(&self) -> Held {
        let (arbiter, number) = self.chosen;
        Held { peer: self.greeting.hello.boot, arbiter, number }
    }

    pub(super) fn close(self, code: Code) {
        self.connection.close(code.into(), code.text().as_bytes());
    }

    fn control(&mut self) -> (&mut Outbox, &mut Inbox) {
        let at = Lane::Control.index();
        (&mut self.outboxes[at], &mut self.inboxes[at])
    }
}

/// Dials `address`.
pub(super) fn dial(shared: Arc<Shared>, endpoint: Endpoint, address: String) -> Attempt {
    Box::pin(async move {
        let with = format!("{address}, dialed");
        let work = async {
            let verdict = Verdict::default();
            let at = resolve(&address).await?;
            let unusable = |error: &dyn std::fmt::Display| Reason::Unreachable(error.to_string());
            let config = transport::client_config(&shared, verdict.clone());
            let config = config.map_err(|error| unusable(&error))?;
            let connecting = endpoint.connect_with(config, at, transport::SERVER_NAME);
            let connecting = connecting.map_err(|error| unusable(&error))?;
            greet(&shared, connecting, &verdict, true, &with).await
        };
        finish(&shared, &with, work).await
    })
}

/// Takes a connection that has come.
pub(super) fn accept(shared: Arc<Shared>, incoming: Incoming) -> Attempt {
    Box::pin(async move {
        let with = format!("{}, accepted", incoming.remote_address());
        let work = async {
            let verdict = Verdict::default();
            let config = transport::server_config(&shared, verdict.clone())
                .map_err(|error| Reason::Unreachable(error.to_string()))?;
            let connecting = incoming.accept_with(Arc::new(config)).map_err(|e| reason_of(&e))?;
            greet(&shared, connecting, &verdict, false, &with).await
        };
        finish(&shared, &with, work).await
    })
}

/// Waits until the arbiter chooses the candidate, and confirms.
pub(super) fn be_chosen(shared: Arc<Shared>, mut candidate: Candidate) -> Attempt {
    Box::pin(async move {
        let with = candidate.with.clone();
        let work = async {
            let connection = candidate.connection.clone();
            let (outbox, inbox) = candidate.control();
            let message = inbox.message(HANDSHAKE_BYTES_MAX).await;
            let message = message.map_err(|broken| broken.reason(&connection))?;
            let Some(number) = choice::number_of_chosen(&message) else {
                return Err(break_off(&connection, "a choice was expected"));
            };
            let _ = outbox.push(choice::confirmed(number));
            outbox.flush().await.map_err(|_| Broken::Connection.reason(&connection))?;
            candidate.chosen = (candidate.greeting.hello.boot, number);
            Ok(candidate)
        };
        finish(&shared, &with, work).await
    })
}

/// Tells the candidate that it is chosen, and waits for its confirmation.
pub(super) fn choose(shared: Arc<Shared>, mut candidate: Candidate, number: u64) -> Attempt {
    Box::pin(async move {
        let with = candidate.with.clone();
        let own = shared.hello.boot;
        let work = async {
            let connection = candidate.connection.clone();
            let (outbox, inbox) = candidate.control();
            let _ = outbox.push(choice::chosen(number));
            outbox.flush().await.map_err(|_| Broken::Connection.reason(&connection))?;
            let message = inbox.message(HANDSHAKE_BYTES_MAX).await;
            let message = message.map_err(|broken| broken.reason(&connection))?;
            if choice::number_of_confirmed(&message) != Some(number) {
                return Err(break_off(&connection, "a confirmation was expected"));
            }
            candidate.chosen = (own, number);
            Ok(candidate)
        };
        finish(&shared, &with, work).await
    })
}

/// An attempt ends in time. Dropping its connection closes it.
async fn finish(
    shared: &Shared,
    with: &str,
    work: impl Future<Output = Result<Candidate, Reason>>,
) -> Result<Candidate, Failure> {
    let outcome = timeout(shared.settings.attempt_timeout, work).await;
    let outcome = outcome.unwrap_or(Err(Reason::TimedOut));
    outcome.map_err(|reason| Failure { with: with.to_owned(), reason })
}

async fn resolve(address: &str) -> Result<SocketAddr, Reason> {
    // No look-up for what needs none: it would leave the thread.
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let found = tokio::net::lookup_host(address).await;
    let mut found = found.map_err(|e| Reason::Unreachable(format!("{address}: {e}")))?;
    found.next().ok_or_else(|| Reason::Unreachable(format!("{address} has no address")))
}

/// Handshake, streams, greetings.
async fn greet(
    shared: &Shared,
    connecting: Connecting,
    verdict: &Verdict,
    dialed: bool,
    with: &str,
) -> Result<Candidate, Reason> {
    let connection = connecting.await.map_err(|error| distrust(verdict, &error))?;
    let own = || {
        let greeting = shared.last().greeting(&shared.hello).encode();
        greeting.ok_or_else(|| Reason::Protocol("this node's own hello cannot be sent".into()))
    };
    // A stream shows at the other side with its first bytes: the greeting on control, an empty
    // message on bulk.
    let first = if dialed { Some(own()?) } else { None };
    let (mut outbox, mut inbox) = open_lane(&connection, Lane::Control, first).await?;
    let first = dialed.then(Bytes::new);
    let (bulk_outbox, mut bulk_inbox) = open_lane(&connection, Lane::Bulk, first).await?;
    let theirs = inbox.message(HANDSHAKE_BYTES_MAX).await;
    let theirs = theirs.map_err(|broken| broken.reason(&connection))?;
    let Some(greeting) = Greeting::decode(&theirs) else {
        return Err(break_off(&connection, "a greeting was expected"));
    };
    check(&greeting, verdict, &connection)?;
    if !dialed {
        let empty = bulk_inbox.message(0).await;
        empty.map_err(|broken| broken.reason(&connection))?;
        let _ = outbox.push(own()?);
        outbox.flush().await.map_err(|_| Broken::Connection.reason(&connection))?;
    }
    Ok(Candidate {
        with: with.to_owned(),
        greeting,
        connection,
        outboxes: [outbox, bulk_outbox],
        inboxes: [inbox, bulk_inbox],
        chosen: (BootId::new(0), 0),
    })
}

/// Opens a lane's stream and says `first` on it, or takes the one that the other side opens.
async fn open_lane(
    connection: &Connection,
    lane: Lane,
    first: Option<Bytes>,
) -> Result<(Outbox, Inbox), Reason> {
    let opened = match first {
        Some(_) => connection.open_bi().await,
        None => connection.accept_bi().await,
    };
    let (send, receive) = opened.map_err(|error| reason_of(&error))?;
    if lane == Lane::Control {
        // Fails only on a stream that is closed, which its next use tells as well.
        let _ = send.set_priority(1);
    }
    let mut outbox = Outbox::new(send);
    if let Some(first) = first {
        let _ = outbox.push(first);
        outbox.flush().await.map_err(|_| Broken::Connection.reason(connection))?;
    }
    Ok((outbox, Inbox::new(receive)))
}

/// The hello must say what the certificate proves.
fn check(greeting: &Greeting, verdict: &Verdict, connection: &Connection) -> Result<(), Reason> {
    let hello = &greeting.hello;
    let said = Name { cluster: hello.cluster, store: hello.store };
    if verdict.taken() == Some(Ok(said)) {
        return Ok(());
    }
    let code = Code::Contradiction;
    connection.close(code.into(), code.text().as_bytes());
    Err(Reason::Contradiction)
}

/// What this side found wrong with the certificate says more than the alert that it sent.
fn distrust(verdict: &Verdict, error: &ConnectionError) -> Reason {
    match verdict.taken() {
        Some(Err(untrusted)) => Reason::Untrusted(untrusted),
        _ => reason_of(error),
    }
}

fn break_off(connection: &Connection, what: &str) -> Reason {
    connection.close(Code::Protocol.into(), what.as_bytes());
    Reason::Protocol(what.to_owned())
}

impl Broken {
    fn reason(self, connection: &Connection) -> Reason {
        match (self, connection.close_reason()) {
            (Self::Protocol(what), _) => break_off(connection, &what),
            (Self::Connection, Some(error)) => reason_of(&error),
            (Self::Connection, None) => Reason::Unreachable("a lane is gone".into()),
        }
    }
}
