//! Appending records: the one way into the open frame.

use bytes::Bytes;
use celeriant_schema::record::{EncodedBatch, EpochStart, Resolve, WriteDraft};
use celeriant_schema::{Hash, Lsn, Stamp};

use super::Log;

/// Room that a `Resolve` or an `EpochStart` needs at most, in bytes.
pub(super) const SMALL_RECORD_BYTES: usize =
    if Resolve::LEN > EpochStart::LEN { Resolve::LEN } else { EpochStart::LEN };

/// Where a record went. Its segment and frame are known when the frame is durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Where it starts in its frame's records, in bytes.
    pub record_offset: u32,
}

impl Log {
    /// Appends a write, or a leg of one. What became of its batches is added to `out`.
    ///
    /// # Panics
    /// When it does not fit ([`Log::fits`]), or when its stamps do not follow the last.
    pub fn append_write(
        &mut self,
        draft: &WriteDraft<'_>,
        out: &mut Vec<EncodedBatch>,
    ) -> Appended {
        let (meta_len, blob_len) = (draft.meta_len(), draft.blob_len());
        assert!(self.fits(meta_len, blob_len), "a write of {meta_len}+{blob_len} bytes");
        let stamps = (draft.stamp, draft.last_stamp());
        let appended =
            self.append(stamps, meta_len, |meta, base, blobs| draft.encode(meta, base, blobs, out));
        if draft.leg.is_some() {
            self.legs.open(appended.lsn, draft.write_id);
        }
        appended
    }

    /// Appends the decision over a leg that is in this log.
    ///
    /// # Panics
    /// When it does not fit ([`Log::fits_resolve`]), or when there is no such undecided leg.
    pub fn append_resolve(&mut self, resolve: &Resolve) -> Appended {
        assert!(self.fits_resolve(), "a Resolve that does not fit");
        let stamps = (resolve.stamp, resolve.stamp);
        let appended = self.append(stamps, Resolve::LEN, |meta, _, _| resolve.encode(meta));
        self.legs.resolve(resolve.leg_lsn, resolve.txn, appended.lsn);
        appended
    }

    /// Appends the first record of an epoch.
    ///
    /// # Panics
    /// When it does not fit ([`Log::fits_resolve`]).
    pub fn append_epoch_start(&mut self, start: &EpochStart) -> Appended {
        assert!(self.fits_resolve(), "an EpochStart that does not fit");
        let stamps = (start.stamp, start.stamp);
        self.append(stamps, EpochStart::LEN, |meta, _, _| start.encode(meta))
    }

    /// Adds a record whose events have stamps from `stamps.0` to `stamps.1`.
    fn append(
        &mut self,
        stamps: (Stamp, Stamp),
        meta_len: usize,
        encode: impl FnOnce(&mut [u8], u32, &mut Vec<Bytes>) -> Hash,
    ) -> Appended {
        assert!(
            stamps.0 > self.last_stamp && stamps.1 >= stamps.0,
            "stamps {}..={} after {}",
            stamps.0,
            stamps.1,
            self.last_stamp
        );
        let record_offset = self.open.push(stamps, meta_len, encode);
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        self.last_stamp = stamps.1;
        Appended { lsn, record_offset }
    }
}
