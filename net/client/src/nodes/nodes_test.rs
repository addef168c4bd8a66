//! Where requests go, decision by decision.

use super::*;

struct Table {
    nodes: Nodes,
    now: Instant,
}

impl Table {
    fn of(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        Self { nodes: Nodes::new(addresses, 7), now: Instant::now() }
    }

    /// The choice for a request that must reach the leader; time goes on until it may be sent.
    fn leader(&mut self) -> Choice {
        let choice = self.nodes.choose(self.now, Place::Leader);
        self.now = self.now.max(choice.at);
        choice
    }

    fn any(&mut self, attempt: u32) -> String {
        let choice = self.nodes.choose(self.now, Place::Any(attempt));
        self.name(choice)
    }

    fn name(&self, choice: Choice) -> String {
        self.nodes.address(choice.node).expect("known").trim_end_matches(":7440").to_owned()
    }

    fn asks(&mut self) -> String {
        let choice = self.leader();
        self.name(choice)
    }

    fn refuses(&mut self, hint: Option<&str>) {
        let choice = self.leader();
        self.nodes.does_not_lead(self.now, choice, hint);
    }
}

#[test]
fn the_first_address_is_asked_until_another_node_answers_as_leader() {
    let mut table = Table::of(&["a:7440", "b:7440"]);
    assert_eq!(table.asks(), "a");
    table.refuses(None);
    let choice = table.leader();
    assert_eq!(table.name(choice), "b");
    table.nodes.leads(choice);
    table.now += Duration::from_secs(60);
    assert_eq!(table.asks(), "b", "remembered");
}

#[test]
fn a_hint_is_followed_at_once_and_remembered() {
    let mut table = Table::of(&["a:7440"]);
    let before = table.now;
    table.refuses(Some("c"));
    let choice = table.leader();
    assert_eq!((table.name(choice).as_str(), table.now), ("c", before));
    table.nodes.leads(choice);
    table.now += Duration::from_secs(60);
    assert_eq!(table.asks(), "c");
    for nonsense in ["", "c:0", "http://c", "a b", &"c".repeat(300)] {
        table.refuses(Some(nonsense));
    }
    assert_eq!(table.nodes.ids().len(), 2);
}

#[test]
fn a_hint_comes_before_the_order_of_the_url() {
    let mut table = Table::of(&["a:7440", "b:7440", "c:7440"]);
    table.refuses(Some("c"));
    assert_eq!(table.asks(), "c");
}

#[test]
fn a_search_that_has_ended_does_not_slow_down_the_next_one() {
    let mut table = Table::of(&["a:7440"]);
    (0..10).for_each(|_| table.refuses(None));
    let choice = table.leader();
    table.nodes.leads(choice);
    table.refuses(None);
    assert!(table.leader().at <= choice.at + SEARCH_FIRST);
}

#[test]
fn what_is_heard_late_changes_nothing() {
    let mut table = Table::of(&["a:7440", "b:7440", "c:7440"]);
    let old = table.leader();
    table.refuses(Some("b"));
    let choice = table.leader();
    table.nodes.leads(choice);
    table.nodes.does_not_lead(table.now, old, Some("c"));
    assert_eq!(table.asks(), "b", "a pointed at c before b answered");
    table.nodes.leads(old);
    assert_eq!(table.asks(), "b", "a's last answer as a leader came late");
}

#[test]
fn two_nodes_that_point_at_each_other_are_asked_a_few_times_a_second() {
    let mut table = Table::of(&["a:7440", "b:7440"]);
    let begin = table.now;
    let mut asked = 0;
    while table.now < begin + Duration::from_secs(10) {
        let other = if table.asks() == "a" { "b" } else { "a" };
        table.refuses(Some(other));
        asked += 1;
    }
    assert!((50..200).contains(&asked), "{asked} times in ten seconds");
}

#[test]
fn a_node_that_points_at_itself_or_at_nobody_is_left_for_the_next_one() {
    for hint in [Some("a"), None] {
        let mut table = Table::of(&["a:7440", "b:7440", "c:7440"]);
        table.refuses(hint);
        assert_eq!(table.asks(), "b");
        table.refuses(None);
        assert_eq!(table.asks(), "c");
    }
}

#[test]
fn requests_refused_at_the_same_time_count_once() {
    let mut table = Table::of(&["a:7440"]);
    let choice = table.leader();
    for _ in 0..1000 {
        table.nodes.does_not_lead(table.now, choice, None);
        table.nodes.down(table.now, choice.node, Duration::ZERO);
    }
    assert!(table.leader().at <= choice.at + SEARCH_FIRST.max(DOWN_FIRST));
}

#[test]
fn a_node_that_is_down_is_passed_over_and_tried_again() {
    let mut table = Table::of(&["a:7440", "b:7440"]);
    let a = table.leader();
    table.nodes.down(table.now, a.node, Duration::from_secs(2));
    assert!(table.nodes.is_down(table.now, a.node));
    // The other one still believes in it.
    table.refuses(Some("a"));
    let mut asked_b = 0;
    while table.asks() == "b" {
        table.refuses(Some("a"));
        asked_b += 1;
    }
    assert!(asked_b > 3, "meanwhile the one that answers is asked");
    assert!(table.now >= a.at + Duration::from_secs(2), "as long as it cost last time");
    table.nodes.up(a.node);
    assert!(!table.nodes.is_down(table.now, a.node));
}

#[test]
fn alone_it_is_tried_soon_however_long_it_takes() {
    let mut table = Table::of(&["a:7440"]);
    let a = table.leader();
    table.nodes.down(table.now, a.node, Duration::from_secs(2));
    assert!(table.leader().at <= a.at + DOWN_FIRST);
}

#[test]
fn any_node_means_one_that_does_not_lead_in_rotation_and_every_second_time_the_leader() {
    let mut table = Table::of(&["a:7440", "b:7440", "c:7440"]);
    let mut seen: Vec<String> = (0..4).map(|_| table.any(0)).collect();
    seen.sort();
    assert_eq!(seen, ["b", "b", "c", "c"]);
    assert_eq!(table.any(1), "a");
    let choices: Vec<Choice> =
        (0..2).map(|_| table.nodes.choose(table.now, Place::Any(0))).collect();
    table.nodes.is_behind(table.now, choices[0], Duration::from_secs(1));
    let left = table.name(choices[1]);
    assert_eq!([table.any(0), table.any(0)], [left.clone(), left]);
    table.nodes.down(table.now, choices[1].node, Duration::from_secs(1));
    assert_eq!(table.any(0), "a", "nobody else is left");
    table.now += Duration::from_secs(1);
    assert_ne!(table.any(0), "a");
}

#[test]
fn addresses_are_bounded_and_those_of_the_url_stay() {
    let mut table = Table::of(&["a:7440", "b:7440"]);
    for made_up in 0..1000 {
        table.refuses(Some(&format!("x{made_up}")));
        assert!(table.nodes.ids().len() <= NODES_MAX);
    }
    let known: Vec<_> = table.nodes.ids();
    let names: Vec<_> = known.iter().filter_map(|id| table.nodes.address(*id)).collect();
    assert!(names.contains(&"a:7440") && names.contains(&"b:7440"));
}
