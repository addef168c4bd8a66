//! What is around an event in its frame, without content: for proofs that it is in the log.

use bytes::Bytes;
use celeriant_schema::audit::inclusion::{Evidence, EvidenceError};
use celeriant_schema::{AggregateKey, Version};

use super::FrameHeader;

/// The evidence that a frame, which was verified, has for version `version` of `key`.
///
/// # Errors
/// When the event is not in it, or it is no frame.
pub fn evidence(
    frame: &Bytes,
    key: &AggregateKey,
    version: Version,
) -> Result<Evidence, EvidenceError> {
    // Whoever has verified it gets here with a frame; anybody else learns that nothing is there.
    let header = FrameHeader::decode(frame).map_err(|_| EvidenceError::Absent)?;
    if frame.len() < header.content_bytes() {
        return Err(EvidenceError::Absent);
    }
    let (meta, blobs) = (header.meta(frame), header.blobs(frame));
    Evidence::of(key, version, &header.fields(), (&meta, &blobs))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use celeriant_schema::audit::head::{AuditHead, FrameLeaf, Walk};
    use celeriant_schema::audit::hex::Hex;
    use celeriant_schema::audit::inclusion::{InclusionError, InclusionProof};
    use celeriant_schema::hash::chain_start;
    use celeriant_schema::record::decode_batches;
    use celeriant_schema::{Hash, Lsn};

    use super::*;
    use crate::Settings;
    use crate::frame::FrameHeader;
    use crate::testing::{Dice, Rig, identity, small_settings};

    /// All frames of a busy shard.
    fn frames() -> Vec<Bytes> {
        let settings = Settings { segment_bytes_first: 256 << 10, ..small_settings() };
        let mut rig = Rig::new(settings);
        let mut dice = Dice::new(5);
        (0..60).for_each(|_| rig.step(&mut dice));
        while rig.resolve(0, true) {}
        rig.settle();
        let files = rig.snapshot().files;
        let mut rest = Bytes::from(files["00000001.seg"].clone()).slice(4096..);
        let mut frames = Vec::new();
        while let Ok(header) = FrameHeader::decode(&rest) {
            frames.push(rest.split_to(header.frame_bytes()));
        }
        frames
    }

    fn walk() -> Walk {
        Walk::new(identity().shard.value(), None)
    }

    fn leaves(frames: &[Bytes]) -> Vec<FrameLeaf> {
        let headers = frames.iter().map(|frame| FrameHeader::decode(frame).expect("a frame"));
        let leaf =
            |it: FrameHeader| FrameLeaf(it.last_lsn().value(), it.last_stamp.value(), it.hash);
        headers.map(leaf).collect()
    }

    fn head(leaves: &[FrameLeaf]) -> AuditHead {
        let mut walk = walk();
        walk.take(leaves).expect("in order");
        AuditHead { cluster: identity().cluster.to_string(), shards: vec![walk.head()] }
    }

    /// Proofs of all events, and the head that they are for.
    fn proofs() -> (Vec<(InclusionProof, Hash, Lsn)>, AuditHead) {
        let frames = frames();
        let leaves = leaves(&frames);
        let mut before: BTreeMap<String, Hash> = BTreeMap::new();
        let mut proofs = Vec::new();
        for frame in &frames {
            let header = FrameHeader::decode(frame).expect("a frame");
            let (meta, blobs) = (header.meta(frame), header.blobs(frame));
            for batch in decode_batches(&meta, header.count, |_| true) {
                let batch = batch.expect("records");
                let key = batch.view.key.clone();
                for event in batch.view.read_events(&blobs).expect("events") {
                    let prev = before.insert(key.as_str().into(), event.hash);
                    let evidence = evidence(frame, &key, event.version).expect("there");
                    let lsn = Lsn::new(header.first_lsn.value() + evidence.record as u64);
                    let mut walk = walk().proving(lsn.value());
                    walk.take(&leaves).expect("in order");
                    let proof = InclusionProof {
                        key: key.as_str().into(),
                        version: event.version.value(),
                        prev: prev.unwrap_or_else(|| chain_start(&key)),
                        event: Hex(event.body.to_vec()),
                        evidence,
                        path: Hex(walk.proof().expect("came by").encode()),
                    };
                    proofs.push((proof, event.hash, lsn));
                }
            }
        }
        (proofs, head(&leaves))
    }

    #[test]
    fn every_event_is_proved_against_the_head_of_its_log_and_no_other() {
        let (proofs, head) = proofs();
        assert!(proofs.len() > 50, "{}", proofs.len());
        assert!(proofs.iter().any(|(proof, ..)| proof.check(&head).expect("honest").is_leg));
        let mut other = head.clone();
        other.shards[0].hash.0[0] ^= 1;
        let mut foreign = head.clone();
        foreign.cluster = celeriant_schema::ClusterId::new(3).to_string();
        for (proof, hash, lsn) in &proofs {
            let included = proof.check(&head).expect("honest");
            assert_eq!((included.hash, included.lsn), (*hash, *lsn));
            assert_eq!(proof.check(&other), Err(InclusionError::Frame));
            assert_eq!(proof.check(&foreign), Err(InclusionError::Foreign));
        }
    }

    #[test]
    fn a_proof_with_any_hexadecimal_digit_changed_proves_nothing() {
        let (proofs, head) = proofs();
        let mut tried = 0;
        for (proof, ..) in proofs.iter().step_by(9) {
            let evidence = &proof.evidence;
            let mut changed: Vec<InclusionProof> = Vec::new();
            let mut change = |edit: &dyn Fn(&mut InclusionProof)| {
                let mut other = proof.clone();
                edit(&mut other);
                changed.push(other);
            };
            for at in 0..proof.event.0.len() {
                change(&|it| it.event.0[at] ^= 1);
            }
            for at in 0..proof.path.0.len() {
                change(&|it| it.path.0[at] ^= 1);
            }
            for at in 0..evidence.fields.0.len() {
                change(&|it| it.evidence.fields.0[at] ^= 1);
            }
            for at in 0..evidence.records.len() {
                change(&|it| it.evidence.records[at].0[7] ^= 1);
                change(&|it| it.evidence.records.truncate(at));
            }
            for (number, batch) in evidence.batches.iter().enumerate() {
                for at in 0..batch.fields.0.len() {
                    change(&|it| it.evidence.batches[number].fields.0[at] ^= 1);
                }
                for at in 0..batch.events.len() {
                    change(&|it| it.evidence.batches[number].events[at].0[7] ^= 1);
                }
            }
            change(&|it| it.version += 1);
            change(&|it| it.key.push('x'));
            change(&|it| it.evidence.record += 1);
            change(&|it| it.prev.0[1] ^= 1);
            change(&|it| it.evidence.frame.epoch += 1);
            change(&|it| it.evidence.frame.boot = "0".into());
            change(&|it| it.evidence.frame.first_lsn += 1);
            change(&|it| it.evidence.frame.first_stamp += 1);
            change(&|it| it.evidence.frame.last_stamp += 1);
            change(&|it| it.evidence.frame.prev_hash.0[3] ^= 1);
            for other in &changed {
                assert!(other.check(&head).is_err(), "{other:?}");
            }
            tried += changed.len();
        }
        assert!(tried > 1_000, "{tried}");
    }
}
