//! Whether a request may have left this process: the fact on which safe retries stand.

use std::sync::atomic::{AtomicU8, Ordering};

const WAITING: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

/// Waiting, then either sent or cancelled, never both: caller and driver race for it.
#[derive(Debug)]
pub(super) struct Stage(AtomicU8);

impl Default for Stage {
    fn default() -> Self {
        Self(AtomicU8::new(WAITING))
    }
}

impl Stage {
    /// The driver is about to hand the request to the socket. `false`: it must not any more.
    pub(super) fn send(&self) -> bool {
        self.leave_waiting(SENT)
    }

    /// The caller gives up. `false`: the request may have arrived.
    pub(super) fn cancel(&self) -> bool {
        self.leave_waiting(CANCELLED)
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_or_cancelled_but_never_both() {
        let sent = Stage::default();
        assert!(sent.send());
        assert!(!sent.cancel());
        let cancelled = Stage::default();
        assert!(cancelled.cancel());
        assert!(!cancelled.send());
    }
}
