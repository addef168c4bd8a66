//! `audit`: what the store is, as a hash that is kept elsewhere, and what is held against it.
//!
//! ```text
//! head > head.json     check head.json     prove KEY VERSION --head head.json > proof.json
//!                                           check-proof proof.json head.json    without the store
//! ```
//! Heads and proofs are made here, by the client crate, of what nodes answer.

use std::fs;
use std::path::Path;

use celeriant_client::audit::{AuditError, AuditHead, InclusionProof};
use celeriant_client::{Client, Url};
use serde::de::DeserializeOwned;
use serde_json::json;

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
        AuditAction::Check { head, data: None } => check(&read_head(&head)?, global, output).await,
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
        AuditAction::CheckProof { proof, head } => check_proof(&proof, &head, output),
    }
}

/// Reads what `audit head` has printed.
pub(super) fn read_head(path: &Path) -> Result<AuditHead, Failure> {
    read(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let unreadable = |error: String| Failure::usage(format!("{}: {error}", path.display()));
    let content = fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_slice(&content).map_err(|error| unreadable(error.to_string()))
}

/// Each node by itself: what one has changed, the other need not have.
async fn check(head: &AuditHead, global: &Global, output: &Output) -> Result<(), Failure> {
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

fn check_proof(proof: &Path, head: &Path, output: &Output) -> Result<(), Failure> {
    let (proof, head): (InclusionProof, AuditHead) = (read(proof)?, read(head)?);
    let included =
        proof.check(&head).map_err(|error| Failure::Mismatch(format!("no proof: {error}")))?;
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
