//! The contract of `Bucket`, run against every implementation of it, and what each does when things
//! go wrong.
//!
//! ```text
//!   contract   what every one of them must do     sites      how to get at each
//!   wire       faults on the wire, seen through the production client
//!   durable    kill and restart of the embedded one           moto      an independent S3
//! ```

mod contract;
mod durable;
pub(crate) mod moto;
mod sites;
mod wire;

use contract::{Races, check};
use sites::{Embedded, Simulated};

#[tokio::test]
async fn the_simulated_bucket_keeps_the_contract() {
    for seed in 0..4 {
        check(&Simulated::new(seed), Some(Races { racers: 50, rounds: 200 })).await;
    }
}

#[tokio::test]
async fn the_embedded_bucket_keeps_the_contract_through_the_production_client() {
    check(&Embedded::start(), Some(Races { racers: 50, rounds: 200 })).await;
}

/// Without races: moto looks at the condition and then writes, on several threads, so that now and
/// then two racers win. It is here for what the protocol says, not for who wins.
#[tokio::test]
async fn moto_keeps_the_contract_through_the_production_client_as_long_as_nobody_races() {
    if let Some(moto) = moto::Moto::start() {
        check(&moto, None).await;
    }
}
