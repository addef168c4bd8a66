//! `verify`: every aggregate's history, read from each node, its hashes computed anew.
//!
//! ```text
//! the leader lists aggregates and says each one's version and hash
//!   └▶ each node that --url names: all events up to there ─▶ the same hash, or what differs first
//! ```
//! Of what is deleted there is nothing to compute: then the nodes only have to say the same. Where
//! an aggregate's beginning is gone, its first event is taken for granted, and that is told.
//! Memory is one page, whatever the store has. The files of a node that does not run: [`files`];
//! what was taken out of a store: [`export`].

pub(super) mod export;
pub(super) mod files;

use celeriant_client::{AggregateKey, Client, HeadInfo, Selector, Url, VerifyError, Version};
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
    /// Aggregates of which the beginning is gone.
    cut: u64,
    /// Aggregates of which nothing is left.
    gone: u64,
}

pub(super) async fn run(verify: Verify, global: &Global, output: &Output) -> Result<(), Failure> {
    if let Some(dir) = &verify.data {
        let head = verify.against.as_deref().map(audit::read_head).transpose()?;
        return files::run(dir, verify.aggregates_max, head.as_ref(), output);
    }
    if let Some(path) = &verify.export {
        let against = verify.against.as_deref();
        let against = against.map(|head| export::Against::read(head, &verify.proof)).transpose()?;
        return export::run(path, against, output);
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
    print(&tally, url.addresses(), output)
}

fn print(tally: &Tally, nodes: &[String], output: &Output) -> Result<(), Failure> {
    let Tally { aggregates, events, cut, gone } = tally;
    if output.is_json() {
        return output.json(&json!({
            "verified": true, "aggregates": aggregates, "events": events, "cut": cut, "gone": gone,
            "nodes": nodes,
        }));
    }
    output.line(&format!(
        "{aggregates} aggregates with {events} events have the hashes that they should, on each of \
         {} node(s)",
        nodes.len()
    ))?;
    if *cut > 0 {
        output.line(&format!(
            "{cut} of them had events taken away: the first that is left was taken for granted"
        ))?;
    }
    if *gone > 0 {
        output.line(&format!("{gone} of them have no events left: there is nothing to compute"))?;
    }
    Ok(())
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
    let mut head = leader.head(key).await?;
    loop {
        let checked = of_nodes(nodes, key, &head, tally).await;
        if checked.is_ok() {
            return checked;
        }
        // What was taken away meanwhile is no mismatch.
        let now = leader.head(key).await?;
        if left(&now) == left(&head) {
            return checked;
        }
        head = now;
    }
}

/// Whether something is left of an aggregate, and from where on.
fn left(head: &HeadInfo) -> (bool, Version) {
    (!head.deleted && head.first_available <= head.version, head.first_available)
}

async fn of_nodes(
    nodes: &Nodes,
    key: &AggregateKey,
    head: &HeadInfo,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (has_events, _) = left(head);
    let mut after = Version::NONE;
    for (address, node) in nodes {
        match has_events {
            true => after = of_node(address, node, key, head).await?,
            false => says_the_same(address, node, key, head).await?,
        }
    }
    tally.aggregates += 1;
    tally.gone += u64::from(!has_events);
    tally.cut += u64::from(after != Version::NONE);
    if has_events {
        tally.events += head.version.value().saturating_sub(after.value());
    }
    Ok(())
}

/// Computes all there is; the version that was taken for granted.
async fn of_node(
    address: &str,
    node: &Client,
    key: &AggregateKey,
    head: &HeadInfo,
) -> Result<Version, Failure> {
    let HeadInfo { version, hash, stamp, first_available, .. } = *head;
    let checked = node.verify(key).to(version).any().min_stamp(stamp).check().await;
    let verified = checked.map_err(|error| match error {
        VerifyError::Read(error) => Failure::from(error),
        chain => Failure::Mismatch(format!("on {address}: {chain}")),
    })?;
    if (verified.version, verified.hash) != (version, hash) {
        return Err(Failure::Mismatch(format!(
            "on {address}: {key} ends at version {} with hash {}, but its head says {version} with \
             {hash}",
            verified.version, verified.hash
        )));
    }
    let first = verified.after.max(Version::NONE.next());
    if first != first_available {
        return Err(Failure::Mismatch(format!(
            "on {address}: {key} begins at version {first}, but its head says {first_available}"
        )));
    }
    Ok(verified.after)
}

async fn says_the_same(
    address: &str,
    node: &Client,
    key: &AggregateKey,
    head: &HeadInfo,
) -> Result<(), Failure> {
    let own = node.head(key).any().min_stamp(head.stamp).await?;
    let said = |head: &HeadInfo| (head.version, head.hash, head.deleted, head.first_available);
    if said(&own) == said(head) {
        return Ok(());
    }
    Err(Failure::Mismatch(format!(
        "on {address}: of {key} nothing is left, but its head is another: version {} with hash {}, \
         not {} with {}",
        own.version, own.hash, head.version, head.hash
    )))
}
