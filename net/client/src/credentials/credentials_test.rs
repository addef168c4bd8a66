//! What a caller notices when what its client shows is over: nothing, if there is something newer.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::*;
use crate::fake::{Fake, Fault, Role};
use crate::{AggregateKey, Client, Error, Event, Options};

fn key(id: &str) -> AggregateKey {
    AggregateKey::new("acme", "account", id).expect("valid")
}

fn event() -> Event {
    Event::json("Deposited", &serde_json::json!({ "amount": 10 })).expect("json")
}

fn token(number: u32) -> Credential {
    format!("celeriant_token_{number}").parse().expect("a token, from afar")
}

/// A backend that makes tokens.
#[derive(Clone, Debug, Default)]
struct Backend(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    newest: u32,
    asked: usize,
    is_gone: bool,
}

impl Backend {
    fn credentials(&self) -> Credentials {
        let state = Arc::clone(&self.0);
        Credentials::new(move || {
            let state = Arc::clone(&state);
            async move {
                let mut state = state.lock().expect("whole");
                state.asked += 1;
                match state.is_gone {
                    true => Err("the backend is gone"),
                    false => Ok(token(state.newest)),
                }
            }
        })
    }

    fn options(&self) -> Options {
        Options { credentials: Some(self.credentials()), ..Options::default() }
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().expect("whole"))
    }

    fn asked(&self) -> usize {
        self.with(|state| state.asked)
    }

    /// The token that was newest is over, for these nodes, and there is the next one.
    fn renew(&self, nodes: &[Fake]) {
        let newest = self.with(|state| {
            state.newest += 1;
            state.newest
        });
        for node in nodes {
            node.lock().takes = Some(token(newest));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_is_asked_anew_and_the_caller_does_not_notice() {
    let (fake, backend) = (Fake::start(), Backend::default());
    fake.lock().takes = Some(token(0));
    let client = fake.client_with(backend.options()).await;
    for round in 1..=3 {
        client.append(&key("a"), [event()]).await.expect("the token counts");
        assert_eq!((backend.asked(), fake.lock().hellos), (round, round));
        backend.renew(std::slice::from_ref(&fake));
        let receipt = client.append(&key("a"), [event()]).await.expect("nobody notices");
        assert!(!receipt.already_applied, "what was refused was not done");
        assert_eq!((backend.asked(), fake.lock().hellos), (round + 1, round + 1));
    }
    assert_eq!(fake.lock().writes.len(), 6, "each landed once");
    assert_eq!(client.head(&key("a")).await.expect("it counts").version.value(), 6);
}

#[tokio::test(start_paused = true)]
async fn many_who_are_refused_at_once_ask_for_one_token() {
    let (fake, backend) = (Fake::start(), Backend::default());
    let client = fake.client_with(backend.options()).await;
    client.ping().await.expect("it counts");
    backend.renew(std::slice::from_ref(&fake));
    let mut calls = JoinSet::new();
    for id in 0..200 {
        let client = client.clone();
        calls.spawn(async move { client.append(&key(&id.to_string()), [event()]).await });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic").expect("nobody notices");
    }
    assert_eq!((backend.asked(), fake.lock().hellos), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_ends_on_the_connection_that_it_came_over() {
    let (fake, backend) = (Fake::start(), Backend::default());
    let client = fake.client_with(backend.options()).await;
    fake.faults([Fault::AnswerLate(Duration::from_secs(1))]);
    let late = tokio::spawn(client.append(&key("a"), [event()]).send());
    while fake.lock().writes.is_empty() {
        tokio::task::yield_now().await;
    }
    backend.renew(std::slice::from_ref(&fake));
    client.head(&key("b")).await.expect("nobody notices");
    assert_eq!(fake.lock().hellos, 2);
    let receipt = late.await.expect("no panic").expect("it was taken when the token counted");
    assert!(!receipt.already_applied);
    assert_eq!(fake.lock().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_is_asked_anew_for_each_node() {
    let nodes = Fake::pair();
    let backend = Backend::default();
    let [a, b] = &nodes;
    let url = format!("celeriant://{},{}", a.address, b.address);
    let client = a.net.connect(&url, backend.options()).await.expect("both are up");
    client.append(&key("a"), [event()]).await.expect("the leader takes it");
    client.read(&key("a")).any().page().await.expect("the follower takes it");
    assert_eq!((a.lock().hellos, b.lock().hellos), (1, 1));
    backend.renew(&nodes);
    client.append(&key("a"), [event()]).await.expect("nobody notices");
    a.follows(b);
    b.role(Role::Leads);
    client.append(&key("a"), [event()]).await.expect("nobody notices");
    assert_eq!((a.lock().hellos, b.lock().hellos, backend.asked()), (2, 2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_behind_or_gone_is_waited_for() {
    for is_gone in [false, true] {
        let (fake, backend) = (Fake::start(), Backend::default());
        let client = fake.client_with(backend.options()).await;
        backend.with(|state| state.is_gone = is_gone);
        fake.lock().takes = Some(token(1));
        let call = tokio::spawn(client.append(&key("a"), [event()]).send());
        while backend.asked() < 4 {
            assert!(!call.is_finished(), "it still may");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        backend.with(|state| *state = State { newest: 1, ..State::default() });
        call.await.expect("no panic").expect("as if nothing had been");

        // And when there is no time left, it is said why.
        backend.with(|state| state.is_gone = is_gone);
        fake.lock().takes = Some(token(2));
        let begin = Instant::now();
        let error = client.append(&key("a"), [event()]).await.expect_err("there is nothing newer");
        assert!(begin.elapsed() <= Options::default().timeout);
        assert!(error.is_definite(), "nothing was done: {error:?}");
        match (is_gone, &error) {
            (false, Error::Unauthenticated { .. }) => {}
            (true, Error::Connect { reason, .. }) => {
                assert_eq!(reason, "credentials: the backend is gone");
            }
            _ => panic!("{error:?}"),
        }
        assert_eq!(fake.lock().writes.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_changes_is_shown_once_and_its_end_is_told_at_once() {
    let fake = Fake::start();
    fake.lock().takes = Some(token(0));
    let options = Options { api_key: Some(token(0)), ..Options::default() };
    let client = fake.client_with(options).await;
    fake.lock().takes = Some(token(1));
    let begin = Instant::now();
    let error = client.append(&key("a"), [event()]).await.expect_err("it is over");
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    assert_eq!((begin.elapsed(), fake.lock().hellos), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_asked_instead_of_a_key_that_is_also_given() {
    let (fake, backend) = (Fake::start(), Backend::default());
    fake.lock().takes = Some(token(0));
    let options = Options { api_key: Some(token(9)), ..backend.options() };
    fake.client_with(options).await.ping().await.expect("the source's counts");
    assert_eq!(backend.asked(), 1);
}

#[test]
fn nothing_of_it_is_shown_in_a_log() {
    let credentials = Credentials::from(token(12_345));
    assert_eq!(format!("{credentials:?}"), "Credentials");
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Client>();
    shared::<Credentials>();
}
