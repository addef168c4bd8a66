//! Tests of events and their canonical bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fuzzing;
use crate::limits::{METADATA_ENTRIES_MAX, METADATA_VALUE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::samples::{self, damage, full_event, hex, plain_event};

fn encode(event: &Event) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    event.encode_into(&mut out).map(|()| out)
}

fn field(refusal: Refusal) -> String {
    match refusal {
        Refusal::InvalidArgument { field, .. } => field,
        Refusal::TooLarge { what, .. } => what,
        other => panic!("{other}"),
    }
}

proptest! {
    #[test]
    fn an_event_survives_its_bytes(event in samples::event()) {
        let bytes = Bytes::from(encode(&event).expect("valid"));
        prop_assert_eq!(bytes.len(), event.encoded_len());
        prop_assert_eq!(Event::decode(&bytes), Ok(event));
    }

    #[test]
    fn a_batch_gives_its_events_in_order(events in vec(samples::event(), 0..6)) {
        let batch = EncodedEvents::encode(&events).expect("valid");
        prop_assert_eq!(batch.len(), events.len());
        for (body, event) in batch.iter().zip(&events) {
            prop_assert_eq!(body.event_type(), &event.event_type);
            prop_assert_eq!(body.payload(), &event.payload);
            prop_assert_eq!(body.event_id(), event.event_id);
            prop_assert_eq!([body.head(), body.payload()].concat(), body.whole());
        }
        let large = events.iter().map(|e| e.payload.len()).filter(|len| *len > 2048).sum::<usize>();
        prop_assert_eq!(batch.large_bytes(), large);
        let again = EncodedEvents::decode(batch.as_bytes().clone(), batch.len() as u32);
        prop_assert_eq!(again, Ok(batch));
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(data in vec(any::<u8>(), 0..200)) {
        fuzzing::event(&data);
    }
}

#[test]
fn damaged_events_are_decoded_or_refused() {
    damage(&encode(&full_event()).expect("valid"), fuzzing::event);
    let two = [encode(&full_event()), encode(&plain_event("Paid", b"42"))];
    damage(&two.map(|bytes| bytes.expect("valid")).concat(), fuzzing::event);
}

#[test]
fn the_bytes_of_an_event_never_change() {
    assert_eq!(hex(&encode(&plain_event("Paid", b"42")).expect("valid")), GOLDEN_PLAIN);
    assert_eq!(hex(&encode(&full_event()).expect("valid")), GOLDEN_FULL);
}

const GOLDEN_PLAIN: &str = "1e0000000100040001000200008098281765060002000000506169643432";
const GOLDEN_FULL: &str = concat!(
    "5d0000000103060201000200008098281765060002000000100f0e0d0c0b0a09",
    "0807060504030201506c6163656404030075736572616e6e0500006361757365",
    "026b315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a7b7d",
);

#[test]
fn what_is_not_allowed_is_refused_and_leaves_nothing_behind() {
    let with_metadata = |metadata: Vec<(String, String)>| Event { metadata, ..full_event() };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let many = (0..=METADATA_ENTRIES_MAX).map(|n| (n.to_string(), String::new())).collect();
    let long_value = "v".repeat(METADATA_VALUE_BYTES_MAX + 1);
    let envelope = |key_id: &str| Some(Envelope { key_id: key_id.into(), nonce: [0; 24] });
    let cases = [
        (plain_event("", b""), "event_type"),
        (plain_event(&"t".repeat(65), b""), "event_type"),
        (plain_event("a\nb", b""), "event_type"),
        (plain_event("a\u{85}b", b""), "event_type"),
        (plain_event("T", &vec![0; PAYLOAD_BYTES_MAX + 1]), "payload"),
        (with_metadata(many), "metadata"),
        (with_metadata(vec![pair("", "v")]), "metadata key"),
        (with_metadata(vec![pair("k\t", "v")]), "metadata key"),
        (with_metadata(vec![pair("k", "1"), pair("k", "2")]), "metadata key"),
        (with_metadata(vec![pair(&"k".repeat(65), "v")]), "metadata key"),
        (with_metadata(vec![pair("k", &long_value)]), "metadata value"),
        (Event { envelope: envelope(""), ..full_event() }, "envelope"),
        (Event { envelope: envelope(&"k".repeat(129)), ..full_event() }, "envelope"),
    ];
    for (event, expected) in cases {
        let mut out = vec![1, 2, 3];
        let refusal = event.encode_into(&mut out).expect_err(expected);
        assert_eq!(field(refusal), expected);
        assert_eq!(out, [1, 2, 3], "{expected}");
        let refusal = EncodedEvents::encode(&[full_event(), event]).expect_err(expected);
        assert_eq!(field(refusal), format!("events[1].{expected}"));
    }
}

#[test]
fn the_limits_themselves_are_allowed() {
    let event = Event {
        event_type: "é".repeat(32),
        payload: vec![7; PAYLOAD_BYTES_MAX].into(),
        metadata: vec![("k".repeat(64), "v".repeat(METADATA_VALUE_BYTES_MAX))],
        ..full_event()
    };
    assert_eq!(encode(&event).map(|bytes| Event::decode(&bytes.into())), Ok(Ok(event)));
}

#[test]
fn a_batch_is_refused_when_its_count_and_its_bytes_disagree() {
    let batch = EncodedEvents::encode(&[full_event(), full_event()]).expect("valid");
    for count in [0, 1, 3, u32::MAX] {
        assert!(EncodedEvents::decode(batch.as_bytes().clone(), count).is_err(), "{count}");
    }
}

#[test]
fn decoding_shares_memory_with_the_input() {
    let bytes = Bytes::from(encode(&plain_event("Paid", b"42")).expect("valid"));
    let event = Event::decode(&bytes).expect("valid");
    assert_eq!(event.payload.as_ptr(), bytes[bytes.len() - 2..].as_ptr());
}
