//! Beginning to lead, report by report.

use celeriant_schema::WriteId;
use celeriant_schema::peer::Tip;

use super::*;
use crate::settlement::Trace::{Leg, Nothing, Resolved};

const BOOT: BootId = BootId::new(9);

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

fn shard(number: u16) -> ShardId {
    ShardId::new(number)
}

fn txn(counter: u64) -> TxnId {
    WriteId { counter, ..WriteId::default() }
}

/// Three shards, and what they were ordered to do.
struct Rig {
    activation: Activation,
    orders: Orders,
}

impl Rig {
    fn new() -> Self {
        let mut orders = Orders::new();
        let activation = Activation::new(epoch(4), BOOT, 3, &mut orders);
        assert_eq!(orders.len(), 3);
        assert!(orders.iter().all(|(_, order)| *order == Order::Survey { epoch: epoch(4) }));
        orders.clear();
        Self { activation, orders }
    }

    fn report(&mut self, from: u16, report: Report) -> Option<Result<Done, Contradiction>> {
        self.activation.report(shard(from), &report, &mut self.orders)
    }

    fn surveyed(&mut self, from: u16, pending: &[(u64, &[u16])]) {
        let participants = |shards: &[u16]| shards.iter().copied().map(shard).collect();
        let pending = pending.iter().map(|(id, shards)| (txn(*id), participants(shards))).collect();
        let report = Report::Surveyed { epoch: epoch(4), tip: Tip::default(), pending };
        assert_eq!(self.report(from, report), None);
    }

    fn decisions(&self) -> Vec<(u64, bool)> {
        let (_, Order::Lead(lead)) = &self.orders[0] else { panic!("{:?}", self.orders) };
        assert_eq!((lead.epoch, lead.boot, self.orders.len()), (epoch(4), BOOT, 3));
        lead.decisions.iter().map(|(txn, commit)| (txn.counter, *commit)).collect()
    }
}

#[test]
fn without_undecided_writes_shards_lead_once_all_are_surveyed() {
    let mut rig = Rig::new();
    rig.surveyed(0, &[]);
    rig.surveyed(2, &[]);
    assert!(rig.orders.is_empty() && !rig.activation.has_ordered());
    rig.surveyed(1, &[]);
    assert!(rig.decisions().is_empty() && rig.activation.has_ordered());
    assert_eq!(rig.report(0, Report::Leading { epoch: epoch(4) }), None);
    // A further epoch of the same leadership says as much.
    assert_eq!(rig.report(1, Report::Leading { epoch: epoch(5) }), None);
    assert_eq!(rig.report(1, Report::Leading { epoch: epoch(4) }), None, "twice is once");
    let done = rig.report(2, Report::Leading { epoch: epoch(4) });
    let decisions = Arc::default();
    assert_eq!(done, Some(Ok(Done { epoch: epoch(4), decisions })));
}

#[test]
fn a_write_is_committed_if_all_legs_are_there_and_only_those_who_did_not_say_are_asked() {
    let mut rig = Rig::new();
    rig.surveyed(0, &[(1, &[0, 1]), (2, &[0, 2]), (3, &[0, 1])]);
    rig.surveyed(1, &[(1, &[0, 1])]);
    rig.surveyed(2, &[]);
    let asked: Vec<_> = std::mem::take(&mut rig.orders);
    let trace = |of, id| (shard(of), Order::Trace { txn: txn(id) });
    assert_eq!(asked, [trace(2, 2), trace(1, 3)]);
    assert_eq!(rig.report(2, Report::Traced { txn: txn(2), trace: Nothing }), None);
    assert_eq!(rig.report(1, Report::Traced { txn: txn(2), trace: Leg }), None, "not asked");
    assert!(rig.orders.is_empty());
    assert_eq!(rig.report(1, Report::Traced { txn: txn(3), trace: Resolved(false) }), None);
    assert_eq!(rig.decisions(), [(1, true), (2, false), (3, false)]);
}

#[test]
fn logs_that_contradict_each_other_are_not_led() {
    let mut rig = Rig::new();
    rig.surveyed(0, &[(1, &[0, 1, 2])]);
    rig.surveyed(1, &[]);
    rig.surveyed(2, &[]);
    rig.orders.clear();
    assert_eq!(rig.report(1, Report::Traced { txn: txn(1), trace: Resolved(true) }), None);
    let end = rig.report(2, Report::Traced { txn: txn(1), trace: Nothing });
    assert_eq!(end.expect("an end").expect_err("no lead").txn, txn(1));
    assert!(rig.orders.is_empty() && !rig.activation.has_ordered());
    assert_eq!(rig.report(0, Report::Leading { epoch: epoch(4) }), None);
}

#[test]
fn reports_of_another_epoch_count_for_nothing() {
    let mut rig = Rig::new();
    let of = |number| Report::Surveyed {
        epoch: epoch(number),
        tip: Tip::default(),
        pending: vec![(txn(1), vec![shard(0), shard(1)])],
    };
    for from in 0..3 {
        assert_eq!(rig.report(from, of(3)), None);
        assert_eq!(rig.report(from, of(5)), None);
        assert_eq!(rig.report(from, Report::Traced { txn: txn(1), trace: Leg }), None);
    }
    assert!(rig.orders.is_empty());
    (0..3).for_each(|from| rig.surveyed(from, &[]));
    assert!(rig.decisions().is_empty());
    assert_eq!(rig.report(0, Report::Leading { epoch: epoch(3) }), None);
    assert_eq!(rig.report(1, Report::Leading { epoch: epoch(4) }), None);
    assert_eq!(rig.report(2, Report::Leading { epoch: epoch(4) }), None, "the first did not");
}
