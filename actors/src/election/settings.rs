//! Every duration of the election (R16, R17), with what goes wrong at most when it is off.
//!
//! No write depends on any of them: set them to anything and nothing that was acknowledged is lost,
//! nobody leads twice. Two of them carry linearizable reads: how long a grant or a lease lasts is
//! agreed on by its number, and a margin covers clocks that run at different rates.

use std::time::Duration;

use crate::clock::Micros;

/// Durations in µs of the node's own clock.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A leader's sign of life. Too long: followers claim for nothing.
    pub heartbeat: Micros,
    /// Silence of the follower until the leader goes on with the bucket. Too short: needless
    /// reconfigurations. Too long: writes pause.
    pub suspect_after: Micros,
    /// For so long a follower promises not to claim. Too long: a take-over waits for it. The
    /// message carries the number, so that two nodes with different settings agree.
    pub grant: Micros,
    /// Silence of the leader until its follower claims. Too short: healthy leaders are deposed.
    pub claim_after: Micros,
    /// Lease in the register. Too short for the bucket: linearizable reads ask it each time. Too
    /// long: a take-over waits for it. The register carries the number.
    pub lease: Micros,
    /// Between renewals of it. Too long: as a lease that is too short.
    pub renew_every: Micros,
    /// Least and most of the pause after a claim that came to nothing. Too short: two nodes that
    /// claim against each other take longer to settle.
    pub back_off: (Micros, Micros),
    /// An open claim of a live process may take so long. Too short: a slow take-over is disturbed
    /// by another. Too long: a claimant that hangs keeps the cluster waiting.
    pub claim_patience: Micros,
    /// Between reads of the register when nothing happens. Too long: a deposed leader that is cut
    /// off from its peer learns late, an alarm comes late.
    pub register_every: Micros,
    /// A reconfiguration needs a read of the register that is younger than this. Too long: a bucket
    /// that just died puts the leader in doubt, which freezes writes.
    pub fresh_for: Micros,
    /// Given to each operation of the bucket. Too short: outcomes are unknown. Too long: they are
    /// known late.
    pub bucket_deadline: Micros,
    /// Least and most of the pause after a failure of the bucket. Too long: it heals late.
    pub bucket_retry: (Micros, Micros),
    /// What a bucket log's acknowledgement takes besides the request: it waits for its round. Off:
    /// a slow follower is ejected for a bucket that is slower, or is waited for.
    pub bucket_round: Micros,
    /// Least and most of the pause between the loss of a follower that is slow, or was lost soon
    /// after its return, and its return; doubles. Too short: it costs reconfigurations.
    pub rejoin: (Micros, Micros),
    /// A hand-over that takes longer is called off. Too long: writes pause.
    pub hand_over_within: Micros,
}

impl Default for Settings {
    fn default() -> Self {
        const MS: Micros = 1_000;
        Self {
            heartbeat: 100 * MS,
            suspect_after: 500 * MS,
            grant: 1_000 * MS,
            claim_after: 1_100 * MS,
            lease: 3_000 * MS,
            renew_every: 1_000 * MS,
            back_off: (1_000 * MS, 3_000 * MS),
            claim_patience: 10_000 * MS,
            register_every: 30_000 * MS,
            fresh_for: 1_000 * MS,
            bucket_deadline: 2_000 * MS,
            bucket_retry: (200 * MS, 2_000 * MS),
            bucket_round: 50 * MS,
            rejoin: (5_000 * MS, 300_000 * MS),
            hand_over_within: 5_000 * MS,
        }
    }
}

impl Settings {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_micros(self.bucket_deadline)
    }
}

/// As the one who must keep quiet counts it: 5 % longer on its clock.
pub(super) fn longer(lasts: Micros) -> Micros {
    lasts.saturating_add(lasts / 20)
}

/// As the one who relies on it counts it: 5 % shorter on its clock.
pub(super) fn shorter(lasts: Micros) -> Micros {
    lasts - lasts / 20
}

/// Milliseconds of a message or of the register, which may be anything, as µs.
pub(super) fn from_ms(ms: u32) -> Micros {
    Micros::from(ms) * 1_000
}
