//! Making events disappear from a frame that stays what it is for everybody else.

use celeriant_schema::record::{erase as erase_batch, erase_leg};
use celeriant_schema::{AggregateKey, Version};

use super::{FRAME_HEADER_BYTES, verify};
use crate::Identity;
use crate::codec::crc32c;
use crate::directory::{AbortedLeg, BatchLocation};
use crate::error::Flaw;

/// Events that shall leave the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Erase {
    /// Those of one batch up to a version.
    Batch {
        /// Whose they are.
        key: AggregateKey,
        /// Where the batch is.
        location: BatchLocation,
        /// Version of the batch's first event.
        first: Version,
        /// The last of them. Later events of the batch stay.
        upto: Version,
    },
    /// All of a leg whose write was aborted.
    Leg(AbortedLeg),
}

impl Erase {
    /// Where they are, or the first of them.
    pub fn location(&self) -> &BatchLocation {
        match self {
            Self::Batch { location, .. } | Self::Leg(AbortedLeg { location, .. }) => location,
        }
    }
}

/// Erases from a whole frame, which keeps its length, its hash and every place in it. Returns how
/// many bytes are gone; 0 when all of that had been erased before.
///
/// # Errors
/// When the frame is not intact or does not hold what is to be erased: throw it away.
pub(crate) fn erase(frame: &mut [u8], identity: &Identity, erases: &[Erase]) -> Result<u64, Flaw> {
    let mut header = verify(frame, identity)?;
    let content = &mut frame[FRAME_HEADER_BYTES..header.content_bytes()];
    let (meta, blobs) = content.split_at_mut(header.meta_len as usize);
    let mut erased = 0;
    for erase in erases {
        let done = match erase {
            Erase::Batch { key, location, first, upto } => {
                let place = (location.record_offset, location.batch_offset);
                erase_batch(meta, blobs, place, key, (*first, *upto))
            }
            Erase::Leg(leg) => erase_leg(meta, blobs, leg.location.record_offset, leg.txn),
        };
        erased += done.map_err(|error| Flaw::Decode(error.to_string()))?;
    }
    header.body_checksum = crc32c(&frame[FRAME_HEADER_BYTES..]);
    header.encode(&mut frame[..FRAME_HEADER_BYTES]);
    Ok(erased)
}
