//! Answers audits: one bounded read of the log each.

use std::collections::BTreeMap;

use bytes::Bytes;
use celeriant_schema::audit::head::{FrameLeaf, FramesPage};
use celeriant_schema::audit::inclusion::EvidenceError;
use celeriant_schema::{Lsn, Refusal, Request, Response, Stamp, Version};
use celeriant_storage::frame::{FrameHeader, evidence};
use serde_json::json;

use super::core::{Core, Effect};
use super::feed::split;
use super::search::Purpose;
use crate::audit::{AuditOrder, parse_key};
use crate::work::Task;

/// Bytes of log that one answer looks at, about: a few hundred small frames.
const AUDIT_BYTES: usize = 1 << 20;
/// Of an event, its frame is enough.
const EVENT_BYTES: usize = 1;

/// Audits that wait for the disk.
#[derive(Debug)]
pub(super) struct Audits<R>(BTreeMap<u64, (R, AuditOrder)>);

impl<R> Default for Audits<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R> Audits<R> {
    /// Forgets everything; returns who waits.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = R> + use<R> {
        std::mem::take(&mut self.0).into_values().map(|(route, _)| route)
    }
}

impl<R> Core<R> {
    /// Takes an order that is for a shard.
    pub(super) fn audit(&mut self, task: Task<R>, effects: &mut Vec<Effect<R>>) {
        let order = match &task.request {
            Request::Admin(order) => AuditOrder::of(order),
            other => unreachable!("{other:?} is no order"),
        };
        let order = match order.unwrap_or(Err(Refusal::invalid("order", "is not for a shard"))) {
            Ok(order) => order,
            Err(refusal) => {
                return effects.push(Effect::Reply(task.route, Response::Refused(refusal)));
            }
        };
        let step = match &order {
            AuditOrder::Frames { after, .. } => {
                self.log.read_after(Lsn::new(*after), self.committed, AUDIT_BYTES)
            }
            AuditOrder::Event { stamp, .. } => {
                let before = Stamp::new(stamp.saturating_sub(1));
                self.log.read_behind(before, self.committed, EVENT_BYTES)
            }
        };
        let ask = self.reads.next_token();
        self.audits.0.insert(ask, (task.route, order));
        self.found(Purpose::Audit { ask }, step, effects);
    }

    /// Takes what an audit has read; `None`: there was nothing.
    pub(super) fn audit_found(
        &mut self,
        ask: u64,
        frames: Option<&Bytes>,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some((route, order)) = self.audits.0.remove(&ask) else { return };
        let response = match self.audited(&order, frames) {
            Ok(report) => Response::Admin(report.into()),
            Err(refusal) => Response::Refused(refusal),
        };
        effects.push(Effect::Reply(route, response));
    }

    fn audited(&self, order: &AuditOrder, frames: Option<&Bytes>) -> Result<String, Refusal> {
        let committed = frames.into_iter().flat_map(split).filter_map(|frame| {
            let header = FrameHeader::decode(&frame).ok()?;
            (header.last_lsn() <= self.committed).then_some((header, frame))
        });
        match order {
            AuditOrder::Frames { .. } => {
                let leaf = |header: FrameHeader| {
                    FrameLeaf(header.last_lsn().value(), header.last_stamp.value(), header.hash)
                };
                let identity = self.log.identity();
                let page = FramesPage {
                    cluster: identity.cluster.to_string(),
                    shard: identity.shard.value(),
                    shards: self.schemas.shards(),
                    frames: committed.map(|(header, _)| leaf(header)).collect(),
                };
                Ok(json!(page).to_string())
            }
            AuditOrder::Event { key, version, .. } => {
                let (key, version) = (parse_key(key)?, Version::new(*version));
                let absent = || Refusal::invalid("stamp", "no such event is committed there");
                let (_, frame) = { committed }.next().ok_or_else(absent)?;
                match evidence(&frame, &key, version) {
                    Ok(evidence) => Ok(json!(evidence).to_string()),
                    Err(EvidenceError::Absent) => Err(absent()),
                    Err(EvidenceError::Damaged(error)) => {
                        tracing::error!(%key, %version, %error, "a committed frame is damaged");
                        Err(Refusal::Internal { id: 0 })
                    }
                }
            }
        }
    }
}
