//! One of a pair: the election and the replicator, joined with the shards that they order about.

use std::sync::Arc;

use celeriant_net::link::Link;
use celeriant_schema::Epoch;
use celeriant_schema::peer::Tip;
use celeriant_storage::bucket::Bucket;
use kameo::actor::{ActorRef, Recipient, Spawn};
use kameo::mailbox;
use tokio::sync::oneshot;

use super::Ground;
use super::worker::{AbortOnDrop, watch};
use crate::election::register::{Member, Seal};
use crate::election::vocabulary::{
    Command, Event, Identity, Local, May, Refused, RoleName, Status,
};
use crate::election::{self, Board, CommandMail, ElectionMail, Elector, Keeper, Reply};
use crate::replicator::bucket::BucketLog;
use crate::replicator::core::{Identity as Own, Settings as ReplicatorSettings};
use crate::replicator::orders::{OrderMail, ReportMail};
use crate::replicator::{self, Replicator};
use crate::standing::Standing;

/// What a node is made of besides, when it is one of a pair.
pub struct Pair<L, B> {
    /// Its own entry of the register.
    pub member: Member,
    /// To the other one.
    pub link: L,
    /// Handles of the bucket: for the register, and for the logs.
    pub buckets: (B, B),
    /// The bucket logs.
    pub log: Box<dyn BucketLog>,
    /// The node's superblock.
    pub keeper: Box<dyn Keeper>,
    /// What it says: highest promised epoch, and highest that was ever seen in the register.
    pub epochs: (Epoch, Epoch),
    /// What the node may do that no member asked it for.
    pub may: May,
    /// Of the register.
    pub seal: Seal,
    /// Times of the election.
    pub election: election::Settings,
    /// Bounds and times of the replicator.
    pub replicator: ReplicatorSettings,
    /// Random.
    pub seed: u64,
}

/// A node's way to its election.
#[derive(Clone)]
pub struct Cluster {
    mail: Recipient<ElectionMail>,
    commands: Recipient<CommandMail>,
    board: Board,
    member: Arc<Member>,
    tips: Arc<[Tip]>,
}

impl Cluster {
    /// What the node is doing. `None` while it begins.
    pub fn status(&self) -> Option<Status> {
        self.board.status()
    }

    /// Gives an operator's order and waits for what comes of it.
    ///
    /// # Errors
    /// Why it is not carried out.
    pub async fn command(&self, command: Command) -> Result<(), Refused> {
        let (reply, outcome) = oneshot::channel();
        // Who asked may be gone.
        self.order(command, Box::new(|result| drop(reply.send(result))));
        outcome.await.unwrap_or(Err(Refused::CalledOff("the node has stopped")))
    }

    /// Gives an operator's order; the reply is called when it has come to an end.
    pub fn order(&self, command: Command, reply: Reply) {
        let _ = self.commands.tell(CommandMail { command, reply }).try_send();
    }

    /// This node's own entry of the register.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Where the shards' logs ended when the node started.
    pub fn tips(&self) -> &[Tip] {
        &self.tips
    }

    /// Waits until the node does what is `wanted`.
    pub async fn wait_for(&self, wanted: impl Fn(&Status) -> bool) {
        self.board.wait_for(wanted).await;
    }

    /// The process is about to end: hands over if possible, claims no more. Returns when it takes
    /// no further part.
    pub(super) async fn shut_down(&self) {
        let _ = self.mail.tell(ElectionMail(vec![Event::ShuttingDown])).try_send();
        self.wait_for(|status| status.role == RoleName::Stopped).await;
    }
}

/// What the root needs of a pair, whatever its seams are.
pub(super) struct Joined {
    pub(super) orderer: Recipient<ReportMail>,
    pub(super) standing: Arc<Standing>,
    pub(super) cluster: Cluster,
    pub(super) actors: [AbortOnDrop; 2],
}

/// A pair's parts, whatever the types of its seams.
pub struct AnyPair(Box<dyn Join>);

impl<L: Link, B: Bucket> From<Pair<L, B>> for AnyPair {
    fn from(pair: Pair<L, B>) -> Self {
        Self(Box::new(pair))
    }
}

impl AnyPair {
    /// Runs both actors. Shards hear of them by the recipient that comes back.
    pub(super) fn join(
        self,
        ground: &Ground,
        shards: Arc<[Recipient<OrderMail>]>,
        tips: Vec<Tip>,
    ) -> Joined {
        self.0.join(ground, shards, tips)
    }
}

trait Join: Send {
    fn join(
        self: Box<Self>,
        ground: &Ground,
        shards: Arc<[Recipient<OrderMail>]>,
        tips: Vec<Tip>,
    ) -> Joined;
}

impl<L: Link, B: Bucket> Join for Pair<L, B> {
    fn join(
        self: Box<Self>,
        ground: &Ground,
        shards: Arc<[Recipient<OrderMail>]>,
        tips: Vec<Tip>,
    ) -> Joined {
        let standing = Arc::new(Standing::new(shards.len() as u16));
        let board = Board::default();
        let replicator = Replicator::<L, B>::prepare_with_mailbox(mailbox::unbounded());
        let elector = Elector::<B>::prepare_with_mailbox(mailbox::unbounded());
        let orders: ActorRef<Replicator<L, B>> = replicator.actor_ref().clone();
        let facts: ActorRef<Elector<B>> = elector.actor_ref().clone();
        let own = Own { store: self.member.store, boot: ground.boot, shards: shards.len() as u16 };
        let ends = tips.clone().into();
        let local =
            Local { promised: self.epochs.0, max_epoch_seen: self.epochs.1, tips, may: self.may };
        let member = Arc::new(self.member.clone());
        let me = Identity { cluster: ground.cluster, boot: ground.boot, member: self.member };
        let now = ground.clock.now();
        let core = election::Core::new(self.election, self.seal, me, local, self.seed, now);
        let (register, logs) = self.buckets;
        let election = election::Args {
            core,
            bucket: register,
            keeper: self.keeper,
            replicator: orders.clone().recipient(),
            clock: Arc::clone(&ground.clock),
            standing: Arc::clone(&standing),
            board: board.clone(),
        };
        let replication = replicator::Args {
            identity: own,
            promised: self.epochs.0,
            settings: self.replicator,
            shards,
            election: facts.clone().recipient(),
            link: self.link,
            bucket: logs,
            log: self.log,
            clock: Arc::clone(&ground.clock),
            standing: Arc::clone(&standing),
        };
        let actors = [
            watch(&ground.news, "replicator".into(), replicator, replication),
            watch(&ground.news, "election".into(), elector, election),
        ];
        let (mail, commands) = (facts.clone().recipient(), facts.recipient());
        let cluster = Cluster { mail, commands, board, member, tips: ends };
        Joined { orderer: orders.recipient(), standing, cluster, actors }
    }
}
