//! I22: every counter within its cap.

use celeriant_schema::limits::{
    LIST_PAGE_MAX, NUMBER_MAX, PAGE_BYTES_TARGET, RESPONSE_BYTES_MAX, WRITE_MEMBERS_MAX,
};
use celeriant_schema::{Page, Refusal, Response};

use super::Violations;
use crate::walk::Walked;

const RULE: &str = "I22";

/// An answer is bounded.
pub fn check_answer(response: &Response, violations: &Violations) {
    let (what, value, cap) = match response {
        Response::Receipt(receipt) => ("stamp", receipt.stamp.value(), NUMBER_MAX - 1),
        Response::Page(page) => return check_page(page, violations),
        Response::Head(head) => ("version", head.version.value(), NUMBER_MAX - 1),
        Response::List(page) => ("names", page.names.len() as u64, u64::from(LIST_PAGE_MAX)),
        Response::Feed(page) => ("stamp", page.upto.value(), NUMBER_MAX - 1),
        Response::Refused(Refusal::Conflict { conflicts, .. }) => {
            ("conflicts", conflicts.len() as u64, WRITE_MEMBERS_MAX as u64)
        }
        Response::Pong | Response::Admin(_) | Response::Refused(_) => return,
    };
    violations.check(RULE, value <= cap, || format!("{what} {value} is above {cap}"));
}

fn check_page(page: &Page, violations: &Violations) {
    let size = |batch: &celeriant_schema::ReadBatch| {
        batch.events.iter().map(|event| event.body.len() + 40).sum::<usize>()
    };
    let sizes: Vec<usize> = page.batches.iter().map(size).collect();
    let total: usize = sizes.iter().sum();
    let last = sizes.last().copied().unwrap_or_default();
    violations.check(RULE, total - last < PAGE_BYTES_TARGET && total < RESPONSE_BYTES_MAX, || {
        format!("a page has {total} bytes, the last of its batches {last}")
    });
}

/// A node has taken requests in: those that are unanswered are within its budget.
pub fn check_admitted(bytes: usize, budget: usize, violations: &Violations) {
    violations.check(RULE, bytes <= budget, || {
        format!("{bytes} bytes of requests are unanswered, {budget} are let in")
    });
}

/// A frame is bounded and its numbers are in range.
pub fn check_frame(frame: &Walked, frame_bytes_max: usize, violations: &Violations) {
    let header = &frame.header;
    let bytes = header.frame_bytes();
    violations.check(RULE, bytes <= frame_bytes_max, || format!("a frame has {bytes} bytes"));
    violations.check(RULE, header.last_stamp.value() < NUMBER_MAX, || {
        format!("a frame has stamp {}", header.last_stamp)
    });
    violations.check(RULE, header.durable_upto < header.first_lsn, || {
        format!("frame at {} says {} is durable", header.first_lsn, header.durable_upto)
    });
}

/// A disk never has more in flight than the log's depth, files in the making, and reads allow.
pub fn check_in_flight(shard: usize, in_flight: usize, cap: usize, violations: &Violations) {
    violations.check(RULE, in_flight <= cap, || {
        format!(
            "shard {shard} had {in_flight} disk operations in flight, at most {cap} are allowed"
        )
    });
}
