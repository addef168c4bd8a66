//! The API keys that are good here and now, as every thread looks them up.
//!
//! ```text
//! $system/keys/keys ──▶ whoever reads it (actors::keys) ─ publish ▶ Keyring ◀─ check ─ Rights
//! ```
//! A lookup takes no lock and asks nobody; what is published counts from the next request on, on
//! connections that are up, too. What a key allows never changes: only whether it still counts.
//! Deliberately absent: where keys come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use celeriant_schema::{ApiKey, ApiKeyHash, ApiKeyId, ClientId, Refusal, TokenKey};

use crate::tls::Grant;

/// Until a node that has just started has read which keys there are.
const UNREAD_RETRY_MS: u32 = 200;

/// What the store knows of a key.
#[derive(Clone, Debug)]
pub struct Holder {
    /// What people call it.
    pub name: String,
    /// To know it again.
    pub hash: ApiKeyHash,
    /// To know its tokens. `None`: it was made before they were signed, and has none.
    pub token_key: Option<TokenKey>,
    /// What it allows.
    pub grants: Vec<Grant>,
    /// Its holder writes under this client id and no other, and nobody else does.
    pub client_id: Option<ClientId>,
    /// Since when it counts, in µs since 1970.
    pub created_at: i64,
    /// It counts before this, in µs since 1970; `None`: until it is revoked.
    pub expires_at: Option<i64>,
}

/// Wall time in µs since 1970.
pub type Wall = Box<dyn Fn() -> i64 + Send + Sync>;

/// All of them. One a node.
pub struct Keyring {
    /// `None`: not read yet.
    known: ArcSwapOption<Known>,
    wall: Wall,
}

struct Known {
    holders: BTreeMap<ApiKeyId, Arc<Holder>>,
    /// Client ids that some of them have for themselves.
    bound: BTreeSet<ClientId>,
}

impl Keyring {
    /// Nothing is known yet. `wall` says when keys expire.
    pub fn new(wall: Wall) -> Self {
        Self { known: ArcSwapOption::empty(), wall }
    }

    /// These are all keys, from now on.
    pub fn publish(&self, holders: BTreeMap<ApiKeyId, Arc<Holder>>) {
        let bound = holders.values().filter_map(|holder| holder.client_id).collect();
        self.known.store(Some(Arc::new(Known { holders, bound })));
    }

    /// Who shows `key`.
    ///
    /// # Errors
    /// `Unauthenticated` when there is no such key, or no more, without saying which of them;
    /// `Overloaded` before the node knows.
    pub(crate) fn find(&self, key: &ApiKey) -> Result<Arc<Holder>, Refusal> {
        let holder = self.holder(key.id())?;
        if holder.hash.is_of(key) { Ok(holder) } else { Err(not_a_key()) }
    }

    /// Whose key this is, if it still counts. Whoever asks must show that it is his.
    ///
    /// # Errors
    /// As of [`Self::find`].
    pub(crate) fn holder(&self, id: ApiKeyId) -> Result<Arc<Holder>, Refusal> {
        let known = self.known.load();
        let Some(known) = &*known else {
            let what = "API keys, which are not read yet".to_owned();
            return Err(Refusal::Overloaded { what, retry_after_ms: UNREAD_RETRY_MS });
        };
        let found = known.holders.get(&id);
        found.filter(|holder| self.counts(holder)).cloned().ok_or_else(not_a_key)
    }

    /// Wall time, in µs since 1970.
    pub(crate) fn now(&self) -> i64 {
        (self.wall)()
    }

    /// Whether the key is one that still counts.
    ///
    /// # Errors
    /// `Unauthenticated` when it does not.
    pub(crate) fn check(&self, id: ApiKeyId) -> Result<(), Refusal> {
        let known = self.known.load();
        let holder = known.as_ref().and_then(|known| known.holders.get(&id));
        holder.filter(|holder| self.counts(holder)).map(drop).ok_or_else(not_a_key)
    }

    /// Whether a key has `client` for its holder. One that has expired keeps it until it is
    /// revoked: nobody comes into another's name by waiting.
    pub(crate) fn binds(&self, client: ClientId) -> bool {
        self.known.load().as_ref().is_some_and(|known| known.bound.contains(&client))
    }

    fn counts(&self, holder: &Holder) -> bool {
        holder.expires_at.is_none_or(|end| self.now() < end)
    }
}

fn not_a_key() -> Refusal {
    Refusal::Unauthenticated { reason: "there is no such API key, or no more".to_owned() }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.known.load().as_ref().map(|known| known.holders.len());
        f.debug_struct("Keyring").field("keys", &count).finish_non_exhaustive()
    }
}
