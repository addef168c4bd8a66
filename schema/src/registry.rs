//! Which schemas and policies there are, and whether a write conforms: a pure state machine.
//!
//! ```text
//! SystemEvent ── apply ──> Registry ── check_write ──> conforms, or SchemaViolation
//!                             │  └──── propose ──────> the event to append, or why not
//!                             └ org ─ type, or every type ─ event type ─ version ─> Registered
//! ```
//! A node has one registry, and shares what it says of each org ([`Org`]) with its shards:
//! immutable, so that checking a write takes no lock. Compiling takes milliseconds, and is done off
//! the data path; compiled schemas are kept by their text ([`Validators`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;

use crate::event::{EventBody, SchemaVersion};
use crate::hash::Hash;
use crate::ids::Version;
use crate::key::AggregateKey;
use crate::payload::{SchemaInvalid, Validator, Violation};
use crate::refusal::Refusal;
use crate::request::{Member, Write};
use crate::system::{Policy, SchemaName, SchemaSource, SystemEvent};

/// Most schemas of one org: what one aggregate of the store's own org is read through at start.
pub const ORG_SCHEMAS_MAX: usize = 10_000;

/// Compiled schemas, shared by all threads of a node. Never holds two of the same text.
#[derive(Debug, Default)]
pub struct Validators {
    compiled: DashMap<Hash, Arc<Validator>>,
}

impl Validators {
    /// The compiled form of a text that is registered: keeps it for ever.
    ///
    /// # Errors
    /// When the text is not a usable schema.
    pub fn compile(&self, source: &SchemaSource) -> Result<Arc<Validator>, SchemaInvalid> {
        let identity = identity(source);
        if let Some(known) = self.compiled.get(&identity) {
            return Ok(known.clone());
        }
        // Without holding the map's lock meanwhile. Two that race compile twice, and agree.
        let compiled = Arc::new(Validator::compile(source)?);
        Ok(self.compiled.entry(identity).or_insert(compiled).clone())
    }
}

/// A schema that is registered.
#[derive(Clone, Debug)]
pub struct Registered {
    /// Its text.
    pub source: SchemaSource,
    /// Its compatibility was taken on an operator's word.
    pub forced: bool,
    /// What checks payloads. An error if this version of the store no longer takes the text: then
    /// writes of that type are refused, and say so.
    pub validator: Result<Arc<Validator>, SchemaInvalid>,
}

/// Everything that was said about the schemas of all orgs.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    orgs: BTreeMap<String, Arc<Org>>,
}

/// What holds for one org, up to a version of its aggregate.
#[derive(Clone, Debug, Default)]
pub struct Org {
    /// Newest event of its aggregate that is in here.
    version: Version,
    every: Scope,
    kinds: BTreeMap<String, Scope>,
}

/// What holds for one type, or for every type of an org.
#[derive(Clone, Debug, Default)]
struct Scope {
    policy: Option<Policy>,
    types: BTreeMap<String, BTreeMap<SchemaVersion, Arc<Registered>>>,
}

/// What becomes of a schema that somebody wants registered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Proposal {
    /// Append this to the org's aggregate, if that is still at this version.
    Append(SystemEvent, Version),
    /// It is registered already, exactly like this.
    Known,
}

impl Registry {
    /// Takes the event at `version` of its org's aggregate. What is taken already changes nothing.
    pub fn apply(&mut self, event: SystemEvent, version: Version, validators: &Validators) {
        let org = self.orgs.entry(event.org().to_owned()).or_default();
        if version <= org.version {
            return;
        }
        let org = Arc::make_mut(org);
        org.version = version;
        match event {
            SystemEvent::SchemaRegistered { name, source, forced } => {
                let validator = validators.compile(&source);
                let registered = Arc::new(Registered { source, forced, validator });
                let types = &mut org.scope_mut(name.kind()).types;
                let versions = types.entry(name.event_type().to_owned()).or_default();
                versions.entry(name.version()).or_insert(registered);
            }
            SystemEvent::PolicySet { kind, policy, .. } => {
                org.scope_mut(kind.as_deref()).policy = Some(policy);
            }
        }
    }

    /// Newest event of the org's aggregate that was applied.
    pub fn version(&self, org: &str) -> Version {
        self.orgs.get(org).map_or(Version::NONE, |org| org.version)
    }

    /// What holds for an org, as it is now; `None`: nothing was ever said of it.
    pub fn org(&self, org: &str) -> Option<Arc<Org>> {
        self.orgs.get(org).cloned()
    }

    /// The policies that were set for an org: its own, if it has one, and those of its types.
    pub fn policies<'a>(&'a self, org: &'a str) -> impl Iterator<Item = (Option<&'a str>, Policy)> {
        self.orgs.get(org).into_iter().flat_map(|org| {
            let kinds = org.kinds.iter().map(|(kind, scope)| (Some(kind.as_str()), scope));
            let scopes = std::iter::once((None, &org.every)).chain(kinds);
            scopes.filter_map(|(kind, scope)| Some((kind, scope.policy?)))
        })
    }

    /// The schema that events of this type and version must conform to: the type's own, else the
    /// org's.
    pub fn lookup(
        &self,
        org: &str,
        kind: &str,
        event_type: &str,
        version: SchemaVersion,
    ) -> Option<&Arc<Registered>> {
        let org = self.orgs.get(org)?;
        let mut versions = org.versions(kind, event_type);
        versions.find_map(|versions| versions.get(&version))
    }

    /// The schema of exactly this name.
    pub fn schema(&self, name: &SchemaName) -> Option<&Arc<Registered>> {
        self.versions(name)?.get(&name.version())
    }

    /// All schemas of an org, ordered by type (the org's own first), event type and version.
    pub fn schemas<'a>(
        &'a self,
        org: &'a str,
    ) -> impl Iterator<Item = (SchemaName, &'a Arc<Registered>)> {
        let scopes = self.orgs.get(org).into_iter().flat_map(|org| {
            let kinds = org.kinds.iter().map(|(kind, scope)| (Some(kind.as_str()), scope));
            std::iter::once((None, &org.every)).chain(kinds)
        });
        scopes.flat_map(move |(kind, scope)| {
            scope.types.iter().flat_map(move |(event_type, versions)| {
                versions.iter().filter_map(move |(version, registered)| {
                    let name = SchemaName::new(org, kind, event_type, *version).ok()?;
                    Some((name, registered))
                })
            })
        })
    }

    /// What holds for a type: its own policy, else the org's, else open.
    pub fn policy(&self, org: &str, kind: &str) -> Policy {
        self.orgs.get(org).map_or_else(Policy::default, |org| org.policy(kind))
    }

    /// Decides about a new schema. Compiles it, so not for the data path.
    ///
    /// # Errors
    /// `SchemaExists`, `SchemaInvalid`, `SchemaIncompatible`; `force` takes what is only undecided.
    pub fn propose(
        &self,
        name: SchemaName,
        source: SchemaSource,
        force: bool,
    ) -> Result<Proposal, Refusal> {
        if let Some(known) = self.schema(&name) {
            return match known.source == source {
                true => Ok(Proposal::Known),
                false => Err(Refusal::SchemaExists { schema: name.to_string() }),
            };
        }
        if self.orgs.get(name.org()).map_or(0, |org| org.count()) >= ORG_SCHEMAS_MAX {
            let what = format!("schemas of {}", name.org());
            return Err(Refusal::TooLarge { what, limit: ORG_SCHEMAS_MAX as u64 });
        }
        let candidate = Validator::compile(&source).map_err(|error| invalid(&name, error))?;
        let undecided = self.compare(&name, &candidate, force)?;
        let version = self.version(name.org());
        let event = SystemEvent::SchemaRegistered { name, source, forced: undecided };
        Ok(Proposal::Append(event, version))
    }

    /// Compares a candidate with the minor version before it. Says whether anything was undecided.
    fn compare(
        &self,
        name: &SchemaName,
        candidate: &Validator,
        force: bool,
    ) -> Result<bool, Refusal> {
        let major = name.version().major;
        let mut line = self.versions(name).into_iter().flatten().rev();
        let Some((newest, previous)) = line.find(|(version, _)| version.major == major) else {
            return Ok(false);
        };
        if *newest > name.version() {
            let reason = format!("must be above {newest}, the newest");
            return Err(Refusal::invalid("version", reason));
        }
        let previous = previous.validator.as_ref().map_err(|error| invalid(name, error.clone()))?;
        let found = candidate.compare(previous);
        let mut reasons = found.violations().to_vec();
        if !force {
            let open = |reason| format!("{reason} (undecided: an operator may force it)");
            reasons.extend(found.undecided().iter().map(open));
        }
        if reasons.is_empty() {
            return Ok(!found.undecided().is_empty());
        }
        reasons.truncate(crate::limits::SCHEMA_REASONS_MAX);
        Err(Refusal::SchemaIncompatible { schema: name.to_string(), reasons })
    }

    /// Checks every event of a write.
    ///
    /// # Errors
    /// `SchemaViolation` of the first event that does not conform.
    pub fn check_write(&self, write: &Write) -> Result<(), Refusal> {
        for member in &write.members {
            if let Some(org) = self.orgs.get(member.key.org()) {
                org.check_member(member)?;
            }
        }
        Ok(())
    }

    /// The versions of the event type in the very place that a name says.
    fn versions(&self, name: &SchemaName) -> Option<&BTreeMap<SchemaVersion, Arc<Registered>>> {
        let org = self.orgs.get(name.org())?;
        let scope = match name.kind() {
            Some(kind) => org.kinds.get(kind)?,
            None => &org.every,
        };
        scope.types.get(name.event_type())
    }
}

impl Org {
    /// Newest event of the org's aggregate that is in here.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Checks every event that a write has for one aggregate of this org. Does not block, and
    /// allocates nothing of its own for what conforms.
    ///
    /// # Errors
    /// `SchemaViolation` of the first event that does not conform.
    pub fn check_member(&self, member: &Member) -> Result<(), Refusal> {
        let key = &member.key;
        for (event, body) in member.events.iter().enumerate() {
            self.check(key, &body).map_err(|Violation { path, reason }| {
                Refusal::SchemaViolation { key: key.detached(), event: event as u32, path, reason }
            })?;
        }
        Ok(())
    }

    /// How many schemas.
    fn count(&self) -> usize {
        let scopes = std::iter::once(&self.every).chain(self.kinds.values());
        scopes.flat_map(|scope| scope.types.values()).map(BTreeMap::len).sum()
    }

    fn scope_mut(&mut self, kind: Option<&str>) -> &mut Scope {
        match kind {
            Some(kind) => self.kinds.entry(kind.to_owned()).or_default(),
            None => &mut self.every,
        }
    }

    fn policy(&self, kind: &str) -> Policy {
        let own = self.kinds.get(kind).and_then(|scope| scope.policy);
        own.or(self.every.policy).unwrap_or_default()
    }

    /// What is registered for an event type: for the aggregate's type first, then for all.
    fn versions(
        &self,
        kind: &str,
        event_type: &str,
    ) -> impl Iterator<Item = &BTreeMap<SchemaVersion, Arc<Registered>>> {
        let scopes = [self.kinds.get(kind), Some(&self.every)];
        scopes.into_iter().flatten().filter_map(move |scope| scope.types.get(event_type))
    }

    fn check(&self, key: &AggregateKey, event: &EventBody<'_>) -> Result<(), Violation> {
        let fields = event.fields();
        let (kind, event_type, version) = (key.kind(), fields.event_type(), fields.schema());
        let mut versions = self.versions(kind, event_type).peekable();
        let whole = |reason| Violation { path: String::new(), reason };
        if versions.peek().is_none() {
            return match self.policy(kind).closed {
                true => Err(whole(format!("event type {event_type} has no schema"))),
                false => Ok(()),
            };
        }
        let Some(registered) = versions.find_map(|versions| versions.get(&version)) else {
            let reason = format!("version {version} of {event_type} is not registered");
            return Err(whole(reason));
        };
        if fields.envelope().is_some() {
            return match self.policy(kind).allow_encrypted {
                true => Ok(()),
                false => Err(whole("is encrypted, which its policy does not allow".into())),
            };
        }
        let format = registered.source.format;
        if fields.content_type() != Ok(format.content_type()) {
            return Err(whole(format!("has another content type than its schema, {format}")));
        }
        match &registered.validator {
            Ok(validator) => validator.check(event.payload()),
            Err(error) => Err(whole(format!("its schema cannot be used any more: {error}"))),
        }
    }
}

fn invalid(name: &SchemaName, error: SchemaInvalid) -> Refusal {
    Refusal::SchemaInvalid { schema: name.to_string(), reason: error.reason }
}

/// One for each format, message and text.
fn identity(source: &SchemaSource) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[source.format as u8]);
    hasher.update(&(source.message.len() as u64).to_le_bytes());
    hasher.update(source.message.as_bytes());
    hasher.update(&source.text);
    hasher.finalize().into()
}

#[cfg(test)]
#[path = "registry/registry_test.rs"]
mod tests;
