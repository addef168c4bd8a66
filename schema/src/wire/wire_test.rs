//! Tests of the wire.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::api_key::{ApiKey, ApiKeyId, SECRET_BYTES};
use crate::credential::TOKEN_PREFIX;
use crate::event::EncodedEvents;
use crate::fuzzing;
use crate::hash::Hash;
use crate::ids::{ClientId, Sequence, Stamp, Version};
use crate::limits::{HELLO_BYTES_MAX, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, WRITE_MEMBERS_MAX};
use crate::request::{Guard, ListQuery, Member, Write};
use crate::response::{AggregateReceipt, Receipt};
use crate::samples::{self, damage, hex, plain_event, sample_key, sample_write};

fn encoded(request: &Request) -> BytesMut {
    let mut out = BytesMut::new();
    encode_request(9, 250, request, &mut out).expect("valid");
    out
}

fn framed(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    encode(&mut out);
    let frame = split_frame(&mut out, RESPONSE_BYTES_MAX).expect("small").expect("whole");
    assert!(out.is_empty());
    frame
}

fn refused(request: &Request) -> Refusal {
    let mut out = BytesMut::new();
    let refusal = encode_request(9, 0, request, &mut out).expect_err("refused");
    assert!(out.is_empty(), "a refused request leaves nothing behind");
    refusal
}

proptest! {
    #[test]
    fn a_request_survives_the_wire(
        request in samples::request(),
        id in 1..u64::MAX,
        deadline_ms: u32,
    ) {
        let frame = framed(|out| {
            encode_request(id, deadline_ms, &request, out).expect("valid");
        });
        prop_assert_eq!(decode_inbound(frame), Ok(Inbound::Request { id, deadline_ms, request }));
    }

    #[test]
    fn an_answer_survives_the_wire(response in samples::response(), id in 1..u64::MAX) {
        let frame = framed(|out| encode_response(id, &response, out));
        prop_assert_eq!(decode_outbound(frame), Ok(Outbound::Response { id, response }));
    }

    #[test]
    fn every_refusal_survives_the_wire(refusal in samples::refusal()) {
        let frame = framed(|out| encode_refused(0, &refusal, out));
        prop_assert_eq!(decode_outbound(frame), Ok(Outbound::Refused(refusal)));
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(data in vec(any::<u8>(), 0..300), kind: u8) {
        fuzzing::wire(&data);
        // The same with an intact header, so that more of it is looked at.
        let mut frame = vec![kind, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&data);
        fuzzing::wire(&frame);
    }

    #[test]
    fn damaged_messages_are_decoded_or_refused(
        request in samples::request(),
        response in samples::response(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let answer = framed(|out| encode_response(9, &response, out));
        for valid in [encoded(&request).split_off(FRAME_LENGTH_BYTES), answer.into()] {
            let mut damaged = valid;
            for (at, byte) in &damages {
                let at = at.index(damaged.len());
                damaged[at] = *byte;
            }
            fuzzing::wire(&damaged);
        }
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_frames(
        requests in vec(samples::request(), 1..4),
        cuts in vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(encoded).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let (mut input, mut frames, mut from) = (BytesMut::new(), Vec::new(), 0);
        for cut in cuts {
            input.extend_from_slice(&stream[from..cut]);
            from = cut;
            while let Some(frame) = split_frame(&mut input, REQUEST_BYTES_MAX).expect("small") {
                frames.push(frame);
            }
        }
        prop_assert!(input.is_empty());
        let expected: Vec<_> = requests
            .iter()
            .map(|request| encoded(request).split_off(FRAME_LENGTH_BYTES).freeze())
            .collect();
        prop_assert_eq!(frames, expected);
    }
}

#[test]
fn every_truncation_and_every_flipped_byte_is_decoded_or_refused() {
    damage(&encoded(&Request::Write(sample_write())), fuzzing::wire);
    damage(&encoded(&Request::Write(sample_write()))[FRAME_LENGTH_BYTES..], fuzzing::wire);
    damage(&framed(|out| encode_hello(&sample_hello(), out)), fuzzing::wire);
    damage(&framed(|out| encode_welcome(&sample_welcome(), out)), fuzzing::wire);
    damage(&framed(|out| encode_response(1, &sample_receipt(), out)), fuzzing::wire);
}

#[test]
fn a_stream_split_at_every_byte_gives_the_same_frames() {
    let mut stream = BytesMut::new();
    encode_hello(&sample_hello(), &mut stream);
    encode_request(1, 0, &Request::Write(sample_write()), &mut stream).expect("valid");
    encode_ping(&mut stream);
    encode_goodbye(&mut stream);
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    for byte in stream {
        input.extend_from_slice(&[byte]);
        while let Some(frame) = split_frame(&mut input, REQUEST_BYTES_MAX).expect("small") {
            messages.push(decode_inbound(frame).expect("valid"));
        }
    }
    let request = Request::Write(sample_write());
    let expected = [
        Inbound::Hello(sample_hello()),
        Inbound::Request { id: 1, deadline_ms: 0, request },
        Inbound::Ping,
        Inbound::Goodbye,
    ];
    assert_eq!(messages, expected);
}

#[test]
fn hello_welcome_and_pong_survive_the_wire() {
    let hello = framed(|out| encode_hello(&sample_hello(), out));
    assert_eq!(decode_inbound(hello), Ok(Inbound::Hello(sample_hello())));
    for hello in [hello_with_key(), hello_with_token()] {
        let frame = framed(|out| encode_hello(&hello, out));
        assert!(frame.len() <= HELLO_BYTES_MAX);
        assert_eq!(decode_inbound(frame), Ok(Inbound::Hello(hello)));
    }
    let welcome = framed(|out| encode_welcome(&sample_welcome(), out));
    assert_eq!(decode_outbound(welcome), Ok(Outbound::Welcome(sample_welcome())));
    assert_eq!(decode_outbound(framed(encode_pong)), Ok(Outbound::Pong));
}

#[test]
fn a_later_hello_may_say_more() {
    for hello in [sample_hello(), hello_with_key(), hello_with_token()] {
        let mut frame = framed(|out| encode_hello(&hello, out)).to_vec();
        if hello.api_key.is_none() {
            // No key, said.
            frame.extend_from_slice(&[0, 0]);
        }
        frame.extend_from_slice(b"news");
        assert_eq!(decode_inbound(frame.into()), Ok(Inbound::Hello(hello)));
    }
}

#[test]
fn what_is_neither_key_nor_token_ends_the_connection_and_is_not_repeated() {
    let long = format!("{TOKEN_PREFIX}secret{}", "x".repeat(TOKEN_BYTES_MAX));
    for shown in ["secret", "celeriant_token_secret!", &long] {
        let mut frame = framed(|out| encode_hello(&sample_hello(), out)).to_vec();
        frame.extend_from_slice(&(shown.len() as u16).to_le_bytes());
        frame.extend_from_slice(shown.as_bytes());
        let Err(Malformed::Frame(refusal)) = decode_inbound(frame.into()) else { panic!("a key?") };
        assert_eq!(refusal.code(), 1004, "as over HTTP");
        assert!(!refusal.to_string().contains("secret"), "{refusal}");
    }
}

#[test]
fn a_frame_that_is_too_large_is_known_from_its_first_four_bytes() {
    let mut input = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
    let error = TooLarge { bytes: 0x7fff_ffff, bytes_max: 1000 };
    assert_eq!(split_frame(&mut input, 1000), Err(error));
    let mut input = BytesMut::from(&[0xe8, 3, 0, 0][..]);
    assert_eq!(split_frame(&mut input, 1000), Ok(None), "1,000 bytes are allowed");
}

#[test]
fn a_broken_frame_ends_the_connection_and_a_broken_body_only_its_request() {
    let frame = |bytes: &[u8]| decode_inbound(Bytes::copy_from_slice(bytes));
    assert!(matches!(frame(&[]), Err(Malformed::Frame(_))));
    assert!(matches!(frame(&[kind::WRITE; 11]), Err(Malformed::Frame(_))));
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0] = kind::WRITE;
    assert!(matches!(frame(&header), Err(Malformed::Frame(_))), "a request has an id");
    header[4] = 5;
    assert!(matches!(frame(&header), Err(Malformed::Request { id: 5, .. })));
    header[0] = 0x77;
    assert!(matches!(frame(&header), Err(Malformed::Request { id: 5, .. })), "unknown kind");
    header[1] = 1;
    assert!(matches!(frame(&header), Err(Malformed::Frame(_))), "unknown flags");
    let mut hello = framed(|out| encode_hello(&sample_hello(), out)).to_vec();
    hello[FRAME_HEADER_BYTES] ^= 1;
    assert!(matches!(frame(&hello), Err(Malformed::Frame(_))), "another protocol");
}

#[test]
fn a_refusal_names_the_member_and_the_event() {
    let mut frame = encoded(&Request::Write(sample_write())).split_off(FRAME_LENGTH_BYTES);
    let name = frame.windows(4).position(|window| window == b"Seen").expect("there");
    frame[name] = b'\n';
    let Err(Malformed::Request { id: 9, refusal }) = decode_inbound(frame.freeze()) else {
        panic!("refused, with its id");
    };
    let Refusal::InvalidArgument { field, reason } = refusal else { panic!("{refusal}") };
    assert_eq!(field, "members[2].events[0].event_type");
    assert_eq!(reason, "has a control character");
}

#[test]
fn a_write_that_makes_no_sense_is_refused_on_both_sides() {
    let breaks: [fn(&mut Write); 11] = [
        |write| write.members.clear(),
        |write| write.members.iter_mut().for_each(|m| m.events = EncodedEvents::default()),
        |write| write.members[1].key = write.members[0].key.clone(),
        |write| write.members[0].sequence = None,
        |write| write.members[2].sequence = None,
        |write| write.members[1].sequence = Some(Sequence::new(1)),
        |write| write.members[0].sequence = Some(Sequence::new(0)),
        |write| write.members[0].sequence = Some(Sequence::new(1 << 53)),
        |write| write.members[0].guard = Guard::Exact(Version::new(1 << 53)),
        |write| write.client_id = ClientId::NONE,
        |write| write.members[1].key = "$system/schemas/acme".parse().expect("a key"),
    ];
    for (index, break_it) in breaks.into_iter().enumerate() {
        let mut write = sample_write();
        break_it(&mut write);
        // An encoder that does not check.
        let mut frame = BytesMut::new();
        put_frame(&mut frame, kind::WRITE, 9, |out| {
            out.put_u32_le(0);
            request::put_write(out, &write);
        });
        let decoded = decode_inbound(frame.split_off(FRAME_LENGTH_BYTES).freeze());
        let refused_by_server = matches!(decoded, Err(Malformed::Request { id: 9, .. }));
        // Sequence 0 is not even sayable: it reads as "none", which is refused beside others.
        assert!(refused_by_server, "{index}: {decoded:?}");
        assert_eq!(refused(&Request::Write(write)).code(), 1001, "{index}");
    }
}

#[test]
fn a_write_has_at_most_1024_members_each_named_once() {
    let events = EncodedEvents::encode(&[plain_event("T", b"")]).expect("valid");
    let member = |n: usize| Member {
        key: format!("a/b/{n}").parse().expect("valid"),
        guard: Guard::Any,
        sequence: None,
        events: events.clone(),
        retention: None,
    };
    let members = (0..WRITE_MEMBERS_MAX).map(member).collect();
    let mut write = Write { client_id: ClientId::NONE, members };
    let frame = encoded(&Request::Write(write.clone())).split_off(FRAME_LENGTH_BYTES).freeze();
    assert!(decode_inbound(frame).is_ok());
    write.members[1000] = member(3);
    assert_eq!(refused(&Request::Write(write.clone())).code(), 1001);
    write.members[1000] = member(1000);
    write.members.push(member(1024));
    assert_eq!(refused(&Request::Write(write)).code(), 1002);
}

#[test]
fn a_request_larger_than_the_limit_is_refused_before_it_is_copied() {
    let half = EncodedEvents::encode(&[plain_event("T", &vec![1; 7 << 20])]).expect("valid");
    let member = |key: &str| Member {
        key: key.parse().expect("valid"),
        guard: Guard::Any,
        sequence: None,
        events: half.clone(),
        retention: None,
    };
    let members = vec![member("a/b/1"), member("a/b/2")];
    let write = Write { client_id: ClientId::NONE, members };
    let expected = Refusal::TooLarge { what: "request".into(), limit: REQUEST_BYTES_MAX as u64 };
    assert_eq!(refused(&Request::Write(write)), expected);
}

#[test]
fn an_answer_that_no_client_would_take_becomes_a_refusal() {
    let event = EncodedEvents::encode(&[plain_event("T", &vec![1; 8 << 20])]).expect("valid");
    let body = event.as_bytes().clone();
    let read = crate::ReadEvent { version: Version::new(1), hash: Hash::ZERO, body };
    let header = crate::BatchHeader {
        first_version: Version::new(1),
        last_version: Version::new(2),
        client_id: ClientId::NONE,
        sequence: None,
        server_time: 0,
        stamp: Stamp::new(1),
        write_id: Default::default(),
    };
    let batch = crate::ReadBatch { header, events: vec![read.clone(), read] };
    let version = Version::new(2);
    let page = crate::Page { version, stamp: Stamp::new(2), batches: vec![batch], next: None };
    let frame = framed(|out| encode_response(3, &Response::Page(page), out));
    let Ok(Outbound::Response { id: 3, response: Response::Refused(refusal) }) =
        decode_outbound(frame)
    else {
        panic!("refused")
    };
    assert_eq!(refusal.code(), 1002);
}

#[test]
fn a_listing_of_types_needs_an_org() {
    let query = ListQuery {
        org: None,
        kind: Some("order".into()),
        prefix: String::new(),
        after: None,
        limit: 10,
    };
    assert_eq!(refused(&Request::List(query.clone())).code(), 1001);
    let valid = ListQuery { org: Some("acme".into()), ..query.clone() };
    assert!(encode_request(1, 0, &Request::List(valid.clone()), &mut BytesMut::new()).is_ok());
    assert_eq!(refused(&Request::List(ListQuery { limit: 0, ..valid })).code(), 1001);
}

#[test]
fn long_texts_in_refusals_are_cut_between_characters() {
    let reason = "é".repeat(TEXT_BYTES_MAX);
    let refusal = Refusal::InvalidArgument { field: "x".repeat(TEXT_BYTES_MAX - 1), reason };
    let frame = framed(|out| encode_refused(0, &refusal, out));
    let Ok(Outbound::Refused(Refusal::InvalidArgument { field, reason })) = decode_outbound(frame)
    else {
        panic!("a refusal");
    };
    assert_eq!((field.len(), reason), (TEXT_BYTES_MAX - 1, "é".repeat(TEXT_BYTES_MAX / 2)));
}

#[test]
fn decoding_a_write_shares_memory_with_its_frame() {
    let frame = framed(|out| {
        encode_request(1, 0, &Request::Write(sample_write()), out).expect("valid");
    });
    let range = frame.as_ptr_range();
    let Ok(Inbound::Request { request: Request::Write(write), .. }) = decode_inbound(frame) else {
        panic!("a write");
    };
    for member in &write.members {
        assert!(range.contains(&member.key.as_bytes().as_ptr()));
        assert!(member.events.is_empty() || range.contains(&member.events.as_bytes().as_ptr()));
    }
}

#[test]
fn the_bytes_on_the_wire_never_change() {
    let write = encoded(&Request::Write(sample_write()));
    assert_eq!(hex(&write), GOLDEN_WRITE);
    let mut out = BytesMut::new();
    encode_hello(&sample_hello(), &mut out);
    assert_eq!(hex(&out.split()), GOLDEN_HELLO);
    encode_hello(&hello_with_key(), &mut out);
    let with_key = hex(&out.split());
    assert_eq!(with_key[8..76], GOLDEN_HELLO[8..]);
    assert!(with_key[76..].starts_with("5f0063656c657269616e745f6b65795f"), "{with_key}");
    encode_hello(&hello_with_token(), &mut out);
    let with_token = hex(&out.split());
    assert_eq!(with_token[8..76], GOLDEN_HELLO[8..]);
    assert!(with_token[76..].starts_with("002063656c657269616e745f746f6b656e5f"));
    encode_welcome(&sample_welcome(), &mut out);
    assert_eq!(hex(&out.split()), GOLDEN_WELCOME);
    encode_response(9, &sample_receipt(), &mut out);
    assert_eq!(hex(&out.split()), GOLDEN_RECEIPT);
    encode_refused(9, &Refusal::NotFound { key: sample_key() }, &mut out);
    assert_eq!(hex(&out.split()), GOLDEN_NOT_FOUND);
}

const GOLDEN_WRITE: &str = concat!(
    "35010000100000000900000000000000fa0000001ec100000000000000000000",
    "0000000003000f00030007000000000000000300000000000000020000007b00",
    "000061636d652f6f726465722f343832315d0000000103060201000200008098",
    "281765060002000000100f0e0d0c0b0a090807060504030201506c6163656404",
    "030075736572616e6e0500006361757365026b315a5a5a5a5a5a5a5a5a5a5a5a",
    "5a5a5a5a5a5a5a5a5a5a5a5a7b7d1e0000000100040001000200008098281765",
    "0600020000005061696434320c00020000000000000000000000000000000000",
    "000000000000000061636d652f6c696d69742f310d0001000000000000000000",
    "0100000000000000010000001c00000061636d652f757365722f616e6e1c0000",
    "0001000400010002000080982817650600000000005365656e",
);
const GOLDEN_HELLO: &str =
    concat!("2200000001000000000000000000000043454c45524e540a0100020008007465", "737420312e30",);
const GOLDEN_WELCOME: &str = concat!(
    "3000000081000000000000000000000001000800c10000000000000000000000",
    "00000000000010004000000006006e6f64652d61",
);
const GOLDEN_RECEIPT: &str = concat!(
    "580000009000000009000000000000004d000000000000000101000800000000",
    "0000000900000000000000ababababababababababababababababababababab",
    "ababababababababababab0f0061636d652f6f726465722f34383231",
);
const GOLDEN_NOT_FOUND: &str =
    concat!("1f000000ff0000000900000000000000d1070f0061636d652f6f726465722f34", "383231",);

fn sample_hello() -> Hello {
    let client_name = "test 1.0".into();
    Hello { min_protocol: 1, max_protocol: 2, client_name, api_key: None }
}

fn hello_with_key() -> Hello {
    let key = ApiKey::new(ApiKeyId::new(7), [0x5a; SECRET_BYTES]);
    Hello { api_key: Some(key.into()), ..sample_hello() }
}

fn hello_with_token() -> Hello {
    let token = format!("{TOKEN_PREFIX}{}", "x".repeat(TOKEN_BYTES_MAX - TOKEN_PREFIX.len()));
    Hello { api_key: Some(token.parse().expect("a token, from afar")), ..sample_hello() }
}

fn sample_welcome() -> Welcome {
    Welcome {
        protocol: 1,
        cluster_id: ClusterId::new(0xc1),
        node_id: "node-a".into(),
        shards: 8,
        request_bytes_max: 1 << 20,
        requests_max: 64,
    }
}

fn sample_receipt() -> Response {
    let write = AggregateReceipt {
        key: sample_key(),
        first_version: Version::new(8),
        last_version: Version::new(9),
        hash: Hash([0xab; 32]),
    };
    Response::Receipt(Receipt { stamp: Stamp::new(77), already_applied: true, writes: vec![write] })
}
