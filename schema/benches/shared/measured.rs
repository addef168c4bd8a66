//! What every benchmark here is made of: a piece of work with a name, and one small event.

use bytes::Bytes;
use celeriant_schema::{ContentType, Event};

/// One thing to measure.
pub(crate) struct Work {
    /// In the baseline and in reports: keep it.
    pub(crate) name: &'static str,
    /// Operations that one run does.
    pub(crate) units: u64,
    /// Does them.
    pub(crate) run: Box<dyn FnMut()>,
}

impl Work {
    /// `units` operations a run.
    pub(crate) fn new(name: &'static str, units: usize, run: impl FnMut() + 'static) -> Self {
        Self { name, units: units as u64, run: Box::new(run) }
    }
}

/// 100 bytes of payload.
pub(crate) fn event() -> Event {
    Event::plain("Deposited", ContentType::Bytes, Bytes::from(vec![b'x'; 100]))
}
