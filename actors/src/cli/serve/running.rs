//! A node that runs: until a signal ends it or it fails, with what can be exchanged meanwhile.

use std::time::{Duration, SystemTime};

use celeriant_actors::node::Node;
use celeriant_actors::settings::{LogFormat, Settings};
use celeriant_net::tls::Credentials;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::super::args::Server;
use super::super::failure::Failure;

/// Between looks at whether certificates were exchanged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between looks at how long the certificate is good.
const DAY: Duration = Duration::from_secs(86_400);
/// From then on its end is announced, daily.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// What this process is told from outside, from here on.
pub(in super::super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on they no longer end the process by themselves.
    pub(in super::super) fn catch() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is asked to end, or its terminal is gone.
    pub(in super::super) async fn end(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The log of this process, whose level can be changed.
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// From here on there is a log, on standard error.
    pub(super) fn to_stderr(settings: &Settings) -> Result<Self, Failure> {
        let (layer, filter) = reload::Layer::new(filter(settings)?);
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match settings.log_format {
            LogFormat::Text => lines.with_ansi(false).boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        tracing_subscriber::registry().with(layer).with(lines).init();
        Ok(Self { filter })
    }
}

fn filter(settings: &Settings) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(&settings.log)
        .map_err(|error| Failure::usage(format!("log = {:?}: {error}", settings.log)))
}

/// What can be exchanged while a node runs.
pub(super) struct Exchangeable {
    pub(super) log: Log,
    pub(super) credentials: Option<Credentials>,
    /// Where the configuration comes from, if it can have changed.
    pub(super) configured: Option<Server>,
}

impl Exchangeable {
    /// Everything is read again; what cannot be used stays as it was, and the log says why.
    fn reload(&self) {
        if let Some(credentials) = &self.credentials {
            match credentials.reload() {
                Ok(()) => tracing::info!("certificates are read again"),
                Err(error) => tracing::error!(%error, "certificates stay as they were"),
            }
        }
        let Some(server) = &self.configured else { return };
        let releveled = super::load(server).and_then(|loaded| {
            let relevel = self.log.filter.reload(filter(&loaded.settings)?);
            relevel.map_err(|error| Failure::usage(error.to_string()))?;
            Ok(loaded.settings.log)
        });
        match releveled {
            Ok(log) => tracing::info!(log, "the log's level is read again"),
            Err(error) => tracing::error!(%error, "the log's level stays as it was"),
        }
    }

    /// Says it when the node's own certificate is about to be worth nothing.
    fn look_at_the_end(&self) {
        let Some(credentials) = &self.credentials else { return };
        let left = credentials.current().good_for(SystemTime::now());
        if left < WARN_BEFORE {
            let days = left.as_secs() / 86_400;
            tracing::warn!(days, "this node's certificate is about to expire: make another");
        }
    }

    /// Certificates are read again if their files are other ones now.
    fn look(&self) {
        match self.credentials.as_ref().map(Credentials::reload_if_changed) {
            Some(Ok(true)) => tracing::info!("certificates were exchanged"),
            Some(Err(error)) => tracing::warn!(%error, "certificates stay as they were, for now"),
            Some(Ok(false)) | None => {}
        }
    }
}

/// Serves until a signal comes or the node fails.
pub(super) async fn serve(
    mut node: Node,
    mut signals: Signals,
    exchangeable: &Exchangeable,
) -> Result<(), Failure> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut daily = interval(DAY);
    loop {
        tokio::select! {
            biased;
            error = node.failed() => return Err(Failure::Node(error.to_string())),
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => exchangeable.reload(),
            _ = looks.tick() => exchangeable.look(),
            _ = daily.tick() => exchangeable.look_at_the_end(),
        }
    }
    tracing::info!("stopping");
    node.stop().await;
    Ok(())
}
