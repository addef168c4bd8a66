//! Who is on the other end, and what he may do: checked here and nowhere else, whatever way a
//! request comes in.
//!
//! ```text
//! TLS handshake ─▶ certificate ─┐                                in the clear ─▶ Rights::all()
//! hello, header ─▶ API key ─────┼▶ Rights, one per connection
//! the same, `?token=` ─▶ token ─┘   (or, over HTTP, one per request)
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
//! each request, and once more before news is told to who waited for it: one that is revoked or
//! over ends all that its connection may do.
//!
//! **Tokens** take away: whoever shows one may do what the token says *and* its key still allows,
//! down to one aggregate, whatever else his connection may do. They open nothing of the store as a
//! whole: no orders but `schema show` and `schema list`. (Evidence for an event names what else was
//! written with it.)
//!
//! **Client ids.** Whose certificate or key names a client id writes under that one, or under none,
//! and never under another. A client id that a key names is its holder's: nobody else writes under
//! it, whatever his grants. (Of certificates the store knows only those that it is shown, so they
//! bind their holder and nobody else.) Who may do everything is not asked: nodes, and the clear.
//! A token that names one is for writes under that one only.
//!
//! **Whose room is taken.** A connection takes a seat of each org that its grants name, or its
//! token's selectors; one that has grants of all orgs, a node, or who comes in the clear, of none.
//! A watcher takes one of each org that it watches, whoever it is, but for nodes: they watch for
//! others, who have theirs.
//! Deliberately absent: how much of it (`actors::quotas`, `rooms`).

#[cfg(test)]
mod rights_test;

use std::collections::BTreeSet;
use std::sync::Arc;

use celeriant_schema::{
    AggregateKey, ApiKey, ApiKeyId, ClientId, ClusterId, Credential, ListQuery, Refusal, Request,
    Response, Selector, TokenKey, Write,
};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::keyring::{Holder, Keyring};
use crate::rooms::{Rooms, Seat};
use crate::tls::{Grant, Name, Operation, client_of_uri};
use crate::token::{NewToken, Scope, Token};

/// What whoever is on the other end may do. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rights {
    of: Of,
    /// Client ids that it writes under; empty: under any that is not somebody else's.
    own: Vec<ClientId>,
    key: Option<(ApiKeyId, Arc<Holder>)>,
    /// Of the token that was shown: nothing beyond it.
    scope: Option<Arc<Scope>>,
    /// What the certificate calls its holder.
    name: Option<Arc<str>>,
    /// `None`: keys count for nothing here.
    keyring: Option<Arc<Keyring>>,
    /// `None`: there is room for everybody.
    rooms: Option<Rooms>,
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
        Self {
            of,
            own: Vec::new(),
            key: None,
            scope: None,
            name: None,
            keyring: None,
            rooms: None,
            is_private: false,
        }
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

    /// The same where orgs have so much room.
    pub(crate) fn with_rooms(self, rooms: Option<Rooms>) -> Self {
        Self { rooms, ..self }
    }

    /// Takes the seats of a connection, besides those that it has.
    ///
    /// # Errors
    /// `Overloaded` when one of its orgs has too many.
    pub(crate) fn sit(&self, seats: &mut Vec<Seat>) -> Result<(), Refusal> {
        let Some(rooms) = &self.rooms else { return Ok(()) };
        rooms.connections.sit(self.orgs(), seats)
    }

    /// The seats of one who watches.
    ///
    /// # Errors
    /// `Overloaded` when one of the orgs that it watches has too many.
    pub(crate) fn sit_to_watch(&self, selector: &Selector) -> Result<Vec<Seat>, Refusal> {
        let is_node = matches!(self.of, Of::Everybody) && self.name.is_some();
        let mut seats = Vec::new();
        if let Some(rooms) = self.rooms.as_ref().filter(|_| !is_node) {
            rooms.watchers.sit(selector.parts().iter().filter_map(Selector::of_org), &mut seats)?;
        }
        Ok(seats)
    }

    /// Those that it is of.
    fn orgs(&self) -> BTreeSet<&str> {
        let lent =
            self.scope.as_ref().map(|scope| scope.selectors.iter().map(Selector::of_org).collect());
        let granted = match &self.of {
            Of::Holder(grants) => grants.iter().map(|grant| Some(grant.org())).collect(),
            Of::Nobody | Of::Everybody => BTreeSet::new(),
        };
        let orgs: BTreeSet<Option<&str>> =
            lent.filter(|orgs: &BTreeSet<_>| !orgs.contains(&None)).unwrap_or(granted);
        match orgs.contains(&Some(ANY)) {
            true => BTreeSet::new(),
            false => orgs.into_iter().flatten().collect(),
        }
    }

    /// Of one who shows `credential` besides, whatever way it came in.
    ///
    /// # Errors
    /// `Unauthenticated` when it is not good, or was shown where others see it; `Overloaded` when
    /// the node does not know yet.
    pub(crate) fn with(&self, credential: &Credential) -> Result<Self, Refusal> {
        match credential {
            Credential::Key(key) => self.with_key(key),
            Credential::Token(text) => {
                let token = text.reveal().parse::<Token>();
                let wrong = |error| unauthenticated(&format!("what was shown {error}"));
                self.with_token(&token.map_err(wrong)?)
            }
        }
    }

    /// The same and those of the holder of `key`.
    fn with_key(&self, key: &ApiKey) -> Result<Self, Refusal> {
        let revoke = "an API key is taken over TLS or on this machine; revoke this one";
        let holder = self.keyring_in_private(revoke)?.find(key)?;
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

    /// What `token` says, within what its key allows, and nothing else.
    fn with_token(&self, token: &Token) -> Result<Self, Refusal> {
        let keyring = self.keyring_in_private("a token is taken over TLS or on this machine")?;
        let holder = keyring.holder(token.key())?;
        // A signature is what takes longest to look at.
        token.scope().check(keyring.now())?;
        if !token.is_of(token_key_of(&holder)?) {
            return Err(unauthenticated("there is no such token"));
        }
        Ok(Self {
            own: holder.client_id.into_iter().collect(),
            key: Some((token.key(), Arc::clone(&holder))),
            scope: Some(Arc::new(token.scope().clone())),
            keyring: self.keyring.clone(),
            rooms: self.rooms.clone(),
            is_private: self.is_private,
            ..Self::new(Of::Holder(holder.grants.iter().cloned().collect()))
        })
    }

    /// A token of the key that was shown, which must allow all that the token shall.
    ///
    /// # Errors
    /// `Unauthenticated` without a key, `PermissionDenied` with what the key does not allow, and
    /// what makes no sense.
    pub(crate) fn make_token(
        &self,
        shown: Option<&Credential>,
        new: &NewToken,
    ) -> Result<Token, Refusal> {
        let (key, keyring) = match (shown, &self.keyring) {
            (Some(Credential::Key(key)), Some(keyring)) => (key, keyring),
            (Some(Credential::Token(_)), _) => {
                return Err(unauthenticated("a token makes no tokens: show its API key"));
            }
            _ => {
                let reason = "tokens are of API keys: show one. A certificate, and who comes in \
                              the clear, make none";
                return Err(unauthenticated(reason));
            }
        };
        let holder = keyring.find(key)?;
        token_key_of(&holder)?;
        let scope = Scope::new(new, keyring.now())?.until(holder.expires_at);
        let of_key = Self {
            of: Of::Holder(holder.grants.iter().cloned().collect()),
            own: holder.client_id.into_iter().collect(),
            ..self.clone()
        };
        scope.client_id.map_or(Ok(()), |client| of_key.check_client(client))?;
        let may = May { grants: &holder.grants, scope: Some(&scope) };
        for (operation, selector) in scope
            .rights
            .iter()
            .flat_map(|right| scope.selectors.iter().map(move |selector| (*right, selector)))
        {
            may.on_all_of(operation, selector)?;
        }
        Token::new(key, scope)
    }

    fn keyring_in_private(&self, otherwise: &str) -> Result<&Keyring, Refusal> {
        if !self.is_private {
            return Err(unauthenticated(otherwise));
        }
        self.keyring.as_deref().ok_or_else(|| unauthenticated("no API keys are taken here"))
    }

    /// Whose order `request` is, for the trail; `None`: it is none.
    pub(crate) fn orders(&self, request: &Request) -> Option<String> {
        matches!(request, Request::Admin(_)).then(|| self.who())
    }

    fn who(&self) -> String {
        let kind = if matches!(self.of, Of::Everybody) { "node" } else { "certificate" };
        let certificate = self.name.as_ref().map(|name| format!("{kind} {name}"));
        let by = if self.scope.is_some() { "a token of key" } else { "key" };
        let key = self.key.as_ref().map(|(id, holder)| format!("{by} {id} {}", holder.name));
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
        self.check_shown()?;
        let grants = match &self.of {
            Of::Everybody => return Ok(()),
            Of::Nobody if matches!(request, Request::Ping) => return Ok(()),
            Of::Nobody => {
                let reason = "show a client certificate that carries grants, or an API key";
                return Err(unauthenticated(reason));
            }
            Of::Holder(grants) => grants,
        };
        let may = May { grants, scope: self.scope.as_deref() };
        match request {
            Request::Ping => Ok(()),
            Request::Write(write) => {
                self.check_client(write.client_id)?;
                may.write(write)
            }
            Request::Read(query) => may.on(Operation::Read, &query.key),
            Request::Head(query) => may.on(Operation::Read, &query.key),
            Request::List(query) => may.list(query),
            Request::Feed(query) => may.on_all_of(Operation::Watch, &query.selector),
            Request::Admin(order) => may.order(order),
        }
    }

    /// Whether what was shown still counts.
    fn check_shown(&self) -> Result<(), Refusal> {
        let (Some((key, _)), Some(keyring)) = (&self.key, &self.keyring) else { return Ok(()) };
        keyring.check(*key)?;
        self.scope.as_ref().map_or(Ok(()), |scope| scope.check(keyring.now()))
    }

    /// What is told, for `answer`: who waits for news may be taken back before there is any.
    pub(crate) fn review(&self, answer: Response) -> Response {
        match answer {
            Response::Feed(page) => {
                self.check_shown().map_or_else(Response::Refused, |()| Response::Feed(page))
            }
            other => other,
        }
    }

    /// Nobody waits for news beyond the time until which he may see them: whoever asks again then
    /// is told why he may not.
    pub(crate) fn shorten_wait(&self, request: &mut Request) {
        let (Request::Feed(query), Some((_, holder)), Some(keyring)) =
            (request, &self.key, &self.keyring)
        else {
            return;
        };
        let lent_until = self.scope.as_ref().map(|scope| scope.expires_at());
        if let Some(end) = holder.expires_at.into_iter().chain(lent_until).min() {
            // Rounded up: behind the end, not before it.
            let left_ms = end.saturating_sub(keyring.now()).max(0) / 1_000 + 1;
            query.wait_ms = query.wait_ms.min(u32::try_from(left_ms).unwrap_or(u32::MAX));
        }
    }

    fn check_client(&self, client: ClientId) -> Result<(), Refusal> {
        let is_free = match self.own.is_empty() {
            true => !self.keyring.as_ref().is_some_and(|keyring| keyring.binds(client)),
            false => client == ClientId::NONE || self.own.contains(&client),
        };
        let lent = self.scope.as_ref().and_then(|scope| scope.client_id);
        if is_free && lent.is_none_or(|lent| lent == client) {
            return Ok(());
        }
        let action = Operation::Append.name().to_owned();
        Err(Refusal::PermissionDenied { action, resource: format!("client {client}") })
    }
}

/// What knows tokens of a key.
fn token_key_of(holder: &Holder) -> Result<&TokenKey, Refusal> {
    let reason = "the API key is from before tokens were signed, and makes none: create another";
    holder.token_key.as_ref().ok_or_else(|| unauthenticated(reason))
}

fn unauthenticated(reason: &str) -> Refusal {
    Refusal::Unauthenticated { reason: reason.to_owned() }
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

/// What is granted, and how far that reaches.
#[derive(Clone, Copy)]
struct May<'a> {
    grants: &'a [Grant],
    scope: Option<&'a Scope>,
}

impl May<'_> {
    fn write(self, write: &Write) -> Result<(), Refusal> {
        write.members.iter().try_for_each(|member| {
            let operation = match member.retention {
                Some(_) => Operation::Retain,
                None if member.changes() => Operation::Append,
                None => Operation::Read,
            };
            self.on(operation, &member.key)
        })
    }

    fn list(self, query: &ListQuery) -> Result<(), Refusal> {
        let org = query.org.as_deref().unwrap_or(ANY);
        self.on_all(Operation::Read, org, query.kind.as_deref().unwrap_or(ANY))
    }

    fn on_all_of(self, operation: Operation, selector: &Selector) -> Result<(), Refusal> {
        match selector {
            Selector::All => self.on_all(operation, ANY, ANY),
            Selector::Org(org) => self.on_all(operation, org, ANY),
            Selector::Type { org, kind } => self.on_all(operation, org, kind),
            Selector::Aggregate(key) => self.on(operation, key),
            Selector::Several(parts) => {
                parts.iter().try_for_each(|part| self.on_all_of(operation, part))
            }
        }
    }

    fn order(self, order: &[u8]) -> Result<(), Refusal> {
        let of_operators = || self.on_all(Operation::Admin, ANY, ANY);
        let Ok(gist) = serde_json::from_slice::<Gist>(order) else { return of_operators() };
        let mut name = gist.schema.as_deref().unwrap_or_default().split('/');
        let of_schema = (name.next().unwrap_or(ANY), name.next().unwrap_or(ANY));
        let of_org = (gist.org.as_deref().unwrap_or(ANY), gist.kind.as_deref().unwrap_or(ANY));
        let (operation, (org, kind)) = match (gist.order.as_str(), gist.what.as_deref()) {
            // They tell of all orgs, if little.
            ("status", None) | ("audit", Some("frames")) if self.scope.is_none() => return Ok(()),
            ("audit", Some("event")) if self.scope.is_none() => {
                let key = gist.key.as_deref().and_then(|key| key.parse::<AggregateKey>().ok());
                return key.map_or_else(of_operators, |key| self.on(Operation::Read, &key));
            }
            ("schema", Some("register")) => (Operation::Schema, of_schema),
            ("schema", Some("show")) => (Operation::Read, of_schema),
            ("schema", Some("policy")) => (Operation::Schema, of_org),
            ("schema", Some("list")) => (Operation::Read, of_org),
            _ => return of_operators(),
        };
        self.on_all(operation, org, kind)
    }

    fn on(self, operation: Operation, key: &AggregateKey) -> Result<(), Refusal> {
        self.check(operation, key.org(), key.kind(), key.id())
    }

    /// `*` asks for all orgs, or all types.
    fn on_all(self, operation: Operation, org: &str, kind: &str) -> Result<(), Refusal> {
        self.check(operation, org, kind, ANY)
    }

    fn check(self, operation: Operation, org: &str, kind: &str, id: &str) -> Result<(), Refusal> {
        // What the store keeps about itself tells of all orgs.
        let (operation, org, kind, id) = match org.starts_with('$') {
            true => (Operation::Admin, ANY, ANY, ANY),
            false => (operation, org, kind, id),
        };
        let is_granted = self.grants.iter().any(|grant| grant.covers(operation, org, kind));
        let is_within = self.scope.is_none_or(|scope| scope.covers(operation, org, kind, id));
        let resource = match (org, is_granted && id != ANY) {
            _ if is_granted && is_within => return Ok(()),
            (ANY, _) => ANY.to_owned(),
            (_, true) => format!("{org}/{kind}/{id}"),
            (_, false) => format!("{org}/{kind}"),
        };
        Err(Refusal::PermissionDenied { action: operation.name().to_owned(), resource })
    }
}
