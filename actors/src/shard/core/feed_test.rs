//! What a shard tells watches: everything, in order, and nothing that may yet change.

use std::sync::Arc;

use celeriant_schema::{FeedBatch, Guard, Receipt, Response, Selector, ShardId, Stamp, TxnId};

use super::retention_test::{DELETE, taking};
use super::rig::{Rig, member, write};
use crate::work::{Decision, FeedAsk, FeedNews, FeedPart, Mode, Part, Step, Work};

const TXN: TxnId = TxnId {
    epoch: celeriant_schema::Epoch::new(1),
    boot: celeriant_schema::BootId::new(1),
    counter: 99,
};

fn step(step: Step) -> Vec<Work<u32>> {
    vec![Work::Step(step)]
}

fn append(rig: &mut Rig, id: &str) -> Receipt {
    match rig.ask(write(vec![member(id, Guard::Any, 1)])) {
        Response::Receipt(receipt) => receipt,
        other => panic!("{other:?}"),
    }
}

/// A leg for `id` is committed; nobody has decided.
fn leg(rig: &mut Rig, id: &str) -> Decision {
    let decision = Decision::default();
    let members = vec![member(id, Guard::Any, 1)];
    let (client_id, write_hash) = Default::default();
    let part = Arc::new(Part { client_id, write_hash, members });
    let (mode, participants) = (Mode::Try, [ShardId::new(0), ShardId::new(1)].into());
    rig.send(step(Step::Reserve { txn: TXN, coordinator: 0, mode, part }));
    rig.send(step(Step::Append { txn: TXN, participants, decision: decision.clone() }));
    rig.flush();
    decision
}

fn ids<'b>(batches: impl IntoIterator<Item = &'b FeedBatch>) -> Vec<String> {
    batches.into_iter().map(|batch| batch.key.id().to_owned()).collect()
}

/// What was told since last asked, and up to where.
fn told(rig: &mut Rig) -> (Vec<String>, Stamp) {
    rig.flush();
    let (mut all, mut highest) = (Vec::new(), Stamp::ZERO);
    for news in std::mem::take(&mut rig.news) {
        match news {
            FeedNews::Told { batches, upto } => {
                all.extend(ids(&*batches));
                assert!(upto >= highest, "it never goes back");
                highest = upto;
            }
            FeedNews::Listening { upto } => highest = upto,
            other => panic!("{other:?}"),
        }
    }
    (all, highest)
}

fn ask(rig: &mut Rig, after: Stamp, selector: &str) -> FeedPart {
    rig.flush();
    rig.news.clear();
    let selector: Selector = selector.parse().expect("valid");
    let types = Arc::from([]);
    let ask = FeedAsk { number: 7, watch: 0, selector, types, after, bytes: 64 << 10 };
    rig.send(step(Step::Feed { ask, look: None }));
    rig.flush();
    let parts = std::mem::take(&mut rig.news).into_iter().filter_map(|news| match news {
        FeedNews::Part { number: 7, part } => Some(part),
        _ => None,
    });
    let mut parts: Vec<FeedPart> = parts.collect();
    assert_eq!(parts.len(), 1, "one answer to one ask");
    parts.remove(0)
}

#[test]
fn who_listens_is_told_everything_from_then_on_once() {
    let mut rig = Rig::new();
    append(&mut rig, "before");
    rig.send(step(Step::Listen { watch: 0 }));
    let (batches, from) = told(&mut rig);
    assert!(batches.is_empty());
    let receipt = append(&mut rig, "a");
    assert!(receipt.stamp > from);
    assert_eq!(told(&mut rig), (vec!["a".to_owned()], receipt.stamp));
    append(&mut rig, "b");
    append(&mut rig, "c");
    assert_eq!(told(&mut rig).0, ["b", "c"]);
    rig.send(step(Step::Unlisten { watch: 0 }));
    append(&mut rig, "d");
    assert_eq!(told(&mut rig).0, Vec::<String>::new());
}

#[test]
fn nothing_behind_an_undecided_leg_is_told_and_then_all_of_it_in_order() {
    for listens_first in [true, false] {
        let mut rig = Rig::new();
        let before = append(&mut rig, "before");
        if listens_first {
            rig.send(step(Step::Listen { watch: 0 }));
        }
        let decision = leg(&mut rig, "leg");
        let later = append(&mut rig, "later");
        if !listens_first {
            // What it waits for is committed already: it must be told all the same.
            rig.send(step(Step::Listen { watch: 0 }));
        }
        let (batches, upto) = told(&mut rig);
        assert_eq!(batches, Vec::<String>::new(), "listens first: {listens_first}");
        assert!(upto < later.stamp);
        let part = ask(&mut rig, before.stamp, "*");
        assert_eq!((ids(&part.batches), part.upto < later.stamp), (vec![], true));
        decision.decide();
        rig.send(step(Step::Settle { txn: TXN }));
        let (batches, upto) = told(&mut rig);
        assert_eq!(batches, ["leg", "later"], "listens first: {listens_first}");
        assert!(upto >= later.stamp);
        let part = ask(&mut rig, before.stamp, "*");
        assert_eq!(ids(&part.batches), ["leg", "later"]);
    }
}

#[test]
fn a_leg_that_was_given_up_is_told_to_nobody() {
    let mut rig = Rig::new();
    leg(&mut rig, "leg");
    let mut rig = rig.restarted();
    append(&mut rig, "later");
    let part = ask(&mut rig, Stamp::ZERO, "*");
    assert_eq!(ids(&part.batches), ["later"]);
}

#[test]
fn the_log_is_read_piece_by_piece_from_any_stamp_for_any_selector() {
    let mut rig = Rig::new();
    let receipts: Vec<Receipt> =
        (0..40).map(|n| append(&mut rig, if n % 4 == 0 { "few" } else { "many" })).collect();
    let mut rig = rig.restarted();
    let last = receipts[39].stamp;
    for (selector, count) in [("*", 40), ("acme", 40), ("acme/account/few", 10), ("other", 0)] {
        let (mut after, mut seen) = (Stamp::ZERO, 0);
        while after < last {
            let part = ask(&mut rig, after, selector);
            assert!(part.upto > after, "it gets on");
            seen += part.batches.len();
            after = part.upto;
        }
        assert_eq!(seen, count, "{selector}");
    }
    let part = ask(&mut rig, receipts[38].stamp, "*");
    assert_eq!(part.batches.len(), 1);
}

/// How often a feed of `selector` must look to be through the log, and what it sees.
fn looks(rig: &mut Rig, selector: &str, last: Stamp) -> (usize, Vec<String>) {
    let (mut after, mut seen, mut looks) = (Stamp::ZERO, Vec::new(), 0);
    while after < last {
        let part = ask(rig, after, selector);
        assert!(part.upto > after, "it gets on");
        seen.extend(ids(&part.batches));
        (after, looks) = (part.upto, looks + 1);
    }
    (looks, seen)
}

#[test]
fn a_feed_of_few_aggregates_leaves_out_what_lies_between() {
    let mut rig = Rig::new();
    append(&mut rig, "few");
    let between = |rig: &mut Rig| {
        for number in 0..400 {
            append(rig, &format!("other-{number}"));
        }
    };
    between(&mut rig);
    append(&mut rig, "few");
    between(&mut rig);
    // What is in memory, and what is on disk only.
    for restarts in [false, true] {
        if restarts {
            rig = rig.restarted();
        }
        let last = append(&mut rig, "other-1").stamp;
        let (all, seen) = looks(&mut rig, "*", last);
        assert!(all > 40 && seen.len() >= 803, "{all}");
        let (some, seen) = looks(&mut rig, "acme/account/few", last);
        assert_eq!((some, seen.len()), (3, 2));
        let both = "acme/account/few\nacme/account/other-7";
        let (some, seen) = looks(&mut rig, both, last);
        assert!(some <= 8 && seen.len() == 4, "{some}");
        assert_eq!(looks(&mut rig, "acme/account/none", last), (1, vec![]));
    }
}

#[test]
fn a_feed_that_leaves_things_out_is_told_of_deletes_and_trims() {
    let mut rig = Rig::new();
    append(&mut rig, "few");
    for number in 0..200 {
        append(&mut rig, &format!("other-{number}"));
    }
    let gone = rig.ask(write(vec![taking("few", Guard::Any, DELETE)]));
    assert!(matches!(gone, Response::Receipt(_)), "{gone:?}");
    for number in 0..200 {
        append(&mut rig, &format!("other-{number}"));
    }
    let last = append(&mut rig, "other-1").stamp;
    let (_, seen) = looks(&mut rig, "acme/account/few", last);
    assert_eq!(seen, ["few"], "its delete");
}

#[test]
fn whoever_is_held_up_is_told_how_far_the_shard_is() {
    let mut rig = Rig::new();
    rig.send(step(Step::Listen { watch: 0 }));
    told(&mut rig);
    rig.send(step(Step::Nudge));
    rig.flush();
    assert!(matches!(&rig.news[..], [FeedNews::Told { batches, .. }] if batches.is_empty()));
}

#[test]
fn what_is_still_read_for_who_listens_no_more_is_for_nobody() {
    let mut rig = Rig::new();
    let decision = leg(&mut rig, "leg");
    // More than is read at a time.
    let later: Vec<String> = (0..300).map(|number| format!("later-{number}")).collect();
    later.iter().for_each(|id| drop(append(&mut rig, id)));
    for begins in
        [Step::Listen { watch: 0 }, Step::Unlisten { watch: 0 }, Step::Listen { watch: 1 }]
    {
        // Nothing has been read yet.
        rig.send(step(begins));
    }
    assert_eq!(told(&mut rig).0, Vec::<String>::new());
    decision.decide();
    rig.send(step(Step::Settle { txn: TXN }));
    let (batches, _) = told(&mut rig);
    assert_eq!((&batches[0], &batches[1..]), (&"leg".to_owned(), &later[..]));
}

#[test]
fn a_shard_that_stops_leading_tells_its_listeners_that_they_lost_the_thread() {
    use crate::replicator::orders::Order;
    let mut rig = Rig::paired();
    rig.send(step(Step::Listen { watch: 0 }));
    rig.flush();
    rig.news.clear();
    rig.order(Order::StepDown);
    assert!(matches!(rig.news[..], [FeedNews::Lost]));
}
