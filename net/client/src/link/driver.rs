//! The task behind a link: connects when something is asked, and starts over when it is lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use celeriant_schema::Refusal;
use celeriant_schema::limits::RESPONSE_BYTES_MAX;
use celeriant_schema::wire::{self, Outbound};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::session::{End, Session};
use super::{Call, Failure, Pipe, Shared};
use crate::nodes::NodeId;
use crate::tls;

/// A connection whose node has said welcome.
pub(super) struct Socket {
    pub(super) stream: Box<dyn Pipe>,
    /// What came after the welcome.
    pub(super) input: BytesMut,
    /// Requests that the node takes before it has answered some.
    pub(super) requests_max: usize,
}

/// Runs until every handle to the link is gone.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: NodeId,
    address: String,
    mut queue: mpsc::Receiver<Call>,
) {
    let failure = |reason: String, refusal| Failure { address: address.clone(), reason, refusal };
    while let Some(first) = queue.recv().await {
        let begin = Instant::now();
        // It was meant for this node before others found that it is not there.
        if shared.nodes(|nodes| nodes.is_down(begin, node)) {
            continue;
        }
        let socket = match timeout(shared.connect_timeout, connect(&shared, &address)).await {
            Ok(Ok(socket)) => socket,
            other => {
                let failure = match other {
                    Ok(Err(Unwelcome::Socket(error))) => failure(error.to_string(), None),
                    Ok(Err(Unwelcome::Refused(refusal))) => {
                        failure(refusal.to_string(), Some(refusal))
                    }
                    _ => failure(String::from("no answer in time"), None),
                };
                // First what is known of the node, then those who choose another one by it.
                shared.down(node, begin.elapsed(), failure);
                drop(first);
                tell_all(&mut queue);
                continue;
            }
        };
        let mut session = Session::new(socket, &shared, node, &mut queue);
        match session.run(first).await {
            End::NoHandles => return,
            End::Lost(error) => {
                // A machine that is gone answers no dial either: others are asked first, whoever
                // they say leads.
                let took = match error.kind() {
                    io::ErrorKind::TimedOut => shared.silence_timeout,
                    _ => Duration::ZERO,
                };
                shared.down(node, took, failure(format!("lost: {error}"), None));
                drop(session);
                tell_all(&mut queue);
            }
        }
    }
}

/// Tells everybody who waits that nothing was sent.
fn tell_all(queue: &mut mpsc::Receiver<Call>) {
    while let Ok(call) = queue.try_recv() {
        drop(call);
    }
}

enum Unwelcome {
    Socket(io::Error),
    Refused(Refusal),
}

impl From<io::Error> for Unwelcome {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

/// Reaches the node and introduces itself.
async fn connect(shared: &Shared, address: &str) -> Result<Socket, Unwelcome> {
    let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if shared.credentials.is_some() && !shared.dial.is_private(address) {
        return Err(
            broken("API keys and tokens go over TLS, or to this machine, and not there").into()
        );
    }
    let mut stream = shared.dial.dial(address).await?;
    let api_key = match &shared.credentials {
        Some(credentials) => Some(credentials.ask().await.map_err(io::Error::other)?),
        None => None,
    };
    let mut output = BytesMut::new();
    let hello = wire::Hello {
        min_protocol: wire::PROTOCOL_MIN,
        max_protocol: wire::PROTOCOL_MAX,
        client_name: shared.name.clone(),
        api_key,
    };
    wire::encode_hello(&hello, &mut output);
    stream.write_all(&output).await?;
    stream.flush().await?;

    let mut input = BytesMut::new();
    let frame = loop {
        match wire::split_frame(&mut input, RESPONSE_BYTES_MAX) {
            Ok(Some(frame)) => break frame,
            Ok(None) if stream.read_buf(&mut input).await? == 0 => {
                let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(tls::alert(&input).map_or_else(end, broken).into());
            }
            Ok(None) => {}
            Err(_) => {
                let strange = "not a Celeriant node";
                return Err(broken(tls::alert(&input).unwrap_or(strange)).into());
            }
        }
    };
    match wire::decode_outbound(frame) {
        Ok(Outbound::Welcome(welcome)) => {
            let mut known = shared.known();
            if *known.cluster.get_or_insert(welcome.cluster_id) != welcome.cluster_id {
                return Err(broken("this node belongs to another cluster").into());
            }
            known.request_bytes_max = welcome.request_bytes_max as usize;
            Ok(Socket { stream, input, requests_max: welcome.requests_max as usize })
        }
        Ok(Outbound::Refused(refusal)) => Err(Unwelcome::Refused(refusal)),
        _ => Err(broken("not a Celeriant node").into()),
    }
}
