//! Recovery's watermark: which note rules, and the notes that recovery itself makes.

use celeriant_schema::limits::SECTOR_BYTES;
use celeriant_schema::{Lsn, peer};

use super::Report;
use super::files::{self, Inventory};
use crate::Identity;
use crate::disk::{Disk, FileId};
use crate::error::{Error, Flaw};
use crate::watermark::{WATERMARK_BYTES, WATERMARK_NAME, Watermark, first_page};

/// The watermark file, opened.
pub(super) struct Marks {
    pub(super) file: FileId,
    /// The newest note that is intact.
    pub(super) newest: Watermark,
}

impl Marks {
    /// Reads the watermark, or makes it in an empty folder.
    pub(super) async fn open<D: Disk>(
        disk: &mut D,
        identity: &Identity,
        inventory: &Inventory,
        report: &mut Report,
    ) -> Result<Self, Error> {
        let is_new = inventory.is_new();
        let damage = |what: Flaw| Error::from(what.at(WATERMARK_NAME, 0, 0, Lsn::ZERO));
        match inventory.watermark {
            // The watermark is the first file that is made: without it there is no log.
            None if is_new => Self::create(disk, identity).await,
            None => Err(damage(Flaw::Missing)),
            Some(bytes) => {
                let loaded = if bytes == WATERMARK_BYTES {
                    Self::load(disk, identity, report).await
                } else {
                    Err(damage(Flaw::Lengths))
                };
                match loaded {
                    // Half made by a first start that crashed: nothing was ever appended.
                    Err(Error::Damage(_)) if is_new => {
                        report.watermark_slots_damaged = 0;
                        Self::create(disk, identity).await
                    }
                    loaded => loaded,
                }
            }
        }
    }

    async fn create<D: Disk>(disk: &mut D, identity: &Identity) -> Result<Self, Error> {
        let head = first_page(identity);
        let file = files::create(disk, WATERMARK_NAME, WATERMARK_BYTES, head).await?;
        Ok(Self { file, newest: Watermark::default() })
    }

    async fn load<D: Disk>(
        disk: &mut D,
        identity: &Identity,
        report: &mut Report,
    ) -> Result<Self, Error> {
        let (file, _) = files::open(disk, WATERMARK_NAME).await?;
        let pages = files::read(disk, file, 0, WATERMARK_BYTES as usize).await?;
        let mut newest: Option<Watermark> = None;
        let mut flaw = Flaw::Missing;
        for (slot, page) in pages.chunks(SECTOR_BYTES).enumerate() {
            match Watermark::decode(page, slot as u64, identity) {
                Ok(note) => newest = newest.into_iter().chain(note).max_by_key(|it| it.turn),
                Err(Flaw::Foreign(whose)) => {
                    let flaw = Flaw::Foreign(whose);
                    return Err(flaw.at(WATERMARK_NAME, 0, 0, Lsn::ZERO).into());
                }
                Err(error) => {
                    tracing::warn!(slot, %error, "a slot of the watermark is damaged");
                    report.watermark_slots_damaged += 1;
                    flaw = error;
                }
            }
        }
        match newest {
            // The damaged slot may say that the log went on behind the cut.
            Some(newest) if newest.is_cut && report.watermark_slots_damaged > 0 => {
                Err(flaw.at(WATERMARK_NAME, 0, 0, newest.durable).into())
            }
            Some(newest) => Ok(Self { file, newest }),
            None => Err(flaw.at(WATERMARK_NAME, 0, 0, Lsn::ZERO).into()),
        }
    }

    /// Where a cut ends the log that was begun and not finished.
    pub(super) fn cut(&self) -> Option<peer::Position> {
        let Watermark { durable: lsn, hash, is_cut, .. } = self.newest;
        is_cut.then_some(peer::Position { lsn, hash })
    }

    /// Writes the next note.
    pub(super) async fn note<D: Disk>(
        &mut self,
        disk: &mut D,
        identity: &Identity,
        note: Watermark,
    ) -> Result<(), Error> {
        let note = Watermark { turn: self.newest.turn + 1, ..note };
        files::write(disk, self.file, note.slot_offset(), note.encode(identity)).await?;
        self.newest = note;
        Ok(())
    }
}
