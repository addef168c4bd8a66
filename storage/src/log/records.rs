//! Appending records: the one way into the open frame.

use bytes::Bytes;
use celeriant_schema::{Hash, Lsn, Stamp};

use super::Log;

/// Room that a `Resolve` or an `EpochStart` needs at most, in bytes.
pub(super) const SMALL_RECORD_BYTES: usize = 128;

/// Where a record went. Its segment and frame are known when the frame is durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Its place in the log.
    pub lsn: Lsn,
    /// Where it starts in its frame's records, in bytes.
    pub record_offset: u32,
}

impl Log {
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
