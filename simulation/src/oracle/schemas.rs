//! Schemas: what is registered stays so, and in every shard; whatever was written afterwards
//! conforms; what was answered about them is true.

use std::collections::BTreeSet;

use celeriant_actors::admin::Order as AdminOrder;
use celeriant_actors::schemas::order::SchemaOrder;
use celeriant_schema::event::EventBody;
use celeriant_schema::system::{SchemaName, SystemEvent, schemas_of};
use celeriant_schema::{Member, Request, Response, SchemaVersion};
use serde_json::Value;

use super::{Evidence, When};
use crate::history::{Batch, History};
use crate::invariants::Violations;
use crate::ledger::{Operation, Order};
use crate::workload::{WITH_SCHEMA, conforms, mark};

pub(super) const RULE: &str = "schemas";

/// Somebody ordered that a schema be registered.
pub(super) struct Registration {
    name: SchemaName,
    pub(super) first_sent: Order,
    /// When it was first said to be done; never is the largest number.
    known: Order,
}

/// All of them.
pub(super) fn registrations(operations: &[Operation]) -> Vec<Registration> {
    let registrations = operations.iter().filter_map(|operation| {
        let Request::Admin(order) = &*operation.request else { return None };
        let SchemaOrder::Register { schema, .. } = parse(order).ok()? else { return None };
        let answers = operation.attempts.iter().filter_map(|attempt| match &attempt.answer {
            Some((order, Response::Admin(_))) => Some(*order),
            _ => None,
        });
        let known = answers.min().unwrap_or(Order::MAX);
        Some(Registration { name: schema.parse().ok()?, first_sent: operation.first_sent(), known })
    });
    registrations.collect()
}

fn parse(order: &[u8]) -> Result<SchemaOrder, String> {
    match serde_json::from_slice(order) {
        Ok(AdminOrder::Schema(order)) => Ok(order),
        other => Err(format!("{other:?} is no order of a registrar")),
    }
}

fn is_compaction(order: &[u8]) -> bool {
    matches!(serde_json::from_slice(order), Ok(AdminOrder::Compact | AdminOrder::Status))
}

/// Every shard has heard of every registration, and what was said to be registered is. What was
/// sent later conforms: a write on its way meanwhile may have been looked at before, whatever its
/// stamp.
pub(super) fn check_log(evidence: &Evidence, violations: &Violations) {
    let Evidence { operations, history, shards, registrations, .. } = evidence;
    let orgs: BTreeSet<&str> = registrations.iter().map(|it| it.name.org()).collect();
    for org in orgs {
        let names = registered(history, org);
        let of_org = || registrations.iter().filter(|it| it.name.org() == org);
        for Registration { name, .. } in of_org().filter(|it| it.known < Order::MAX) {
            violations.check(RULE, names.contains(name), || {
                format!("{name} was registered, and is not there")
            });
        }
        for shard in 0..*shards {
            let heard = history.batches(&mark(org, shard, *shards)).len();
            violations.check(RULE, heard == names.len(), || {
                format!("{heard} of {} changes to {org} reached shard {shard}", names.len())
            });
        }
        let concerned = history.aggregates.iter().filter(|(key, _)| key.org() == org);
        for (key, batch) in concerned.flat_map(|(key, all)| all.iter().map(move |it| (key, it))) {
            let Some(write) = batch.origin.and_then(|id| operations.get(id)) else { continue };
            let is_bound = of_org().any(|it| it.known < write.first_sent());
            let landed = write.receipts().filter_map(|(attempt, _)| attempt.answer.as_ref());
            let landed = landed.map(|(order, _)| *order).min().unwrap_or(Order::MAX);
            let names = || of_org().filter(|it| it.first_sent < landed).map(|it| &it.name);
            violations.check(RULE, !is_bound || conforms_to(batch, names), || {
                let names: Vec<_> = names().collect();
                format!("{key}: {batch:?} does not conform to {names:?}")
            });
        }
    }
}

/// What was registered for an org, in order.
fn registered(history: &History, org: &str) -> Vec<SchemaName> {
    let Ok(key) = schemas_of(org) else { return Vec::new() };
    let events = history.batches(&key).iter().flat_map(Batch::bodies);
    let names =
        events.filter_map(|body| match SystemEvent::from_event(org, &EventBody::new(body).ok()?) {
            Ok(SystemEvent::SchemaRegistered { name, .. }) => Some(name),
            _ => None,
        });
    names.collect()
}

fn conforms_to<'n, N: Iterator<Item = &'n SchemaName>>(
    batch: &Batch,
    names: impl Fn() -> N,
) -> bool {
    batch.bodies().all(|body| {
        let Ok(body) = EventBody::new(body) else { return false };
        body.event_type() != WITH_SCHEMA
            || has(names(), body.fields().schema()) && conforms(body.payload())
    })
}

fn has<'n>(mut names: impl Iterator<Item = &'n SchemaName>, version: SchemaVersion) -> bool {
    names.any(|name| name.version() == version)
}

/// An event was said not to conform.
pub(super) fn check_violation(
    evidence: &Evidence,
    member: &Member,
    event: u32,
    when: When,
) -> Result<(), String> {
    let Some(body) = member.events.iter().nth(event as usize) else {
        return Err(format!("there is no event {event}"));
    };
    let of_org = || evidence.registrations.iter().filter(|it| it.name.org() == member.key.org());
    let is_bound = of_org().any(|it| it.first_sent < when.answered);
    let known = of_org().filter(|it| !when.is_behind && it.known < when.sent).map(|it| &it.name);
    let is_right = has(known, body.fields().schema()) && conforms(body.payload());
    match body.event_type() == WITH_SCHEMA && is_bound && !is_right {
        true => Ok(()),
        false => Err(format!("event {event} conforms to what was registered")),
    }
}

/// A version was said to be too low to be registered: because of a higher one.
pub(super) fn is_too_low(evidence: &Evidence, request: &Request, when: When) -> bool {
    let Request::Admin(order) = request else { return false };
    let Ok(SchemaOrder::Register { schema, .. }) = parse(order) else { return false };
    let Ok(name) = schema.parse::<SchemaName>() else { return false };
    let is_higher =
        |it: &Registration| it.name.org() == name.org() && it.name.version() > name.version();
    evidence.registrations.iter().any(|it| is_higher(it) && it.first_sent < when.answered)
}

/// An order was carried out.
pub(super) fn check_report(
    evidence: &Evidence,
    order: &[u8],
    report: &[u8],
    When { sent, answered, is_behind, .. }: When,
) -> Result<(), String> {
    let report: Value = serde_json::from_slice(report).map_err(|error| error.to_string())?;
    let order = match parse(order) {
        Ok(order) => order,
        // Whoever gave it looks for himself.
        Err(_) if is_compaction(order) => return Ok(()),
        Err(what) => return Err(what),
    };
    let org = match order {
        SchemaOrder::List { org } => org,
        _ => {
            let outcome = report["outcome"].as_str().unwrap_or_default();
            return match ["registered", "known"].contains(&outcome) {
                true => Ok(()),
                false => Err(format!("{report} for a registration")),
            };
        }
    };
    let listed = report["schemas"].as_array().into_iter().flatten();
    let listed: Vec<SchemaName> =
        listed.filter_map(|schema| schema["schema"].as_str()?.parse().ok()).collect();
    let of_org = || evidence.registrations.iter().filter(|it| it.name.org() == org);
    let invented = listed
        .iter()
        .find(|name| !of_org().any(|it| it.name == **name && it.first_sent < answered));
    let missing = of_org().find(|it| !is_behind && it.known < sent && !listed.contains(&it.name));
    match (invented, missing) {
        (Some(name), _) => Err(format!("{name} is listed, and nobody had registered it")),
        (_, Some(it)) => Err(format!("{} was registered, and is not listed", it.name)),
        (None, None) => Ok(()),
    }
}
