//! `verify`: every aggregate's history, read from each node, its hashes computed anew.
//!
//! ```text
//! the leader lists aggregates and says each one's version and hash
//!   └▶ each node that --url names: all events up to there ─▶ the same hash, or what differs first
//! ```
//! Memory is one page, whatever the store has. The files of a node that does not run: [`files`].

pub(super) mod files;

use celeriant_client::{AggregateKey, Client, HeadInfo, Selector, Url, VerifyError};
use serde_json::json;

use super::args::{Global, Verify};
use super::audit;
use super::failure::Failure;
use super::output::Output;
use super::{connect, options};

/// What was checked.
#[derive(Debug, Default)]
struct Tally {
    aggregates: u64,
    events: u64,
}

pub(super) async fn run(verify: Verify, global: &Global, output: &Output) -> Result<(), Failure> {
    if let Some(dir) = &verify.data {
        let head = verify.against.as_deref().map(audit::read_head).transpose()?;
        return files::run(dir, verify.aggregates_max, head.as_ref(), output);
    }
    let leader = connect(global).await?;
    let url: Url = global.url.parse()?;
    let mut nodes = Vec::new();
    for address in url.addresses() {
        // Who knows one node only asks that one, if any may answer.
        let url = url.of(address).to_string();
        nodes.push((address.clone(), Client::connect_with(&url, options(global)?).await?));
    }
    let mut tally = Tally::default();
    match &verify.selector {
        Selector::All => {
            let mut orgs = leader.list_orgs().stream();
            while let Some(org) = orgs.next().await {
                of_org(&leader, &nodes, &org?, &mut tally).await?;
            }
        }
        Selector::Org(org) => of_org(&leader, &nodes, org, &mut tally).await?,
        Selector::Type { org, kind } => of_type(&leader, &nodes, org, kind, &mut tally).await?,
        Selector::Aggregate(key) => of_aggregate(&leader, &nodes, key, &mut tally).await?,
        _ => return Err(Failure::usage("one selector: org/type/id, org/type, org, or '*'")),
    }
    let Tally { aggregates, events } = tally;
    match output.is_json() {
        true => output.json(&json!({
            "verified": true, "aggregates": aggregates, "events": events, "nodes": url.addresses(),
        })),
        false => output.line(&format!(
            "{aggregates} aggregates with {events} events have the hashes that they should, on \
             each of {} node(s)",
            nodes.len()
        )),
    }
}

type Nodes = [(String, Client)];

async fn of_org(
    leader: &Client,
    nodes: &Nodes,
    org: &str,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut kinds = leader.list_types(org).stream();
    while let Some(kind) = kinds.next().await {
        of_type(leader, nodes, org, &kind?, tally).await?;
    }
    Ok(())
}

async fn of_type(
    leader: &Client,
    nodes: &Nodes,
    org: &str,
    kind: &str,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut ids = leader.list(org, kind).stream();
    while let Some(id) = ids.next().await {
        let key = AggregateKey::new(org, kind, &id?);
        let key = key.map_err(|error| Failure::Mismatch(format!("a listed name: {error}")))?;
        of_aggregate(leader, nodes, &key, tally).await?;
    }
    Ok(())
}

async fn of_aggregate(
    leader: &Client,
    nodes: &Nodes,
    key: &AggregateKey,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let HeadInfo { version, hash, stamp, .. } = leader.head(key).await?;
    for (address, node) in nodes {
        let checked = node.verify(key).to(version).any().min_stamp(stamp).check().await;
        let verified = checked.map_err(|error| match error {
            VerifyError::Read(error) => Failure::from(error),
            chain => Failure::Mismatch(format!("on {address}: {chain}")),
        })?;
        if (verified.version, verified.hash) != (version, hash) {
            return Err(Failure::Mismatch(format!(
                "on {address}: {key} ends at version {} with hash {}, but its head says {version} \
                 with {hash}",
                verified.version, verified.hash
            )));
        }
    }
    tally.aggregates += 1;
    tally.events += version.value();
    Ok(())
}
