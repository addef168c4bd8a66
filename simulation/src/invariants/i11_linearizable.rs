//! I11: linearizable reads are: an answer contains everything that anybody had been told before it
//! was asked for.

use celeriant_schema::{AggregateKey, Refusal, Request, Response, Version};

use super::Violations;

const RULE: &str = "I11";

/// Operation `id` was answered by whoever took itself for the leader; of an aggregate `told` says
/// which version anybody knew of before.
pub fn check(
    id: usize,
    request: &Request,
    response: &Response,
    told: impl Fn(&AggregateKey) -> Version,
    violations: &Violations,
) {
    let read: Vec<(&AggregateKey, Version)> = match (request, response) {
        (Request::Read(query), Response::Page(page)) => vec![(&query.key, page.version)],
        (Request::Head(query), Response::Head(head)) => vec![(&query.key, head.version)],
        (_, Response::Refused(Refusal::NotFound { key })) => vec![(key, Version::NONE)],
        (_, Response::Refused(Refusal::Conflict { conflicts, .. })) => {
            conflicts.iter().map(|conflict| (&conflict.key, conflict.actual)).collect()
        }
        _ => return,
    };
    for (key, version) in read {
        violations.check(RULE, version >= told(key), || {
            format!("operation {id} finds {key} at {version}, {} was known before", told(key))
        });
    }
}
