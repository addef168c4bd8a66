//! `cluster recover`: the bucket is lost for good, and the nodes use a new one.
//!
//! Refused unless both stores are there, or the operator names the one that is given up: only who
//! sees both logs knows which has everything.

use celeriant_actors::admin::Order;
use serde_json::{Value, json};

use super::super::args::Global;
use super::super::failure::Failure;
use super::super::output::Output;
use super::{ask, order, warn};

/// What a node says of itself that matters here.
struct Node {
    url: String,
    store: String,
    /// Highest epoch that it has promised or seen.
    seen: u64,
    /// Epoch and lsn of each shard's end.
    log: Vec<(u64, u64)>,
}

impl Node {
    fn of(url: String, status: &Value) -> Result<Self, Failure> {
        let refuse = |why: &str| Err(Failure::usage(format!("{url}: {why}")));
        match &status["lost"] {
            Value::Bool(true) => {}
            Value::Bool(false) => return refuse("it does not miss a register: nothing to recover"),
            _ => return refuse("it is not one of a pair, or starts just now"),
        }
        let log = serde_json::from_value(status["started_with"].clone());
        let store = status["store"].as_str().map(str::to_owned);
        let (Ok(log), Some(store), Some(seen)) = (log, store, status["seen"].as_u64()) else {
            return refuse("it does not say where its log ends");
        };
        Ok(Self { url, store, seen, log })
    }

    /// Its log has everything that the other's has: terms first, as their leaders wrote them.
    fn covers(&self, other: &Self) -> bool {
        self.log.len() == other.log.len()
            && self.log.iter().zip(&other.log).all(|(own, other)| own >= other)
    }
}

pub(super) async fn run(
    global: &Global,
    output: &Output,
    give_up: Option<&str>,
) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    for address in global.url.trim_start_matches("celeriant://").split(',') {
        let url = format!("celeriant://{address}");
        match ask(global, &url).await {
            Ok(status) => nodes.push(Node::of(url, &status)?),
            Err(failure) => warn(&format!("{address}: {failure}")),
        }
    }
    let chosen = choose(&nodes, give_up)?;
    let above = nodes.iter().map(|node| node.seen).max().unwrap_or_default();
    let (url, store) = (&chosen.url, &chosen.store);
    warn(&format!("store {store} makes the register of this cluster anew, from its log"));
    if let Some(lost) = give_up {
        warn(&format!(
            "store {lost} is given up: WHATEVER ONLY IT OR THE LOST BUCKET HELD IS GONE, \
             acknowledged or not; if it ever comes back it must not be started as it is"
        ));
    }
    order(global, url, &Order::Recover { above }).await?;
    output.json(&json!({"done": true, "store": store}))
}

/// Whose log the cluster goes on with.
fn choose<'a>(nodes: &'a [Node], give_up: Option<&str>) -> Result<&'a Node, Failure> {
    match (nodes, give_up) {
        ([], _) => Err(Failure::Node("no node could be reached".into())),
        ([one], Some(lost)) if one.store != lost => Ok(one),
        ([_], Some(_)) => Err(Failure::usage("--give-up: that is the node that is there")),
        ([_], None) => Err(Failure::usage(
            "only one of two stores is there: name both nodes in --url, or the store that is given \
             up with --give-up",
        )),
        (nodes, Some(_)) if nodes.len() > 1 => {
            Err(Failure::usage("--give-up: both stores are there, nothing need be given up"))
        }
        ([one, other], None) if one.covers(other) => Ok(one),
        ([one, other], None) if other.covers(one) => Ok(other),
        _ => Err(Failure::usage(
            "each log has something that the other lacks: look at both with `celeriant inspect`, \
             then recover with one of them alone and give the other up",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(store: &str, log: &[(u64, u64)]) -> Node {
        Node { url: String::new(), store: store.into(), seen: 9, log: log.to_vec() }
    }

    #[test]
    fn the_log_that_has_everything_is_chosen_and_nothing_is_given_up_unsaid() {
        let (short, long) = (node("a", &[(3, 9), (2, 5)]), node("b", &[(4, 7), (2, 5)]));
        let other = node("c", &[(3, 10), (2, 4)]);
        let chosen =
            |nodes: &[Node], give_up| choose(nodes, give_up).ok().map(|node| node.store.clone());
        assert_eq!(chosen(&[short, long], None).as_deref(), Some("b"));
        let (short, long) = (node("a", &[(3, 9), (2, 5)]), node("b", &[(4, 7), (2, 5)]));
        assert_eq!(chosen(&[long, short], Some("a")), None, "both are there");
        let short = node("a", &[(3, 9), (2, 5)]);
        assert_eq!(chosen(&[short, other], None), None, "each has something");
        let one = [node("a", &[(3, 9)])];
        assert_eq!(chosen(&one, None), None);
        assert_eq!(chosen(&one, Some("a")), None);
        assert_eq!(chosen(&one, Some("b")).as_deref(), Some("a"));
        assert_eq!(chosen(&[], Some("b")), None);
    }
}
