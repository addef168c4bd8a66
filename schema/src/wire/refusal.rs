//! Refusals in bytes: the stable code, then the code's own fields.

use bytes::{BufMut, BytesMut};

use super::response::{put_receipt, receipt};
use super::{Input, TEXT_BYTES_MAX, put_key, put_text};
use crate::codec::DecodeError;
use crate::ids::{Sequence, Stamp, Version};
use crate::limits::SCHEMA_REASONS_MAX;
use crate::refusal::{AlreadyApplied, Conflict, Refusal};
use crate::request::Guard;

/// Smallest size of a conflict, in bytes.
const CONFLICT_BYTES: usize = 19;

pub(super) fn put_refusal(out: &mut BytesMut, refusal: &Refusal) {
    out.put_u16_le(refusal.code());
    match refusal {
        Refusal::Conflict { conflicts, already_applied } => {
            put_already_applied(out, already_applied);
            put_conflicts(out, conflicts);
        }
        Refusal::SequenceReused { key, sequence } | Refusal::SequenceStale { key, sequence } => {
            put_key(out, key);
            out.put_u64_le(sequence.value());
        }
        Refusal::SequenceGap { key, expected } => {
            put_key(out, key);
            out.put_u64_le(expected.value());
        }
        Refusal::NotFound { key } | Refusal::Deleted { key } => put_key(out, key),
        Refusal::Trimmed { key, first_available } => {
            put_key(out, key);
            out.put_u64_le(first_available.value());
        }
        Refusal::SchemaViolation { key, event, path, reason } => {
            put_key(out, key);
            out.put_u32_le(*event);
            put_text(out, path, TEXT_BYTES_MAX);
            put_text(out, reason, TEXT_BYTES_MAX);
        }
        Refusal::SchemaExists { schema: text }
        | Refusal::SchemaUnknown { schema: text }
        | Refusal::Unauthenticated { reason: text } => {
            put_text(out, text, TEXT_BYTES_MAX);
        }
        Refusal::InvalidArgument { field: what, reason }
        | Refusal::PermissionDenied { action: what, resource: reason }
        | Refusal::SchemaInvalid { schema: what, reason } => {
            put_text(out, what, TEXT_BYTES_MAX);
            put_text(out, reason, TEXT_BYTES_MAX);
        }
        Refusal::SchemaIncompatible { schema, reasons } => {
            put_text(out, schema, TEXT_BYTES_MAX);
            let reasons = &reasons[..reasons.len().min(SCHEMA_REASONS_MAX)];
            out.put_u8(reasons.len() as u8);
            reasons.iter().for_each(|reason| put_text(out, reason, TEXT_BYTES_MAX));
        }
        Refusal::NotLeader { leader } => {
            out.put_u8(u8::from(leader.is_some()));
            put_text(out, leader.as_deref().unwrap_or_default(), TEXT_BYTES_MAX);
        }
        Refusal::NotYet { wanted, reached } => {
            out.put_u64_le(wanted.value());
            out.put_u64_le(reached.value());
        }
        Refusal::Overloaded { what, retry_after_ms } => {
            put_text(out, what, TEXT_BYTES_MAX);
            out.put_u32_le(*retry_after_ms);
        }
        Refusal::TooLarge { what, limit } => {
            put_text(out, what, TEXT_BYTES_MAX);
            out.put_u64_le(*limit);
        }
        Refusal::UnsupportedProtocol { min, max } => {
            out.put_u16_le(*min);
            out.put_u16_le(*max);
        }
        Refusal::DeadlineExceeded { definite } => out.put_u8(u8::from(*definite)),
        Refusal::NoLeader | Refusal::UnknownOutcome => {}
        Refusal::Internal { id } => out.put_u64_le(*id),
    }
}

pub(super) fn refusal(input: &mut Input<'_>) -> Result<Refusal, DecodeError> {
    Ok(match input.u16()? {
        1001 => Refusal::InvalidArgument { field: text(input)?, reason: text(input)? },
        1002 => Refusal::TooLarge { what: text(input)?, limit: input.u64()? },
        1003 => Refusal::UnsupportedProtocol { min: input.u16()?, max: input.u16()? },
        1004 => Refusal::Unauthenticated { reason: text(input)? },
        1005 => Refusal::PermissionDenied { action: text(input)?, resource: text(input)? },
        2001 => Refusal::NotFound { key: input.key()? },
        2002 => Refusal::Deleted { key: input.key()? },
        2003 => {
            let already_applied = already_applied(input)?;
            Refusal::Conflict { conflicts: conflicts(input)?, already_applied }
        }
        2004 => Refusal::SequenceReused { key: input.key()?, sequence: sequence(input)? },
        2005 => Refusal::SequenceStale { key: input.key()?, sequence: sequence(input)? },
        2006 => Refusal::SequenceGap { key: input.key()?, expected: sequence(input)? },
        2007 => Refusal::Trimmed { key: input.key()?, first_available: version(input)? },
        3001 => {
            let known = flag(input)?;
            let leader = text(input)?;
            if !known && !leader.is_empty() {
                return Err(DecodeError::invalid("leader", "is there without its flag"));
            }
            Refusal::NotLeader { leader: known.then_some(leader) }
        }
        3002 => Refusal::NoLeader,
        3003 => {
            Refusal::NotYet { wanted: Stamp::new(input.u64()?), reached: Stamp::new(input.u64()?) }
        }
        3004 => Refusal::Overloaded { what: text(input)?, retry_after_ms: input.u32()? },
        3005 => Refusal::DeadlineExceeded { definite: flag(input)? },
        3006 => Refusal::UnknownOutcome,
        4001 => Refusal::SchemaViolation {
            key: input.key()?,
            event: input.u32()?,
            path: text(input)?,
            reason: text(input)?,
        },
        4002 => Refusal::SchemaExists { schema: text(input)? },
        4003 => Refusal::SchemaInvalid { schema: text(input)?, reason: text(input)? },
        4004 => Refusal::SchemaIncompatible { schema: text(input)?, reasons: reasons(input)? },
        4005 => Refusal::SchemaUnknown { schema: text(input)? },
        9001 => Refusal::Internal { id: input.u64()? },
        _ => return Err(DecodeError::invalid("code", "of refusal is not known")),
    })
}

fn put_already_applied(out: &mut BytesMut, already_applied: &AlreadyApplied) {
    match already_applied {
        AlreadyApplied::None => out.put_u8(0),
        AlreadyApplied::Receipt(receipt) => {
            out.put_u8(1);
            put_receipt(out, receipt);
        }
        AlreadyApplied::Unknown => out.put_u8(2),
    }
}

fn already_applied(input: &mut Input<'_>) -> Result<AlreadyApplied, DecodeError> {
    match input.u8()? {
        0 => Ok(AlreadyApplied::None),
        1 => Ok(AlreadyApplied::Receipt(Box::new(receipt(input)?))),
        2 => Ok(AlreadyApplied::Unknown),
        _ => Err(DecodeError::invalid("already_applied", "is not known")),
    }
}

fn put_conflicts(out: &mut BytesMut, conflicts: &[Conflict]) {
    out.put_u16_le(conflicts.len() as u16);
    for conflict in conflicts {
        let (number, version) = conflict.expected.to_numbers();
        put_key(out, &conflict.key);
        out.put_u8(number);
        out.put_u64_le(version);
        out.put_u64_le(conflict.actual.value());
    }
}

fn conflicts(input: &mut Input<'_>) -> Result<Vec<Conflict>, DecodeError> {
    let count = usize::from(input.u16()?);
    let mut conflicts = Vec::with_capacity(input.capacity(count, CONFLICT_BYTES));
    for _ in 0..count {
        let (key, number, guard_version) = (input.key()?, input.u8()?, input.u64()?);
        let expected = Guard::from_numbers(number, guard_version)
            .ok_or(DecodeError::invalid("guard", "is not known"))?;
        conflicts.push(Conflict { key, expected, actual: version(input)? });
    }
    Ok(conflicts)
}

fn reasons(input: &mut Input<'_>) -> Result<Vec<String>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > SCHEMA_REASONS_MAX {
        return Err(DecodeError::Limit { what: "reasons", limit: SCHEMA_REASONS_MAX as u64 });
    }
    (0..count).map(|_| text(input)).collect()
}

fn text(input: &mut Input<'_>) -> Result<String, DecodeError> {
    input.text("text", TEXT_BYTES_MAX)
}

fn flag(input: &mut Input<'_>) -> Result<bool, DecodeError> {
    Ok(input.flags(1)? != 0)
}

fn sequence(input: &mut Input<'_>) -> Result<Sequence, DecodeError> {
    input.u64().map(Sequence::new)
}

fn version(input: &mut Input<'_>) -> Result<Version, DecodeError> {
    input.u64().map(Version::new)
}
