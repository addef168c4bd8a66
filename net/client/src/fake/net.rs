//! A network in memory: addresses, and pipes to what is there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::duplex;
use tokio::task::JoinSet;

use super::Script;
use super::serve::serve;
use crate::link::{Dial, Dialing, Pipe};
use crate::{Client, Error, Options};

/// Bytes under way in one direction of one connection.
const PIPE_BYTES: usize = 64 << 10;

/// What meets whoever dials an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    Accepts,
    Refuses,
    /// Nothing comes back, ever.
    Vanished,
}

#[derive(Debug)]
struct Site {
    script: Arc<Mutex<Script>>,
    reach: Reach,
    connections: JoinSet<()>,
}

/// All addresses. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    sites: Arc<Mutex<BTreeMap<String, Site>>>,
    /// Every address that was dialled.
    dialled: Arc<Mutex<Vec<String>>>,
}

impl Net {
    pub(crate) async fn connect(&self, url: &str, options: Options) -> Result<Client, Error> {
        self.connect_seeded(0, url, options).await
    }

    pub(crate) async fn connect_seeded(
        &self,
        seed: u64,
        url: &str,
        options: Options,
    ) -> Result<Client, Error> {
        Client::connect_over(Arc::new(self.clone()), seed, url, options).await
    }

    pub(crate) fn dialled(&self) -> Vec<String> {
        self.dialled.lock().expect("not poisoned").clone()
    }

    pub(super) fn add(&self, address: &str, script: Arc<Mutex<Script>>) {
        let site = Site { script, reach: Reach::Accepts, connections: JoinSet::new() };
        self.sites.lock().expect("not poisoned").insert(address.to_owned(), site);
    }

    /// Breaks all connections to an address.
    pub(super) fn set(&self, address: &str, reach: Reach) {
        let mut sites = self.sites.lock().expect("not poisoned");
        let site = sites.get_mut(address).expect("a node");
        site.reach = reach;
        site.connections = JoinSet::new();
    }
}

impl Dial for Net {
    fn dial<'a>(&'a self, address: &'a str) -> Dialing<'a> {
        Box::pin(async move {
            self.dialled.lock().expect("not poisoned").push(address.to_owned());
            let vanished = {
                let mut sites = self.sites.lock().expect("not poisoned");
                match sites.get_mut(address) {
                    Some(site) if site.reach == Reach::Accepts => {
                        let (ours, theirs) = duplex(PIPE_BYTES);
                        site.connections.spawn(serve(theirs, Arc::clone(&site.script)));
                        return Ok(Box::new(ours) as Box<dyn Pipe>);
                    }
                    Some(site) => site.reach == Reach::Vanished,
                    None => false,
                }
            };
            if vanished {
                std::future::pending::<()>().await;
            }
            Err(io::ErrorKind::ConnectionRefused.into())
        })
    }

    fn is_private(&self, _: &str) -> bool {
        true
    }
}
