//! A thread for an actor that may take its time without disturbing shards, election or replicator.

use kameo::actor::{PreparedActor, Spawn};
use kameo::mailbox;
use tokio::sync::{mpsc, oneshot};

use super::worker::{AbortOnDrop, News, watch};
use super::{Error, Placement};
use crate::keys::Keys;
use crate::schemas::Registrar;
use crate::trail::Trail;

/// Those who take operators' orders, before they run.
pub(super) struct Asides {
    pub(super) registrar: PreparedActor<Registrar>,
    pub(super) keys: PreparedActor<Keys>,
    pub(super) trail: PreparedActor<Trail>,
}

impl Asides {
    pub(super) fn prepare() -> Self {
        Self {
            registrar: Registrar::prepare_with_mailbox(mailbox::unbounded()),
            keys: Keys::prepare_with_mailbox(mailbox::unbounded()),
            trail: Trail::prepare_with_mailbox(mailbox::unbounded()),
        }
    }
}

/// An actor beside the others; ends with this.
pub(super) enum Aside {
    Here {
        _task: AbortOnDrop,
    },
    /// The thread waits for this to be dropped.
    Thread {
        _end: oneshot::Sender<()>,
    },
}

impl Aside {
    /// Runs an actor; its end is the node's end and is reported.
    pub(super) fn run<A: kameo::Actor<Args = A>>(
        placement: Placement,
        news: &mpsc::UnboundedSender<News>,
        name: &str,
        prepared: PreparedActor<A>,
        actor: A,
    ) -> Result<Self, Error> {
        if placement == Placement::Here {
            return Ok(Self::Here { _task: watch(news, name.into(), prepared, actor) });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Error::Thread)?;
        let (end, ended) = oneshot::channel::<()>();
        let (news, name) = (news.clone(), name.to_owned());
        std::thread::Builder::new()
            .name(format!("celeriant-{name}"))
            .spawn(move || {
                runtime.block_on(async move {
                    let _actor = watch(&news, name, prepared, actor);
                    // Nothing is ever sent.
                    let _ = ended.await;
                });
            })
            .map_err(Error::Thread)?;
        Ok(Self::Thread { _end: end })
    }
}
