//! The state that the log leaves, while it is read: directory, legs, outcomes.
//!
//! Legs that were open at the checkpoint are brought back before the first frame. What is not
//! committed leaves nothing behind but its legs, which the log itself must know.

use std::collections::BTreeMap;

use celeriant_schema::record::Record;
use celeriant_schema::{Lsn, TxnId};

use crate::directory::{Applier, Directory};
use crate::error::Flaw;
use crate::frame::FrameHeader;
use crate::log::{Legs, Placed};
use crate::manifest::OpenLeg;

/// State while the log is read.
pub(super) struct Replay {
    pub(super) directory: Directory,
    pub(super) applier: Applier,
    pub(super) legs: Legs,
    pub(super) outcomes: BTreeMap<TxnId, bool>,
}

impl Replay {
    pub(super) fn new(directory: Directory) -> Self {
        Self {
            directory,
            applier: Applier::default(),
            legs: Legs::default(),
            outcomes: BTreeMap::new(),
        }
    }

    /// Brings back a leg that was open at the checkpoint, from the records of its frame.
    pub(super) fn reopen(
        &mut self,
        open: &OpenLeg,
        first_lsn: Lsn,
        place: Placed,
        records: Vec<(u32, Record)>,
    ) -> Result<(), Flaw> {
        let at = open.lsn.value().checked_sub(first_lsn.value());
        let record = at.and_then(|at| records.into_iter().nth(usize::try_from(at).ok()?));
        match record {
            Some((offset, Record::Leg(leg))) if leg.write_id == open.txn => {
                self.legs.open_placed(open.lsn, open.txn, place);
                self.applier.open(open.lsn, place, offset, leg);
            }
            _ => return Err(Flaw::Chain("a leg of the checkpoint")),
        }
        if open.is_applied {
            self.applier.was_shown(open.lsn);
        }
        Ok(())
    }

    /// Takes in the records of one frame.
    pub(super) fn frame(
        &mut self,
        header: &FrameHeader,
        place: Placed,
        records: Vec<(u32, Record)>,
        is_committed: bool,
    ) -> Result<(), (Lsn, Flaw)> {
        self.legs.check(header.first_lsn, &records)?;
        self.legs.take(header.first_lsn, &records, Some(place));
        if !is_committed {
            return Ok(());
        }
        for (_, record) in &records {
            if let Record::Resolve(resolve) = record {
                self.outcomes.insert(resolve.txn, resolve.commit);
            }
        }
        self.applier.records(&mut self.directory, header.first_lsn, place, records)
    }
}
