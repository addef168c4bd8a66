//! Tokens: what a backend that has an API key gives to a browser, so that no key leaves it.
//!
//! ```text
//! celeriant_token_<16 hex digits: whose key>.<base64url: what it says, JSON>.<128 hex digits>
//! ```
//! The digits are an Ed25519 signature of everything before their dot. The pair that makes it is
//! derived from the API key's *secret*; the store keeps its public key, which both nodes have: so
//! any node can tell, without asking, and a token ends with its key. Whoever has the API key can
//! make tokens without a node; whoever reads all that the store keeps of it cannot. What the key
//! does not allow when a token is used, the token does not allow either.
//!
//! Time is that of whoever makes it and of whoever checks it: their clocks may differ by
//! [`SKEW_S_MAX`], if the maker's is ahead; if it is behind, tokens end as much earlier.
//! Deliberately absent: a list of tokens. One ends by its time, or with its key.

#[cfg(test)]
mod token_test;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use celeriant_schema::audit::hex::{array_from_hex, to_hex};
use celeriant_schema::credential::TOKEN_PREFIX as PREFIX;
use celeriant_schema::limits::TOKEN_BYTES_MAX;
use celeriant_schema::{ApiKey, ApiKeyId, ClientId, Refusal, Selector, TokenKey};
use serde::{Deserialize, Serialize};

use crate::json::{base64, from_base64};
use crate::tls::Operation;

/// What a token may carry.
pub const RIGHTS: [Operation; 3] = [Operation::Read, Operation::Append, Operation::Watch];
/// How long one lasts if nothing is said, in seconds.
pub const LASTS_S: u64 = 15 * 60;
/// How long one lasts at most, in seconds.
pub const LASTS_S_MAX: u64 = 24 * 3_600;
/// How far the clock of whoever makes a token may be ahead of a node's, in seconds.
pub const SKEW_S_MAX: u64 = 60;
/// Selectors of one token.
pub const SELECTORS_MAX: usize = 32;
const MICROS: i64 = 1_000_000;
const SIGNATURE_BYTES: usize = 64;

/// What whoever makes a token says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with selectors and rights")]
pub struct NewToken {
    /// `org/type/id`, `org/type`, `org` or `*`: what it is about.
    pub selectors: Vec<String>,
    /// `read`, `append`, `watch`.
    pub rights: Vec<String>,
    /// The client id that its holder writes under, always.
    #[serde(default)]
    pub client_id: Option<String>,
    /// How long it lasts; [`LASTS_S`] if nothing is said.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// What a token allows, as long as its key does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scope {
    pub(crate) selectors: Vec<Selector>,
    pub(crate) rights: BTreeSet<Operation>,
    pub(crate) client_id: Option<ClientId>,
    made_at: i64,
    expires_at: i64,
}

/// A scope as it stands in a token. Times are µs since 1970.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    selectors: Vec<String>,
    rights: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    made_at: i64,
    expires_at: i64,
}

/// A token, with its signature: only whoever uses it should have it.
#[derive(Clone)]
pub struct Token {
    key: ApiKeyId,
    scope: Scope,
    signed: String,
    signature: [u8; SIGNATURE_BYTES],
}

/// The text is no token. It is not repeated: it may be most of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("is not a token: those look like {PREFIX}<16 hex digits>.<base64url>.<128 hex digits>")]
pub struct TokenError;

impl Scope {
    /// What `new` asks for, from `now` on, in µs since 1970.
    ///
    /// # Errors
    /// `InvalidArgument` with what makes no sense.
    pub fn new(new: &NewToken, now: i64) -> Result<Self, Refusal> {
        let seconds = new.seconds.unwrap_or(LASTS_S);
        if !(1..=LASTS_S_MAX).contains(&seconds) {
            return Err(Refusal::invalid("seconds", format!("must be 1 to {LASTS_S_MAX}")));
        }
        let expires_at = now + seconds as i64 * MICROS;
        Self::parse(&new.selectors, &new.rights, new.client_id.as_deref(), (now, expires_at))
    }

    fn parse(
        selectors: &[String],
        rights: &[String],
        client_id: Option<&str>,
        (made_at, expires_at): (i64, i64),
    ) -> Result<Self, Refusal> {
        let wrong = |field: &str, reason: String| Err(Refusal::invalid(field, reason));
        if selectors.is_empty() || selectors.len() > SELECTORS_MAX {
            return wrong("selectors", format!("must be 1 to {SELECTORS_MAX}"));
        }
        let selectors: Result<Vec<Selector>, _> =
            selectors.iter().map(|text| text.parse()).collect();
        let selectors = selectors.map_err(|error| Refusal::invalid("selectors", error))?;
        if selectors.iter().any(|selector| matches!(selector, Selector::Several(_))) {
            return wrong("selectors", "must be one each".to_owned());
        }
        let right = |name: &String| RIGHTS.into_iter().find(|right| right.name() == name);
        let Some(rights) = rights.iter().map(right).collect::<Option<BTreeSet<_>>>() else {
            return wrong("rights", "must be read, append or watch: no others are lent".to_owned());
        };
        if rights.is_empty() {
            return wrong("rights", "must be one at least".to_owned());
        }
        let client_id: Option<ClientId> = client_id
            .map(|text| text.parse().map_err(|error| Refusal::invalid("client_id", error)))
            .transpose()?;
        if client_id == Some(ClientId::NONE) {
            return wrong("client_id", "must not be zero: that is nobody".to_owned());
        }
        Ok(Self { selectors, rights, client_id, made_at, expires_at })
    }

    /// The same, ending with what ends at `end`.
    #[must_use]
    pub fn until(self, end: Option<i64>) -> Self {
        Self { expires_at: end.map_or(self.expires_at, |end| end.min(self.expires_at)), ..self }
    }

    /// When it ends, in µs since 1970.
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// Whether it allows `operation` on an aggregate; `*` asks for all of them, in place of the id,
    /// the type, or the org.
    pub(crate) fn covers(&self, operation: Operation, org: &str, kind: &str, id: &str) -> bool {
        let within = |selector: &Selector| match selector {
            Selector::All => true,
            Selector::Org(of) => of == org,
            Selector::Type { org: of, kind: one } => of == org && one == kind,
            Selector::Aggregate(key) => key.org() == org && key.kind() == kind && key.id() == id,
            Selector::Several(_) => false,
        };
        self.rights.contains(&operation) && self.selectors.iter().any(within)
    }

    /// Whether it is one now, in µs since 1970.
    ///
    /// # Errors
    /// `Unauthenticated` when it is over, lasts longer than any, or comes from the future.
    pub(crate) fn check(&self, now: i64) -> Result<(), Refusal> {
        let refused = |reason: &str| Err(Refusal::Unauthenticated { reason: reason.to_owned() });
        let lasts = self.expires_at.saturating_sub(self.made_at);
        if lasts > LASTS_S_MAX as i64 * MICROS {
            return refused("the token lasts longer than any may");
        }
        if self.made_at.saturating_sub(SKEW_S_MAX as i64 * MICROS) > now {
            return refused("the token is made later than now: a clock is wrong");
        }
        match now < self.expires_at {
            true => Ok(()),
            false => refused("the token is over: ask for another one"),
        }
    }

    fn content(&self) -> Content {
        Content {
            selectors: self.selectors.iter().map(ToString::to_string).collect(),
            rights: self.rights.iter().map(|right| right.name().to_owned()).collect(),
            client_id: self.client_id.map(|client| client.to_string()),
            made_at: self.made_at,
            expires_at: self.expires_at,
        }
    }

    fn from_content(content: &Content) -> Result<Self, Refusal> {
        let Content { selectors, rights, client_id, made_at, expires_at } = content;
        Self::parse(selectors, rights, client_id.as_deref(), (*made_at, *expires_at))
    }
}

impl Token {
    /// Of `key`.
    ///
    /// # Errors
    /// `TooLarge` when it would be longer than [`TOKEN_BYTES_MAX`].
    pub fn new(key: &ApiKey, scope: Scope) -> Result<Self, Refusal> {
        let content = serde_json::to_string(&scope.content())
            .unwrap_or_else(|error| unreachable!("plain texts: {error}"));
        let content = base64(content.as_bytes()).replace('+', "-").replace('/', "_");
        let signed = format!("{PREFIX}{}.{}", key.id(), content.trim_end_matches('='));
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(pair(key).sign(signed.as_bytes()).as_ref());
        let token = Self { key: key.id(), scope, signed, signature };
        if token.reveal().len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLarge { what: "token".into(), limit: TOKEN_BYTES_MAX as u64 });
        }
        Ok(token)
    }

    /// Whose it is.
    pub fn key(&self) -> ApiKeyId {
        self.key
    }

    /// What it allows.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The whole token as text: for its holder, and for nobody's log.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.signed, to_hex(&self.signature))
    }

    /// Whether somebody made it who has the key whose tokens `key` knows. Costs about as much as
    /// it takes to answer a small request, whatever the token: look at what costs less first.
    pub(crate) fn is_of(&self, key: &TokenKey) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, key.as_bytes());
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }
}

/// What the store keeps to know tokens of `key`.
pub fn token_key(key: &ApiKey) -> TokenKey {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(pair(key).public_key().as_ref());
    TokenKey::new(bytes)
}

fn pair(key: &ApiKey) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&key.token_seed())
        .unwrap_or_else(|error| unreachable!("any 32 bytes are a seed: {error}"))
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.…", self.key)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError)?;
        let said = signed.strip_prefix(PREFIX).and_then(|said| said.split_once('.'));
        let (key, content) = said.ok_or(TokenError)?;
        let content = content.replace('-', "+").replace('_', "/");
        let content = from_base64(&content).ok_or(TokenError)?;
        let content: Content = serde_json::from_slice(&content).map_err(|_| TokenError)?;
        Ok(Self {
            key: key.parse().map_err(|_| TokenError)?,
            scope: Scope::from_content(&content).map_err(|_| TokenError)?,
            signed: signed.to_owned(),
            signature: array_from_hex(signature).ok_or(TokenError)?,
        })
    }
}
