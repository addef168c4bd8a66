//! `audit`: what the store is, as a hash that is kept elsewhere, and what is held against it.
//!
//! ```text
//! head > head.json     check head.json     prove KEY VERSION --head head.json > proof.json
//!                                           check-proof proof.json [head.json]  without the store
//! ```
//! Heads and proofs are made here, by the client crate, of what nodes answer.

use std::fs;
use std::path::Path;

use celeriant_client::audit::{AuditError, AuditHead, Included, InclusionProof};
use celeriant_client::{Client, Url};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::args::{AuditAction, Global};
use super::failure::Failure;
use super::output::Output;
use super::{connect, options, verify};

pub(super) async fn run(
    action: AuditAction,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    match action {
        AuditAction::Head => {
            let head = connect(global).await?.audit_head().await?;
            output.json(&json!(head))
        }
        AuditAction::Check { head, data: Some(dir) } => {
            let aggregates_max = celeriant_storage::verify::Options::default().aggregates_max;
            verify::files::run(&dir, aggregates_max, Some(&read_head(&head)?), output)
        }
        AuditAction::Check { head, data: None } => {
            check_nodes(&read_head(&head)?, global, output).await
        }
        AuditAction::Prove { key, version, head } => {
            let client = connect(global).await?;
            let (head, is_new) = match &head {
                Some(head) => (read_head(head)?, false),
                None => (client.audit_head().await?, true),
            };
            let proof = client.audit_prove(&key, version, &head).await?;
            match is_new {
                true => output.json(&json!({"proof": proof, "head": head})),
                false => output.json(&json!(proof)),
            }
        }
        AuditAction::CheckProof { proof, head } => check_proof(&proof, head.as_deref(), output),
    }
}

/// Reads what `audit head` has printed.
pub(super) fn read_head(path: &Path) -> Result<AuditHead, Failure> {
    read(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let content = fs::read(path).map_err(|error| unreadable(path, &error))?;
    serde_json::from_slice(&content).map_err(|error| unreadable(path, &error))
}

/// Each node by itself: what one has changed, the other need not have.
async fn check_nodes(head: &AuditHead, global: &Global, output: &Output) -> Result<(), Failure> {
    let url: Url = global.url.parse()?;
    for address in url.addresses() {
        let client = Client::connect_with(&url.of(address).to_string(), options(global)?).await?;
        client.audit_check(head).await.map_err(|error| match error {
            AuditError::Store(error) => Failure::from(error),
            differs => Failure::Mismatch(format!("on {address}: {differs}")),
        })?;
    }
    let frames: u64 = head.shards.iter().map(|shard| shard.frames).sum();
    match output.is_json() {
        true => output.json(&json!({
            "verified": true, "shards": head.shards.len(), "frames": frames,
            "nodes": url.addresses(),
        })),
        false => output.line(&format!(
            "the first {frames} frames of {} shards are what they were, on each of {} node(s)",
            head.shards.len(),
            url.addresses().len()
        )),
    }
}

/// A proof as `audit prove` prints it: alone, or with the head that was made for it.
pub(super) struct Printed {
    pub(super) proof: InclusionProof,
    head: Option<AuditHead>,
}

/// Reads what `audit prove` has printed.
pub(super) fn read_proof(path: &Path) -> Result<Printed, Failure> {
    let value: Value = read(path)?;
    match value.get("proof") {
        Some(proof) => {
            let head = Some(of_value(&value["head"], path)?);
            Ok(Printed { proof: of_value(proof, path)?, head })
        }
        None => Ok(Printed { proof: of_value(&value, path)?, head: None }),
    }
}

fn of_value<T: DeserializeOwned>(value: &Value, path: &Path) -> Result<T, Failure> {
    T::deserialize(value).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

/// Checks the proof that was read from `path`.
pub(super) fn check(
    proof: &InclusionProof,
    head: &AuditHead,
    path: &Path,
) -> Result<Included, Failure> {
    let failed = |error| Failure::Mismatch(format!("{}: no proof: {error}", path.display()));
    proof.check(head).map_err(failed)
}

fn check_proof(path: &Path, head: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let Printed { proof, head: printed } = read_proof(path)?;
    let none = || Failure::usage("which head? there is none with this proof");
    let head = match head {
        Some(head) => read_head(head)?,
        None => printed.ok_or_else(none)?,
    };
    let included = check(&proof, &head, path)?;
    let InclusionProof { key, version, .. } = &proof;
    match output.is_json() {
        true => output.json(&json!({
            "verified": true, "key": key, "version": version, "hash": included.hash,
            "stamp": included.stamp.value(), "shard": included.shard.value(),
            "lsn": included.lsn.value(), "leg": included.is_leg,
        })),
        false => output.line(&format!(
            "{key} version {version} with hash {} is in the log of shard {} at lsn {}{}",
            included.hash,
            included.shard,
            included.lsn,
            match included.is_leg {
                true => ", as part of a write over several shards",
                false => "",
            }
        )),
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Store(error) => Self::from(error),
            AuditError::Absent { .. } | AuditError::Later { .. } => Self::usage(error.to_string()),
            other => Self::Mismatch(other.to_string()),
        }
    }
}
