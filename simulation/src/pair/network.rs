//! What is between the two nodes: a simulated link, or simulated datagrams under the real one.
//!
//! Either way a process proves who it is by a certificate that is kept apart from its data: on a
//! directory of another store it does not start.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use celeriant_actors::node::Error;
use celeriant_net::link::quic::{self, QuicLink};
use celeriant_net::link::{Event, Lane, Link, Sent, SessionId, Target};
use celeriant_net::tls::{self, Authority, Credentials, Material, Name, Subject, Validity};
use celeriant_schema::StoreId;
use celeriant_schema::peer::Hello;

use super::site::end_of;
use crate::air::{self, Air};
use crate::gate::{Gate, Gated};
use crate::link::{Cable, SimLink, Trouble};

/// The way between two nodes. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub(super) enum Network {
    /// A link of the simulation's own.
    Cable(Cable),
    /// QUIC itself.
    Air { air: Air, authority: Arc<Authority> },
}

/// What a process comes with.
pub(super) struct Visitor<'a> {
    pub(super) node: usize,
    pub(super) hello: Hello,
    /// Whom its certificate is for.
    pub(super) certified: StoreId,
    pub(super) gate: &'a Gate,
    pub(super) seed: u64,
}

impl Network {
    /// Datagrams, and a CA of the cluster's own.
    ///
    /// # Errors
    /// When the system has no randomness for a key.
    pub(super) fn of_datagrams(air: Air) -> Result<Self, tls::Error> {
        let authority = Arc::new(Authority::new("simulation", always())?);
        Ok(Self::Air { air, authority })
    }

    /// Where a node's peer finds it.
    pub(super) fn address_of(&self, node: usize) -> String {
        match self {
            Self::Cable(_) => format!("link{node}"),
            Self::Air { .. } => air::address_of(end_of(node)).to_string(),
        }
    }

    /// A link for a new process. Those given out for that node before are dead.
    ///
    /// # Errors
    /// When the certificate is for another store than the process is.
    pub(super) fn connect(&self, visitor: Visitor<'_>) -> Result<Joined, Error> {
        let Visitor { node, hello, certified, gate, seed } = visitor;
        let name = Name { cluster: hello.cluster, store: certified };
        match self {
            Self::Cable(_) if certified != hello.store => {
                let own = Name { store: hello.store, ..name };
                Err(quic::Error::OwnName { found: name.to_string(), own }.into())
            }
            Self::Cable(cable) => {
                Ok(Joined::Cable(Gated::new(cable.attach(end_of(node), hello), gate)))
            }
            Self::Air { air, authority } => {
                let credentials = credentials(authority, name).map_err(quic::Error::Tls)?;
                let settings = quic::Settings { seed, ..quic::Settings::default() };
                let socket = air.attach(end_of(node), gate);
                let link = QuicLink::over(socket, air.runtime(), hello, credentials, settings)?;
                Ok(Joined::Quic(Box::new(Gated::new(link, gate))))
            }
        }
    }

    /// The process of a node is gone, without a word.
    pub(super) fn crash(&self, node: usize) {
        match self {
            Self::Cable(cable) => cable.crash(end_of(node)),
            Self::Air { air, .. } => air.crash(end_of(node)),
        }
    }

    /// Something goes wrong, if there is such a thing.
    pub(super) fn trouble(&self, trouble: Trouble) -> bool {
        match self {
            Self::Cable(cable) => {
                cable.trouble(trouble);
                true
            }
            Self::Air { air, .. } => air.trouble(trouble),
        }
    }

    /// Nothing is wrong from here on.
    pub(super) fn heal(&self) {
        match self {
            Self::Cable(cable) => cable.heal(),
            Self::Air { air, .. } => air.heal(),
        }
    }
}

fn credentials(authority: &Authority, name: Name) -> Result<Credentials, tls::Error> {
    let subject = Subject { name: "node".into(), node: Some(name), ..Subject::default() };
    let issued = authority.issue(&subject, always())?;
    let ca = &authority.issued().certificate;
    let material = Material::from_pem(ca, &issued.certificate, &issued.key)?;
    Ok(Credentials::of(material))
}

/// Certificates are held against the real date.
fn always() -> Validity {
    let years = |count: u64| Duration::from_secs(count * 365 * 86_400);
    Validity { from: SystemTime::UNIX_EPOCH + years(30), lasts: years(100) }
}

/// A process' end of the way.
pub(super) enum Joined {
    Cable(Gated<SimLink>),
    Quic(Box<Gated<QuicLink>>),
}

impl Link for Joined {
    fn aim(&mut self, target: Target) {
        match self {
            Self::Cable(link) => link.aim(target),
            Self::Quic(link) => link.aim(target),
        }
    }

    fn send(&mut self, session: SessionId, lane: Lane, message: Bytes) -> Sent {
        match self {
            Self::Cable(link) => link.send(session, lane, message),
            Self::Quic(link) => link.send(session, lane, message),
        }
    }

    fn drop_session(&mut self, session: SessionId) {
        match self {
            Self::Cable(link) => link.drop_session(session),
            Self::Quic(link) => link.drop_session(session),
        }
    }

    fn close(&mut self) {
        match self {
            Self::Cable(link) => link.close(),
            Self::Quic(link) => link.close(),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self {
            Self::Cable(link) => link.poll_event(cx),
            Self::Quic(link) => link.poll_event(cx),
        }
    }
}
