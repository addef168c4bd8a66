//! Who is on the other end, and what he may do: checked here and nowhere else, whatever way a
//! request comes in.
//!
//! ```text
//! TLS handshake ─▶ certificate ─▶ Rights, one per connection     in the clear ─▶ Rights::all()
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
//! Deliberately absent: revoking (replace the CA, or wait until it expires), quotas.

#[cfg(test)]
mod rights_test;

use std::sync::Arc;

use celeriant_schema::{AggregateKey, ClusterId, ListQuery, Refusal, Request, Selector, Write};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::tls::{Grant, Name, Operation};

/// What whoever is on the other end may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rights(Of);

#[derive(Clone, Debug)]
enum Of {
    /// One who has not said who he is.
    Nobody,
    /// One of the cluster's nodes, or whoever reaches a port that asks nobody.
    Everybody,
    /// The holder of a certificate.
    Holder(Arc<[Grant]>),
}

/// Stands for every type of an org, or every org.
const ANY: &str = "*";

impl Rights {
    /// To do everything.
    pub const fn all() -> Self {
        Self(Of::Everybody)
    }

    /// To do nothing.
    pub(crate) const fn none() -> Self {
        Self(Of::Nobody)
    }

    /// Of one who does not say who he is.
    pub(crate) fn anonymous(grants: Vec<Grant>) -> Self {
        if grants.is_empty() { Self::none() } else { Self(Of::Holder(grants.into())) }
    }

    /// Of one who shows `certificate` to a node of `cluster`, which has verified it. Of a node
    /// that has no name, grants of any cluster count.
    pub(crate) fn of(certificate: &CertificateDer<'_>, cluster: Option<ClusterId>) -> Self {
        let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Self::none() };
        let counts = |of: ClusterId| cluster.is_none_or(|own| own == of);
        let mut names = parsed.valid_uri_names().filter_map(|uri| uri.parse::<Name>().ok());
        if names.any(|name| counts(name.cluster)) {
            return Self::all();
        }
        let grants = parsed.valid_uri_names().filter_map(Grant::from_uri);
        let grants = grants.filter(|(of, _)| counts(*of)).map(|(_, grant)| grant);
        Self(Of::Holder(grants.collect()))
    }

    /// Whether `request` may be done.
    ///
    /// # Errors
    /// `Unauthenticated`, or `PermissionDenied` with what is missing.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let grants = match &self.0 {
            Of::Everybody => return Ok(()),
            Of::Nobody if matches!(request, Request::Ping) => return Ok(()),
            Of::Nobody => {
                let reason = "connect with a client certificate that carries grants".to_owned();
                return Err(Refusal::Unauthenticated { reason });
            }
            Of::Holder(grants) => grants,
        };
        match request {
            Request::Ping => Ok(()),
            Request::Write(write) => check_write(grants, write),
            Request::Read(query) => of_key(grants, Operation::Read, &query.key),
            Request::Head(query) => of_key(grants, Operation::Read, &query.key),
            Request::List(query) => check_list(grants, query),
            Request::Feed(query) => check_feed(grants, &query.selector),
            Request::Admin(order) => check_order(grants, order),
        }
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
