//! Making events disappear from a frame that stays what it is for everybody else.

use celeriant_schema::record::erase as erase_from_record;
use celeriant_schema::{AggregateKey, Version};

use super::{FRAME_HEADER_BYTES, verify};
use crate::Identity;
use crate::codec::crc32c;
use crate::directory::BatchLocation;
use crate::error::Flaw;

/// Events that shall leave the disk: those of one batch up to a version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Erase {
    /// Whose they are.
    pub key: AggregateKey,
    /// Where the batch is.
    pub location: BatchLocation,
    /// The last of them. Later events of the batch stay.
    pub upto: Version,
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
    for Erase { key, location, upto } in erases {
        let place = (location.record_offset, location.batch_offset);
        erased += erase_from_record(meta, blobs, place, key, *upto)
            .map_err(|error| Flaw::Decode(error.to_string()))?;
    }
    header.body_checksum = crc32c(&frame[FRAME_HEADER_BYTES..]);
    header.encode(&mut frame[..FRAME_HEADER_BYTES]);
    Ok(erased)
}
