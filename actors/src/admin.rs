//! Operators' orders to a node, and what it says of itself: JSON, as `celeriant cluster` speaks it.
//!
//! ```text
//! {"order":"status"}                             this node's view, whatever its role
//! {"order":"schema","do":"register",…}           schemas: register, policy, list, show
//! {"order":"audit","do":"frames",…}              hashes of frames: a shard answers, see audit.rs
//! {"order":"compact"}                            what was deleted leaves the disk, see status
//! {"order":"key","do":"create",…}                API keys: create, list, revoke
//! {"order":"record"}                             what went wrong around it, as a scenario
//! {"order":"for","by":…,"what":{…}}              an order that the other node passes on, and whose
//! {"order":"hand-over"}                          the leader lets the other node lead
//! {"order":"replace","lost":…,"member":{…}}      the leader puts another store in its place
//! {"order":"recover","above":…}                  a node makes the register in a new bucket
//! ```
//! Who may ask is checked before (`celeriant_net::rights`). What changes something goes by the
//! [`crate::trail`].

use std::sync::Arc;

use celeriant_net::Rooms;
use celeriant_schema::peer::{Features, Tip};
use celeriant_schema::{BootId, Epoch, Refusal, Response, StoreId};
use kameo::actor::Recipient;
use kameo::error::SendError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::AuditOrder;
use crate::clock::Clock;
use crate::coordinator::ShardMail;
use crate::election::register::{Member, Set};
use crate::election::vocabulary::{Command, Distrust, Refused, RoleName, Status};
use crate::keys::KeyMail;
use crate::keys::order::KeyOrder;
use crate::node::pair::Cluster;
use crate::quotas::Meter;
use crate::route::Route;
use crate::schemas::SchemaMail;
use crate::schemas::order::SchemaOrder;
use crate::standing::Standing;
use crate::trail::TrailMail;
use crate::work::{Step, Work};

/// What an operator may order.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Say what the node is doing.
    Status,
    /// What was deleted or trimmed shall leave the disk now, and what is sealed be packed. Answered
    /// with a number and the process's `boot` at once; it is done when every shard's `compacted` in
    /// the status is as high. With another `boot` there it is not known to anybody: order it anew.
    Compact,
    /// Say what went wrong around the node, as a scenario of the simulator.
    Record,
    /// Something that an audit asks of a shard.
    Audit(AuditOrder),
    /// Something about schemas.
    Schema(SchemaOrder),
    /// Something about API keys.
    Key(KeyOrder),
    /// What somebody ordered at the other node.
    For {
        /// Who, as that node knows him.
        by: String,
        /// What.
        what: Box<Self>,
    },
    /// Let the other node lead.
    HandOver,
    /// A member is lost for good; another store takes its place.
    Replace {
        /// Which store, as a UUID.
        lost: String,
        /// What comes instead.
        member: Entry,
    },
    /// The bucket is lost; make the register in a new one, from this node's log.
    Recover {
        /// Above every epoch that any node has promised or seen.
        above: u64,
    },
}

/// A node's entry in the register.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its data directory, as a UUID.
    pub store: String,
    /// Its name.
    pub node_id: String,
    /// Host and port for clients.
    pub clients: String,
    /// Host and port for its peer.
    pub replication: String,
    /// Feature levels that it can read and write, lowest and highest.
    pub features: (u16, u16),
}

/// Takes orders.
pub struct Admin {
    /// This node's name.
    pub node_id: String,
    /// This process: numbers of its orders mean nothing to the next one.
    pub boot: BootId,
    /// The node's.
    pub standing: Arc<Standing>,
    /// The node's, if it is one of a pair.
    pub cluster: Option<Cluster>,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// The node's, all of them.
    pub shards: Arc<[Recipient<ShardMail>]>,
    /// Counts what the writers of orgs take.
    pub meter: Arc<Meter>,
    /// Has seats for orgs' connections and watchers.
    pub rooms: Rooms,
    /// Who knows of schemas.
    pub registrar: Recipient<SchemaMail>,
    /// Who knows of API keys.
    pub keys: Recipient<KeyMail>,
    /// Who notes orders.
    pub trail: Recipient<TrailMail>,
}

impl Order {
    /// Whether it only looks, or is for this node alone and changes nothing that anybody sees: then
    /// nobody notes it.
    fn only_looks(&self) -> bool {
        match self {
            Self::Status | Self::Record | Self::Audit(_) | Self::Compact => true,
            Self::Schema(SchemaOrder::List { .. } | SchemaOrder::Show { .. }) => true,
            Self::Schema(SchemaOrder::Register { dry_run, .. }) => *dry_run,
            Self::Key(KeyOrder::List) => true,
            Self::For { what, .. } => what.only_looks(),
            Self::Schema(SchemaOrder::Policy { .. })
            | Self::Key(KeyOrder::Create { .. } | KeyOrder::Revoke { .. })
            | Self::HandOver
            | Self::Replace { .. }
            | Self::Recover { .. } => false,
        }
    }
}

impl Admin {
    /// Carries out an order; the answer goes back when it has come to an end. `by`: who gives it;
    /// `None`: the node, of one that is noted already.
    pub(crate) fn take(&self, order: &[u8], by: Option<String>, route: Route) {
        let (order, by) = match (serde_json::from_slice(order), by) {
            (Err(error), _) => return refuse(route, Refusal::invalid("order", error)),
            (Ok(Order::For { by, what }), Some(through)) => {
                (*what, Some(format!("{by}, through {through}")))
            }
            (Ok(order), by) => (order, by),
        };
        let Some(by) = by.filter(|_| !order.only_looks()) else {
            return self.carry_out(order, route);
        };
        let mail = TrailMail { order, by, route };
        if let Err(SendError::ActorNotRunning(mail)) = self.trail.tell(mail).try_send() {
            refuse(mail.route, Refusal::NoLeader);
        }
    }

    fn carry_out(&self, order: Order, route: Route) {
        match (order, &self.cluster) {
            (Order::For { .. }, _) => {
                refuse(route, Refusal::invalid("order", "is passed on once, and not by the node"));
            }
            (Order::Schema(order), _) => {
                let mail = SchemaMail { order, route };
                if let Err(SendError::ActorNotRunning(mail)) = self.registrar.tell(mail).try_send()
                {
                    refuse(mail.route, Refusal::NoLeader);
                }
            }
            (Order::Audit(_), _) => refuse(route, Refusal::invalid("order", "is for a shard")),
            (Order::Key(order), _) => {
                let mail = KeyMail { order, route };
                if let Err(SendError::ActorNotRunning(mail)) = self.keys.tell(mail).try_send() {
                    refuse(mail.route, Refusal::NoLeader);
                }
            }
            (Order::Status, _) => route.report(Ok(self.status())),
            (Order::Compact, _) => route.report(Ok(self.compact())),
            (Order::Record, Some(_)) => {
                let scenario = self.standing.chronicle().scenario(self.clock.now());
                route.report(Ok(json!({"scenario": scenario})));
            }
            (_, None) => refuse(route, Refusal::invalid("order", "this node is not one of a pair")),
            (Order::HandOver, Some(cluster)) => self.order(cluster, Command::HandOver, route),
            (Order::Recover { above }, Some(cluster)) => {
                let above = Epoch::new(above);
                tracing::warn!(%above, "an operator orders to recover into a new bucket");
                self.order(cluster, Command::Recover { above }, route);
            }
            (Order::Replace { lost, member }, Some(cluster)) => match replace(&lost, member) {
                Ok(command) => self.order(cluster, command, route),
                Err(refusal) => refuse(route, refusal),
            },
        }
    }

    fn compact(&self) -> Value {
        let order = self.standing.next_compaction();
        for shard in self.shards.iter() {
            // A shard that has stopped takes the node with it.
            let mail = ShardMail(vec![Work::Step(Step::Compact { order })]);
            let _ = shard.tell(mail).try_send();
        }
        json!({"compaction": order, "boot": self.boot()})
    }

    /// As text: not every reader of JSON has numbers of 64 bits.
    fn boot(&self) -> String {
        format!("{:016x}", self.boot.value())
    }

    fn order(&self, cluster: &Cluster, command: Command, route: Route) {
        let standing = Arc::clone(&self.standing);
        let reply = move |result| match result {
            Ok(()) => route.report(Ok(json!({"done": true}))),
            Err(Refused::NotLeading) => refuse(route, standing.refusal()),
            Err(refused) => refuse(route, Refusal::invalid("order", refused)),
        };
        cluster.order(command, Box::new(reply));
    }

    /// What this node knows of itself, as one object.
    fn status(&self) -> Value {
        let compacted = self.standing.compacted();
        let positions = self.standing.positions().iter().zip(compacted).enumerate();
        let shards = positions.map(|(shard, (position, compacted))| {
            let (durable, commit, elsewhere) = position.get();
            let lag = durable.saturating_sub(elsewhere);
            let [compacted, erased_upto, reclaimed_bytes, erased_bytes] = compacted.get();
            json!({"shard": shard, "durable": durable, "commit": commit, "lag": lag,
                "compacted": compacted, "erased_upto": erased_upto,
                "reclaimed_bytes": reclaimed_bytes, "erased_bytes": erased_bytes})
        });
        let mut status = json!({
            "node_id": self.node_id,
            "boot": self.boot(),
            "role": "alone",
            "epoch": self.standing.epoch().value(),
            "over_quota": self.meter.refused(),
            "over_quota_reads": self.meter.refused_reads(),
            "over_quota_connections": self.rooms.connections.refused(),
            "over_quota_watchers": self.rooms.watchers.refused(),
            "compaction": self.standing.ordered_compaction(),
            "shards": shards.collect::<Vec<_>>(),
        });
        if let Some(cluster) = &self.cluster {
            let member = cluster.member();
            status["store"] = json!(member.store.to_string());
            status["member"] = json!(entry(member));
            status["role"] = json!("starting");
            let tip = |tip: &Tip| json!([tip.epoch.value(), tip.durable.lsn.value()]);
            status["started_with"] = json!(cluster.tips().iter().map(tip).collect::<Vec<_>>());
            if let Some(known) = cluster.status() {
                tell(&mut status, &known);
            }
        }
        status
    }
}

fn tell(status: &mut Value, known: &Status) {
    let Status { role, epoch, ver, set, seen, reason, distrust } = known;
    status["role"] = json!(match role {
        RoleName::Following => "follower",
        RoleName::Claiming => "claiming",
        RoleName::TakingOver => "taking over",
        RoleName::Leading => "leader",
        RoleName::Stopped => "stopped",
    });
    (status["epoch"], status["ver"]) = (json!(epoch.value()), json!(ver));
    status["in_sync"] = match set {
        None => json!([]),
        Some(Set::Pair(one, other)) => json!([one.to_string(), other.to_string()]),
        Some(Set::Bucket(one)) => json!([one.to_string(), "bucket"]),
    };
    status["reason"] = json!(reason.to_string());
    status["seen"] = json!(seen.value());
    status["lost"] = json!(matches!(distrust, Some(Distrust::Missing { .. })));
    status["distrust"] = json!(distrust.as_ref().map(ToString::to_string));
}

fn entry(member: &Member) -> Entry {
    Entry {
        store: member.store.to_string(),
        node_id: member.node.clone(),
        clients: member.clients.clone(),
        replication: member.replication.clone(),
        features: (member.features.min, member.features.max),
    }
}

fn replace(lost: &str, member: Entry) -> Result<Command, Refusal> {
    let store = |text: &str, field| -> Result<StoreId, Refusal> {
        text.parse().map_err(|_| Refusal::invalid(field, "must be a UUID"))
    };
    let features = Features { min: member.features.0, max: member.features.1 };
    Ok(Command::Replace {
        lost: store(lost, "lost")?,
        member: Member {
            store: store(&member.store, "member.store")?,
            node: member.node_id,
            clients: member.clients,
            replication: member.replication,
            features,
        },
    })
}

fn refuse(route: Route, refusal: Refusal) {
    route.answer(Response::Refused(refusal));
}

#[cfg(test)]
mod rights_test;
