//! I17: recovery is idempotent: crash at any step of it, same log.

use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_storage::segment::FIRST_FRAME_OFFSET;
use celeriant_storage::{Identity, Settings};

use super::Violations;
use crate::disk::{Fate, Files, Flight};
use crate::reopen::{LogState, reopen, reopen_until};
use crate::rng::Rng;
use crate::walk::{Segment, Walked};

const RULE: &str = "I17";

/// Recovers an image twice, and once more after a crash at one operation of the recovery. Returns
/// how many recoveries were compared.
pub fn check(
    files: &Files,
    identity: Identity,
    settings: &Settings,
    rng: &mut Rng,
    violations: &Violations,
) -> u64 {
    let Ok((left, _, first)) = reopen(files, identity, settings) else { return 0 };
    let mut compared = 1;
    expect(&left, identity, settings, &first, "a second time", violations);
    let operation = rng.between(1, 30);
    let mut fate = |flight: &Flight| any_fate(flight, rng);
    if let Some(left) = reopen_until(files, identity, settings, operation, &mut fate) {
        compared += 1;
        let when = format!("after a crash at its operation {operation}");
        expect(&left, identity, settings, &first, &when, violations);
    }
    compared
}

/// A process has started on an image with these segments and frames: nothing is left behind the end
/// of its log that was there when it started, for a later start to stumble over.
pub fn check_tail(
    (segments, frames): (&[Segment<'_>], &[Walked]),
    identity: &Identity,
    violations: &Violations,
) {
    let newest = frames.last().map(|frame| frame.header.epoch).unwrap_or_default();
    for Segment { name, content, .. } in segments {
        let of_file = frames.iter().rev().find(|frame| frame.name == *name);
        let end = of_file
            .map_or(FIRST_FRAME_OFFSET, |frame| frame.offset + frame.header.frame_bytes() as u64);
        let rest = content.get(end as usize..).unwrap_or_default();
        let zeroes = [0; SECTOR_BYTES];
        let is_used = |page: &[u8]| page != &zeroes[..page.len()];
        let Some(at) = rest.chunks(SECTOR_BYTES).position(is_used) else { continue };
        let at = at * SECTOR_BYTES;
        // What is written since may be done in any order.
        let is_new = Walked::parse(name, end + at as u64, &rest[at..], identity)
            .is_some_and(|frame| frame.header.epoch >= newest);
        violations.check(RULE, is_new, || {
            format!("shard {}: something is left in {name} at {}", identity.shard, end + at as u64)
        });
    }
}

/// The image recovers to `expected`.
pub fn expect(
    files: &Files,
    identity: Identity,
    settings: &Settings,
    expected: &LogState,
    when: &str,
    violations: &Violations,
) {
    let shard = identity.shard;
    match reopen(files, identity, settings) {
        Ok((_, _, again)) => {
            violations.check(RULE, again == *expected, || {
                format!("shard {shard} recovered {when} differs: {again:?} from {expected:?}")
            });
        }
        Err(error) => {
            violations.add(RULE, format_args!("shard {shard} cannot be recovered {when}: {error}"));
        }
    }
}

/// Dropped, kept or torn.
pub fn any_fate(flight: &Flight, rng: &mut Rng) -> Fate {
    match rng.below(3) {
        0 => Fate::Drop,
        1 => Fate::Keep,
        _ if flight.changes() => Fate::Tear(rng.number()),
        _ => Fate::Keep,
    }
}
