//! Objects of a bucket: what an operation does at the one moment when it takes effect.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use celeriant_storage::bucket::{Conflict, Done, ETag, LIST_KEYS_MAX, Op};

use crate::trace::digest;

/// Versions that can be restored.
const HISTORY: usize = 16;

/// Names, bodies, and what the bodies were before.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    current: BTreeMap<String, Bytes>,
    history: BTreeMap<String, VecDeque<Bytes>>,
}

/// What the bucket calls a body: equal bodies are one version, as with real ones.
pub fn etag_of(body: &[u8]) -> ETag {
    ETag::new(format!("\"{:016x}\"", digest(body)))
}

impl Objects {
    /// Name and content of every object, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.current.iter().map(|(key, body)| (key.as_str(), body))
    }

    /// An object's content.
    pub fn body(&self, key: &str) -> Option<&Bytes> {
        self.current.get(key)
    }

    /// Takes an object away, as an operator's mistake does.
    pub fn lose(&mut self, key: &str) -> bool {
        self.current.remove(key).is_some()
    }

    /// What an object was before its last `back` versions.
    pub fn older(&self, key: &str, back: usize) -> Option<&Bytes> {
        let history = self.history.get(key)?;
        history.get(history.len().checked_sub(1 + back)?)
    }

    /// Puts an object back to what it once was. `false` when that is what it is.
    pub fn put_back(&mut self, key: &str, body: Bytes) -> bool {
        self.current.insert(key.to_owned(), body.clone()) != Some(body)
    }

    /// Puts the version before the last `back` ones back, as a restore from a backup does. `false`
    /// when there is no such version, or it is the one that is there.
    pub fn restore(&mut self, key: &str, back: usize) -> bool {
        let Some(older) = self.older(key, back).cloned() else { return false };
        if self.current.get(key) == Some(&older) {
            return false;
        }
        self.set(key, older);
        true
    }

    /// Carries `op` out, atomically. `heedless` ignores its condition.
    pub(super) fn apply(&mut self, op: &Op, heedless: bool) -> Done {
        match op {
            Op::Get { key } => match self.current.get(key.as_str()) {
                Some(body) => Done::Found { etag: etag_of(body), body: body.clone() },
                None => Done::Absent,
            },
            Op::PutIfAbsent { key, body } => {
                if self.current.contains_key(key.as_str()) && !heedless {
                    return Done::Conflict(Conflict::Precondition);
                }
                self.put(key.as_str(), body)
            }
            Op::PutIfMatch { key, etag, body } => match self.current.get(key.as_str()) {
                None if !heedless => Done::Conflict(Conflict::Missing),
                Some(current) if etag_of(current) != *etag && !heedless => {
                    Done::Conflict(Conflict::Precondition)
                }
                _ => self.put(key.as_str(), body),
            },
            Op::List { prefix, after } => self.list(prefix, after.as_deref()),
            Op::Delete { key } => {
                self.current.remove(key.as_str());
                Done::Deleted
            }
        }
    }

    fn put(&mut self, key: &str, body: &Bytes) -> Done {
        self.set(key, body.clone());
        Done::Put { etag: etag_of(body) }
    }

    fn set(&mut self, key: &str, body: Bytes) {
        let history = self.history.entry(key.to_owned()).or_default();
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(body.clone());
        self.current.insert(key.to_owned(), body);
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Done {
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut objects: Vec<(String, u64)> = self
            .current
            .iter()
            .filter(|(key, _)| wanted(key))
            .take(LIST_KEYS_MAX + 1)
            .map(|(key, body)| (key.clone(), body.len() as u64))
            .collect();
        let more = objects.len() > LIST_KEYS_MAX;
        objects.truncate(LIST_KEYS_MAX);
        Done::Listed { objects, more }
    }
}
