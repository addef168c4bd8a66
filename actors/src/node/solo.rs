//! A node on its own: makes its shards lead once, and has nothing to say to them after that.

use std::sync::Arc;

use celeriant_schema::ShardId;
use kameo::Actor;
use kameo::actor::{ActorRef, Recipient};
use kameo::message::{Context, Message};
use tokio::sync::mpsc;

use super::worker::News;
use crate::replicator::activation::Activation;
use crate::replicator::orders::{Order, OrderMail, ReportMail};
use crate::settlement::Contradiction;

/// The actor.
pub(super) struct Solo {
    pub(super) shards: Arc<[Recipient<OrderMail>]>,
    pub(super) activation: Activation,
    pub(super) news: mpsc::UnboundedSender<News>,
}

impl Solo {
    pub(super) fn send(&self, orders: Vec<(ShardId, Order)>) {
        for (shard, order) in orders {
            // A shard that has stopped says so in the news.
            let to = &self.shards[usize::from(shard.value())];
            let _ = to.tell(OrderMail(vec![order])).try_send();
        }
    }
}

impl Actor for Solo {
    type Args = (Self, Vec<(ShardId, Order)>);
    type Error = Contradiction;

    async fn on_start(
        (solo, orders): (Self, Vec<(ShardId, Order)>),
        _: ActorRef<Self>,
    ) -> Result<Self, Contradiction> {
        solo.send(orders);
        Ok(solo)
    }
}

impl Message<ReportMail> for Solo {
    type Reply = ();

    async fn handle(&mut self, mail: ReportMail, _: &mut Context<Self, ()>) {
        let ReportMail(shard, reports) = mail;
        let mut orders = Vec::new();
        for report in &reports {
            match self.activation.report(shard, report, &mut orders) {
                None => {}
                Some(Ok(_)) => drop(self.news.send(News::Leading)),
                Some(Err(error)) => drop(self.news.send(News::Failed(error.into()))),
            }
        }
        self.send(orders);
    }
}
