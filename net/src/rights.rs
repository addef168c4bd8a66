//! Who is on the other end, and what he may do: checked here and nowhere else, whatever way a
//! request comes in.
//!
//! ```text
//! TLS handshake ─▶ certificate ─┐                                in the clear ─▶ Rights::all()
//! hello, header ─▶ API key ─────┴▶ Rights, one per connection
//!                                   │ check
//! connection (binary), asker (HTTP) ┴─▶ Service
//! ```
//! | request                                | needs                                      |
//! | --- | --- |
//! | append                                 | `append`; a guard without events: `read`   |
//! | delete, trim                           | `retain`                                   |
//! | read, head, list                       | `read`; of all orgs: `read` of everything  |
//! | watch, feed                            | `watch` of all that the selector covers    |
//! | register a schema, set a policy        | `schema`                                   |
//! | list and show schemas                  | `read`                                     |
//! | evidence for an event                  | `read`                                     |
//! | what the store keeps about itself, all other orders | `admin` of everything         |
//! | ping, a node's status, frames' hashes  | somebody who is known                      |
//!
//! Nothing is granted that is not said: a certificate without grants opens nothing, and an order
//! that is not known here is an operator's. A node's own certificate opens everything: a gateway
//! checks whoever asks it before it asks the leader in its own name.
//! A connection may do what its certificate says and what its key says. A key is looked up anew at
//! each request: one that is revoked or over ends all that its connection may do.
//!
//! **Client ids.** Whose certificate or key names a client id writes under that one, or under none,
//! and never under another. A client id that a key names is its holder's: nobody else writes under
//! it, whatever his grants. (Of certificates the store knows only those that it is shown, so they
//! bind their holder and nobody else.) Who may do everything is not asked: nodes, and the clear.
//! Deliberately absent: how much of it (`actors::quotas`).

#[cfg(test)]
mod rights_test;

use std::sync::Arc;

use celeriant_schema::{
    AggregateKey, ApiKey, ApiKeyId, ClientId, ClusterId, ListQuery, Refusal, Request, Selector,
    Write,
};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::keyring::{Holder, Keyring};
use crate::tls::{Grant, Name, Operation, client_of_uri};

/// What whoever is on the other end may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rights {
    of: Of,
    /// Client ids that it writes under; empty: under any that is not somebody else's.
    own: Vec<ClientId>,
    key: Option<(ApiKeyId, Arc<Holder>)>,
    /// What the certificate calls its holder.
    name: Option<Arc<str>>,
    /// `None`: keys count for nothing here.
    keyring: Option<Arc<Keyring>>,
    /// Nobody on the way sees what is shown.
    is_private: bool,
}

#[derive(Clone, Debug)]
enum Of {
    /// One who has not said who he is.
    Nobody,
    /// One of the cluster's nodes, or whoever reaches a port that asks nobody.
    Everybody,
    /// The holder of a certificate, a key, or both.
    Holder(Arc<[Grant]>),
}

/// Stands for every type of an org, or every org.
const ANY: &str = "*";

impl Rights {
    /// To do everything.
    pub const fn all() -> Self {
        Self::new(Of::Everybody)
    }

    const fn new(of: Of) -> Self {
        Self { of, own: Vec::new(), key: None, name: None, keyring: None, is_private: false }
    }

    /// To do nothing.
    pub(crate) const fn none() -> Self {
        Self::new(Of::Nobody)
    }

    /// Of one who does not say who he is, where those may do something.
    pub fn anonymous(grants: Vec<Grant>) -> Self {
        if grants.is_empty() { Self::none() } else { Self::new(Of::Holder(grants.into())) }
    }

    /// Of one who shows `certificate` to a node of `cluster`, which has verified it. Of a node
    /// that has no name, grants of any cluster count.
    pub(crate) fn of(certificate: &CertificateDer<'_>, cluster: Option<ClusterId>) -> Self {
        let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Self::none() };
        let counts = |of: ClusterId| cluster.is_none_or(|own| own == of);
        let mut names = parsed.valid_uri_names().filter_map(|uri| uri.parse::<Name>().ok());
        if names.any(|name| counts(name.cluster)) {
            return Self { name: common_name(parsed.subject()), ..Self::all() };
        }
        let grants = parsed.valid_uri_names().filter_map(Grant::from_uri);
        let grants = grants.filter(|(of, _)| counts(*of)).map(|(_, grant)| grant);
        let clients = parsed.valid_uri_names().filter_map(client_of_uri);
        let own = clients.filter(|(of, _)| counts(*of)).map(|(_, client)| client).collect();
        let name = common_name(parsed.subject());
        Self { own, name, ..Self::new(Of::Holder(grants.collect())) }
    }

    /// The same where keys are looked up in `keyring`, and shown in private or not.
    pub(crate) fn with_keys(self, keyring: Option<Arc<Keyring>>, is_private: bool) -> Self {
        Self { keyring, is_private, ..self }
    }

    /// The same and those of the holder of `key`.
    ///
    /// # Errors
    /// `Unauthenticated` when it is no key, or was shown where others see it; `Overloaded` when the
    /// node does not know yet.
    pub(crate) fn with_key(&self, key: &ApiKey) -> Result<Self, Refusal> {
        let refused = |reason: &str| Refusal::Unauthenticated { reason: reason.to_owned() };
        if !self.is_private {
            return Err(refused(
                "an API key is taken over TLS or on this machine; revoke this one",
            ));
        }
        let keyring = self.keyring.as_ref().ok_or_else(|| refused("no API keys are taken here"))?;
        let holder = keyring.find(key)?;
        let of = match &self.of {
            Of::Everybody => Of::Everybody,
            Of::Nobody => Of::Holder(holder.grants.iter().cloned().collect()),
            Of::Holder(grants) => {
                Of::Holder(grants.iter().chain(&holder.grants).cloned().collect())
            }
        };
        let own = self.own.iter().copied().chain(holder.client_id).collect();
        let key = Some((key.id(), holder));
        Ok(Self { of, own, key, ..self.clone() })
    }

    /// Whose order `request` is, for the trail; `None`: it is none.
    pub(crate) fn orders(&self, request: &Request) -> Option<String> {
        matches!(request, Request::Admin(_)).then(|| self.who())
    }

    fn who(&self) -> String {
        let kind = if matches!(self.of, Of::Everybody) { "node" } else { "certificate" };
        let certificate = self.name.as_ref().map(|name| format!("{kind} {name}"));
        let key = self.key.as_ref().map(|(id, holder)| format!("key {id} {}", holder.name));
        let said: Vec<String> = certificate.into_iter().chain(key).collect();
        match (said.is_empty(), &self.of) {
            (false, _) => said.join(" and "),
            (true, Of::Holder(_)) => "somebody without a name".to_owned(),
            (true, _) => "somebody in the clear".to_owned(),
        }
    }

    /// Whether `request` may be done.
    ///
    /// # Errors
    /// `Unauthenticated`, or `PermissionDenied` with what is missing.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        if let (Some((key, _)), Some(keyring)) = (&self.key, &self.keyring) {
            keyring.check(*key)?;
        }
        let grants = match &self.of {
            Of::Everybody => return Ok(()),
            Of::Nobody if matches!(request, Request::Ping) => return Ok(()),
            Of::Nobody => {
                let reason =
                    "show a client certificate that carries grants, or an API key".to_owned();
                return Err(Refusal::Unauthenticated { reason });
            }
            Of::Holder(grants) => grants,
        };
        match request {
            Request::Ping => Ok(()),
            Request::Write(write) => {
                self.check_client(write.client_id)?;
                check_write(grants, write)
            }
            Request::Read(query) => of_key(grants, Operation::Read, &query.key),
            Request::Head(query) => of_key(grants, Operation::Read, &query.key),
            Request::List(query) => check_list(grants, query),
            Request::Feed(query) => check_feed(grants, &query.selector),
            Request::Admin(order) => check_order(grants, order),
        }
    }
}

impl Rights {
    fn check_client(&self, client: ClientId) -> Result<(), Refusal> {
        let may = match self.own.is_empty() {
            true => !self.keyring.as_ref().is_some_and(|keyring| keyring.binds(client)),
            false => client == ClientId::NONE || self.own.contains(&client),
        };
        if may {
            return Ok(());
        }
        let action = Operation::Append.name().to_owned();
        Err(Refusal::PermissionDenied { action, resource: format!("client {client}") })
    }
}

fn check_write(grants: &[Grant], write: &Write) -> Result<(), Refusal> {
    write.members.iter().try_for_each(|member| {
        let operation = match member.retention {
            Some(_) => Operation::Retain,
            None if member.changes() => Operation::Append,
            None => Operation::Read,
        };
        of_key(grants, operation, &member.key)
    })
}

fn check_list(grants: &[Grant], query: &ListQuery) -> Result<(), Refusal> {
    let org = query.org.as_deref().unwrap_or(ANY);
    may(grants, Operation::Read, org, query.kind.as_deref().unwrap_or(ANY))
}

fn check_feed(grants: &[Grant], selector: &Selector) -> Result<(), Refusal> {
    match selector {
        Selector::All => may(grants, Operation::Watch, ANY, ANY),
        Selector::Org(org) => may(grants, Operation::Watch, org, ANY),
        Selector::Type { org, kind } => may(grants, Operation::Watch, org, kind),
        Selector::Aggregate(key) => of_key(grants, Operation::Watch, key),
        Selector::Several(parts) => parts.iter().try_for_each(|part| check_feed(grants, part)),
    }
}

/// The common name in a certificate's subject (X.501): an object identifier, then a short text.
fn common_name(subject: &[u8]) -> Option<Arc<str>> {
    const IDENTIFIER: [u8; 5] = [6, 3, 0x55, 4, 3];
    let at = subject.windows(IDENTIFIER.len()).position(|part| part == IDENTIFIER)?;
    let [_tag, length, text @ ..] = &subject[at + IDENTIFIER.len()..] else { return None };
    let text = text.get(..usize::from(*length)).filter(|_| *length < 0x80)?;
    std::str::from_utf8(text).ok().map(Arc::from)
}

/// What of an operator's order says which rights it takes; the rest is not this module's.
#[derive(Deserialize)]
struct Gist {
    order: String,
    #[serde(rename = "do")]
    what: Option<String>,
    schema: Option<String>,
    key: Option<String>,
    org: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn check_order(grants: &[Grant], order: &[u8]) -> Result<(), Refusal> {
    let Ok(gist) = serde_json::from_slice::<Gist>(order) else {
        return may(grants, Operation::Admin, ANY, ANY);
    };
    let mut name = gist.schema.as_deref().unwrap_or_default().split('/');
    let of_schema = (name.next().unwrap_or(ANY), name.next().unwrap_or(ANY));
    let of_org = (gist.org.as_deref().unwrap_or(ANY), gist.kind.as_deref().unwrap_or(ANY));
    let (operation, (org, kind)) = match (gist.order.as_str(), gist.what.as_deref()) {
        ("status", None) | ("audit", Some("frames")) => return Ok(()),
        ("audit", Some("event")) => {
            let key = gist.key.as_deref().and_then(|key| key.parse::<AggregateKey>().ok());
            return match key {
                Some(key) => of_key(grants, Operation::Read, &key),
                None => may(grants, Operation::Admin, ANY, ANY),
            };
        }
        ("schema", Some("register")) => (Operation::Schema, of_schema),
        ("schema", Some("show")) => (Operation::Read, of_schema),
        ("schema", Some("policy")) => (Operation::Schema, of_org),
        ("schema", Some("list")) => (Operation::Read, of_org),
        _ => (Operation::Admin, (ANY, ANY)),
    };
    may(grants, operation, org, kind)
}

fn of_key(grants: &[Grant], operation: Operation, key: &AggregateKey) -> Result<(), Refusal> {
    may(grants, operation, key.org(), key.kind())
}

/// `*` asks for all orgs, or all types.
fn may(grants: &[Grant], operation: Operation, org: &str, kind: &str) -> Result<(), Refusal> {
    // What the store keeps about itself tells of all orgs.
    let (operation, org, kind) = match org.starts_with('$') {
        true => (Operation::Admin, ANY, ANY),
        false => (operation, org, kind),
    };
    if grants.iter().any(|grant| grant.covers(operation, org, kind)) {
        return Ok(());
    }
    let resource = if org == ANY { ANY.to_owned() } else { format!("{org}/{kind}") };
    Err(Refusal::PermissionDenied { action: operation.name().to_owned(), resource })
}
