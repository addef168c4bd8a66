//! Feeds whose pages follow one another without being asked for.

use celeriant_schema::limits::FEED_ANSWER_BYTES;
use celeriant_schema::{
    BatchHeader, BootId, ClientId, ContentType, Epoch, Event, FeedBatch, FeedPage, FeedQuery,
    ReadBatch, ReadEvent, WriteId,
};

use super::*;

/// Stamps that there are, of small batches.
const STAMPS: u64 = 9;

/// The next batch behind the query's stamp, if there is one; its payload is
/// the types that are asked for.
pub(super) fn page(query: &FeedQuery) -> FeedPage {
    let after = query.after.unwrap_or_default().value();
    let stamp = Stamp::new(after + 1);
    let header = BatchHeader {
        first_version: Version::new(1),
        last_version: Version::new(1),
        client_id: ClientId::NONE,
        sequence: None,
        server_time: 0,
        stamp,
        write_id: WriteId { epoch: Epoch::new(1), boot: BootId::new(1), counter: 1 },
    };
    let hash = celeriant_schema::Hash::ZERO;
    // Each type that is asked for stands for so many bytes.
    let payload = Bytes::from(query.types.concat());
    let mut body = Vec::new();
    let event = Event::plain(String::from("T"), ContentType::Bytes, payload);
    event.encode_into(&mut body).expect("valid");
    let events = vec![ReadEvent { version: Version::new(1), hash, body: body.into() }];
    let batch = FeedBatch { key: key(), batch: ReadBatch { header, events }, notice: None };
    match after < STAMPS || !query.types.is_empty() {
        true => FeedPage { batches: vec![batch], upto: stamp, head: stamp },
        false => FeedPage { batches: Vec::new(), upto: Stamp::new(after), head: stamp },
    }
}

fn feed(after: u64, more: u16) -> FeedQuery {
    let selector = "acme".parse().expect("valid");
    FeedQuery { selector, after: Some(Stamp::new(after)), wait_ms: 1_000, more, ..<_>::default() }
}

/// Where the pages of an answer end, until no more come.
async fn uptos(peer: &mut Peer<DuplexStream>, query: FeedQuery) -> Vec<u64> {
    let mut bytes = BytesMut::new();
    put(&mut bytes, 7, &Request::Feed(query));
    peer.send(&bytes).await;
    let mut uptos = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(1), peer.response()).await {
            Ok((7, Response::Feed(page))) => uptos.push(page.upto.value()),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return uptos,
        }
    }
}

/// A client whose pipe holds so many bytes.
async fn connected(bytes: usize) -> (Fake, Peer<DuplexStream>, Shutdown) {
    let (service, shutdown) = (Fake::default(), Shutdown::new());
    let (near, far) = duplex(bytes);
    tokio::spawn(serve(far, service.clone(), Rights::all(), Arc::default(), shutdown.stop()));
    (service, Peer::new(near).welcomed().await, shutdown)
}

#[tokio::test(start_paused = true)]
async fn pages_follow_without_being_asked_for_until_the_last() {
    let (service, mut peer, _shutdown) = connected(1 << 16).await;
    assert_eq!(uptos(&mut peer, feed(0, 0)).await, [1], "one is one");
    assert_eq!(uptos(&mut peer, feed(0, 3)).await, [1, 2, 3, 4]);
    assert_eq!(uptos(&mut peer, feed(7, 100)).await, [8, 9, 9], "an empty one is the last");
    // Nothing is left of them: the same id is good again, and every page was one request.
    assert_eq!(uptos(&mut peer, feed(2, 1)).await, [3, 4]);
    assert_eq!(service.batches().len(), 1 + 4 + 3 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gets_no_more_than_is_on_its_way() {
    let (service, mut peer, _shutdown) = connected(1 << 10).await;
    let large = FeedQuery { types: vec![Bytes::from(vec![b'T'; 64]); 64], ..feed(0, 1_000) };
    let mut bytes = BytesMut::new();
    put(&mut bytes, 7, &Request::Feed(large.clone()));
    peer.send(&bytes).await;
    let pages = || service.batches().iter().sum::<usize>();
    // Each a little more than 4 KiB.
    let full = OUTPUT_BYTES_SOFT / (64 * 64);
    until_async(|| pages() >= full / 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pages() <= full + 1, "{} pages", pages());

    let mut input = BytesMut::new();
    let (mut taken, mut frames) = (0, 0);
    while taken < FEED_ANSWER_BYTES {
        let Some(frame) = wire::split_frame(&mut input, 1 << 24).expect("small") else {
            peer.stream.read_buf(&mut input).await.expect("open");
            continue;
        };
        (taken, frames) = (taken + frame.len(), frames + 1);
    }
    assert_eq!(pages(), frames, "the page that makes it large is the last");
    assert_eq!(uptos(&mut peer, feed(8, 9)).await, [9, 9], "and the next answer is the next");
}
