//! Events and notices of a page as text, in pieces: a page is never there twice as a whole.

use celeriant_schema::{
    AggregateKey, BatchHeader, Event, FeedPage, Page, ReadBatch, ReadEvent, Refusal, Retention,
    Stamp,
};
use serde_json::Value;

use crate::json::{self, EventShape};

/// A piece of text is at least this large, if there is more: one write to the socket each.
pub(super) const PIECE_BYTES: usize = 32 << 10;

/// An event that is still to be told, or a notice.
pub(super) struct Told {
    /// Whose it is.
    pub(super) key: AggregateKey,
    header: BatchHeader,
    what: What,
}

enum What {
    Event(ReadEvent),
    Notice(Retention),
}

impl Told {
    /// The events of a page of one aggregate, in the order of reading.
    pub(super) fn of_page(key: &AggregateKey, page: Page, backwards: bool) -> Vec<Self> {
        let mut told = Vec::new();
        for ReadBatch { header, mut events } in page.batches {
            if backwards {
                events.reverse();
            }
            let events = events.into_iter();
            told.extend(events.map(|event| Self::new(key, &header, event)));
        }
        told
    }

    /// The events and notices of a page of a feed.
    pub(super) fn of_feed(page: FeedPage) -> Vec<Self> {
        let mut told = Vec::new();
        for batch in page.batches {
            let (key, header) = (batch.key, batch.batch.header);
            if let Some(notice) = batch.notice {
                told.push(Self { key, header, what: What::Notice(notice.what) });
                continue;
            }
            let events = batch.batch.events.into_iter();
            told.extend(events.map(|event| Self::new(&key, &header, event)));
        }
        told
    }

    fn new(key: &AggregateKey, header: &BatchHeader, event: ReadEvent) -> Self {
        Self { key: key.clone(), header: header.clone(), what: What::Event(event) }
    }

    /// What it is, as a stream of events names it.
    pub(super) fn name(&self) -> &'static str {
        match self.what {
            What::Event(_) => "append",
            What::Notice(Retention::Delete { .. }) => "deleted",
            What::Notice(Retention::Trim { .. }) => "trimmed",
        }
    }

    /// Whether it says that something was deleted or trimmed.
    pub(super) fn is_notice(&self) -> bool {
        matches!(self.what, What::Notice(_))
    }

    /// Its stamp.
    pub(super) fn stamp(&self) -> Stamp {
        let What::Event(event) = &self.what else { return self.header.stamp };
        let ahead = event.version.value().saturating_sub(self.header.first_version.value());
        Stamp::new(self.header.stamp.value().saturating_add(ahead))
    }

    /// One line of JSON, without a line break.
    pub(super) fn to_json(&self, raw: bool) -> Result<String, Refusal> {
        let read = match &self.what {
            What::Event(event) => event,
            What::Notice(retention) => {
                return Ok(json::notice(self.key.as_str(), &self.header, *retention).to_string());
            }
        };
        let internal = |error: &dyn std::fmt::Display| {
            tracing::error!(key = %self.key, version = %read.version, %error, "not an event");
            Refusal::Internal { id: read.version.value() }
        };
        let event = Event::decode(&read.body).map_err(|error| internal(&error))?;
        let shape = EventShape {
            key: self.key.as_str(),
            version: read.version,
            stamp: self.stamp(),
            hash: read.hash,
            client_id: self.header.client_id,
            sequence: self.header.sequence,
            server_time: self.header.server_time,
            event: &event,
            raw,
        };
        json::event(&shape).map_err(|error| internal(&error))
    }
}

/// An object that is not empty, with a list of `events` as its last field, `name`.
pub(super) fn with_events(
    object: &Value,
    name: &str,
    events: &[Told],
    raw: bool,
) -> Result<String, Refusal> {
    with_lists(object, &[(name, events)], raw)
}

/// The same with several lists, each with its name.
pub(super) fn with_lists(
    object: &Value,
    lists: &[(&str, &[Told])],
    raw: bool,
) -> Result<String, Refusal> {
    let mut text = object.to_string();
    text.pop();
    for (name, events) in lists {
        text.push_str(&format!(",\"{name}\":["));
        for (at, event) in events.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&event.to_json(raw)?);
        }
        text.push(']');
    }
    text.push('}');
    Ok(text)
}
