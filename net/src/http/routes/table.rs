//! The table: what each operation takes, what it answers, how it may fail.

use super::{Answer, Kind, Operation, Parameter, Route, Verb};

const JSON: &str = "application/json";

const fn parameter(name: &'static str, kind: Kind, what: &'static str) -> Parameter {
    Parameter { name, kind, is_required: false, what }
}

const fn json(status: u16, schema: &'static str) -> Answer {
    Answer { status, media: JSON, schema }
}

const fn text(media: &'static str) -> Answer {
    Answer { status: 200, media, schema: "Text" }
}

const ANY: Parameter =
    parameter("any", Kind::Switch, "1: a follower may answer, with what it knows to be committed");
const MIN_STAMP: Parameter =
    parameter("min_stamp", Kind::Number, "Wait until everything up to this stamp is there");
const OF_CLIENT: Parameter = parameter("client_id", Kind::Text, "A client's UUID");
const TYPES: Parameter = parameter("types", Kind::Names, "Only events of these types");
const HEADERS_ONLY: Parameter =
    parameter("headers_only", Kind::Switch, "1: events without their payloads");
const RAW: Parameter = parameter("raw", Kind::Switch, "1: payloads as the very bytes, in base64");
const SELECTOR: Parameter = Parameter {
    name: "selector",
    kind: Kind::Text,
    is_required: true,
    what: "org/type/id, org/type, org, or *",
};
const PREFIX: Parameter = parameter("prefix", Kind::Text, "Only names that start with this");
const AFTER: Parameter = parameter("after", Kind::Text, "Only names after this one");
const NAMES_LIMIT: Parameter = parameter("limit", Kind::Number, "At most so many, 1,000 at most");
const IF_NONE_MATCH: Parameter =
    parameter("If-None-Match", Kind::Text, "The ETag that the caller has: 304 if it still holds");
const NAMES: &[Parameter] = &[PREFIX, AFTER, NAMES_LIMIT];
const CLIENT_ID: Parameter =
    parameter("Celeriant-Client-Id", Kind::Text, "Whose sequence it is, a UUID");
const SEQUENCE: Parameter =
    parameter("Celeriant-Sequence", Kind::Number, "Dense from 1 for client and aggregate");
const IDEMPOTENCY: Parameter = parameter(
    "Idempotency-Key",
    Kind::Text,
    "A name for this request: the same again is answered with the original receipt",
);

const GUARDED: &[Parameter] = &[
    parameter("If-Match", Kind::Text, "The version it must be at, in quotes; * = exists"),
    parameter("If-None-Match", Kind::Text, "*: it must not exist"),
    CLIENT_ID,
    SEQUENCE,
    IDEMPOTENCY,
];

/// All of them.
pub(in super::super) const ROUTES: &[Route] = &[
    Route {
        verb: Verb::Post,
        path: "/v1/aggregates/{org}/{type}/{id}/events",
        operation: Operation::Append,
        what: "Append events to one aggregate",
        query: &[],
        headers: GUARDED,
        body: Some("Append"),
        answers: &[json(201, "Receipt")],
        problems: &[408, 409, 410, 412, 413, 415, 422, 504],
    },
    Route {
        verb: Verb::Delete,
        path: "/v1/aggregates/{org}/{type}/{id}",
        operation: Operation::DeleteAggregate,
        what: "Delete an aggregate: its events never show again, its version stays",
        query: &[
            parameter("never_recreate", Kind::Switch, "1: it takes no events ever again"),
            parameter("forget_sequences", Kind::Switch, "1: its writers begin at 1 again"),
        ],
        headers: GUARDED,
        body: None,
        answers: &[json(200, "Receipt")],
        problems: &[404, 409, 412, 504],
    },
    Route {
        verb: Verb::Post,
        path: "/v1/aggregates/{org}/{type}/{id}/trim",
        operation: Operation::TrimAggregate,
        what: "Take away an aggregate's events below a version",
        query: &[],
        headers: GUARDED,
        body: Some("Trim"),
        answers: &[json(200, "Receipt")],
        problems: &[404, 408, 409, 410, 412, 413, 415, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/aggregates/{org}/{type}/{id}/events",
        operation: Operation::ReadEvents,
        what: "Read events: a page, or all of them line by line",
        query: &[
            parameter("from", Kind::Number, "Lowest version"),
            parameter("to", Kind::Number, "Highest version"),
            parameter("backwards", Kind::Switch, "1: newest first"),
            parameter("limit", Kind::Number, "Stop behind the batch that reaches so many"),
            TYPES,
            OF_CLIENT,
            MIN_STAMP,
            ANY,
            RAW,
        ],
        headers: &[
            parameter("Accept", Kind::Text, "application/x-ndjson: all events, one a line"),
            IF_NONE_MATCH,
        ],
        body: None,
        answers: &[
            json(200, "Page"),
            Answer { status: 200, media: "application/x-ndjson", schema: "Event" },
            Answer { status: 304, media: "", schema: "" },
        ],
        problems: &[404, 410, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/aggregates/{org}/{type}/{id}/head",
        operation: Operation::ReadHead,
        what: "An aggregate's state, without its events",
        query: &[OF_CLIENT, MIN_STAMP, ANY],
        headers: &[IF_NONE_MATCH],
        body: None,
        answers: &[json(200, "Head"), Answer { status: 304, media: "", schema: "" }],
        problems: &[404, 504],
    },
    Route {
        verb: Verb::Post,
        path: "/v1/write",
        operation: Operation::Write,
        what: "Write to many aggregates, all or none",
        query: &[],
        headers: &[CLIENT_ID, SEQUENCE, IDEMPOTENCY],
        body: Some("Write"),
        answers: &[json(201, "Receipt")],
        problems: &[408, 409, 410, 413, 415, 422, 504],
    },
    Route {
        verb: Verb::Post,
        path: "/v1/sync",
        operation: Operation::Sync,
        what: "What a device wrote while it was away: one write after the other, safe to repeat",
        query: &[],
        headers: &[],
        body: Some("Write"),
        answers: &[json(200, "Synced")],
        problems: &[408, 413, 415],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/orgs",
        operation: Operation::ListOrgs,
        what: "Names of orgs",
        query: NAMES,
        headers: &[],
        body: None,
        answers: &[json(200, "Orgs")],
        problems: &[413, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/orgs/{org}/types",
        operation: Operation::ListTypes,
        what: "Names of an org's types",
        query: NAMES,
        headers: &[],
        body: None,
        answers: &[json(200, "Types")],
        problems: &[413, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/orgs/{org}/types/{type}/aggregates",
        operation: Operation::ListAggregates,
        what: "Ids of a type's aggregates",
        query: NAMES,
        headers: &[],
        body: None,
        answers: &[json(200, "Aggregates")],
        problems: &[413, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/watch",
        operation: Operation::Watch,
        what: "Events as they happen: Server-Sent Events, id = stamp, event = append | deleted | \
               trimmed | checkpoint",
        query: &[
            SELECTOR,
            parameter("from", Kind::Text, "start, now (if nothing is said), a stamp, or a time"),
            TYPES,
            HEADERS_ONLY,
            RAW,
            parameter(
                "token",
                Kind::Text,
                "A token, for whoever cannot send authorization (EventSource); never an API key",
            ),
        ],
        headers: &[parameter("Last-Event-ID", Kind::Number, "Go on behind this stamp")],
        body: None,
        answers: &[Answer { status: 200, media: "text/event-stream", schema: "Event" }],
        problems: &[504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/feed",
        operation: Operation::ReadFeed,
        what: "A page of a feed, up to now",
        query: &[
            SELECTOR,
            parameter("after", Kind::Number, "Only events behind this stamp"),
            parameter("limit", Kind::Number, "At most so many events; 1,000 if nothing is said"),
            TYPES,
            HEADERS_ONLY,
            RAW,
        ],
        headers: &[],
        body: None,
        answers: &[json(200, "Feed")],
        problems: &[504],
    },
    Route {
        verb: Verb::Put,
        path: "/v1/schemas/{org}/{type}/{event}/{version}",
        operation: Operation::RegisterSchema,
        what: "Register a schema, from now on and for ever; type * stands for every type",
        query: &[
            parameter("force", Kind::Switch, "1: although it cannot be decided whether it fits"),
            parameter("dry_run", Kind::Switch, "1: only say whether it would be registered"),
        ],
        headers: &[],
        body: Some("NewSchema"),
        answers: &[json(200, "Registered"), json(201, "Registered")],
        problems: &[408, 409, 413, 415, 422, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/schemas/{org}/{type}/{event}/{version}",
        operation: Operation::ShowSchema,
        what: "A schema with its text",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Schema")],
        problems: &[404, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/schemas/{org}",
        operation: Operation::ListSchemas,
        what: "All schemas and policies of an org",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Schemas")],
        problems: &[504],
    },
    Route {
        verb: Verb::Put,
        path: "/v1/policies/{org}",
        operation: Operation::SetPolicy,
        what: "What all types of an org demand that have no policy of their own",
        query: &[],
        headers: &[],
        body: Some("NewPolicy"),
        answers: &[json(200, "Policy")],
        problems: &[408, 413, 415, 504],
    },
    Route {
        verb: Verb::Put,
        path: "/v1/policies/{org}/{type}",
        operation: Operation::SetTypePolicy,
        what: "What one type of an org demands",
        query: &[],
        headers: &[],
        body: Some("NewPolicy"),
        answers: &[json(200, "Policy")],
        problems: &[408, 413, 415, 504],
    },
    Route {
        verb: Verb::Post,
        path: "/v1/keys",
        operation: Operation::CreateKey,
        what: "Make an API key: the answer tells it, and nobody can tell it again",
        query: &[],
        headers: &[],
        body: Some("NewKey"),
        answers: &[json(201, "CreatedKey")],
        problems: &[408, 413, 415, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/keys",
        operation: Operation::ListKeys,
        what: "All API keys that are not revoked, without their secrets",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Keys")],
        problems: &[504],
    },
    Route {
        verb: Verb::Delete,
        path: "/v1/keys/{id}",
        operation: Operation::RevokeKey,
        what: "End an API key, and its tokens, from the next request on",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "RevokedKey")],
        problems: &[504],
    },
    Route {
        verb: Verb::Post,
        path: "/v1/tokens",
        operation: Operation::MakeToken,
        what: "Make a token of the API key that is shown: less than the key allows, for a while",
        query: &[],
        headers: &[],
        body: Some("NewToken"),
        answers: &[json(201, "Token")],
        problems: &[408, 413, 415],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/audit/head",
        operation: Operation::AuditHead,
        what: "A hash of everything that is committed, per shard: to be kept somewhere else. Reads \
               all frames",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "AuditHead")],
        problems: &[504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/audit/proof/{org}/{type}/{id}/{version}",
        operation: Operation::AuditProof,
        what: "A proof that an event is in its shard's log, to be checked against a head",
        query: &[parameter(
            "frames",
            Kind::Number,
            "Against a head with so many frames of the shard; without it, all that there are",
        )],
        headers: &[],
        body: None,
        answers: &[json(200, "AuditProof")],
        problems: &[404, 410, 504],
    },
    Route {
        verb: Verb::Get,
        path: "/v1/cluster",
        operation: Operation::Cluster,
        what: "What this node knows of itself and the cluster",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Status")],
        problems: &[504],
    },
    Route {
        verb: Verb::Get,
        path: "/health/live",
        operation: Operation::Live,
        what: "The process answers",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Live")],
        problems: &[],
    },
    Route {
        verb: Verb::Get,
        path: "/health/ready",
        operation: Operation::Ready,
        what: "The node can serve everything; with any=1, what a follower may answer",
        query: &[ANY],
        headers: &[],
        body: None,
        answers: &[json(200, "Ready"), json(503, "Ready")],
        problems: &[504],
    },
    Route {
        verb: Verb::Get,
        path: "/metrics",
        operation: Operation::Metrics,
        what: "Gauges of this node, for Prometheus",
        query: &[],
        headers: &[],
        body: None,
        answers: &[text("text/plain; version=0.0.4")],
        problems: &[504],
    },
    Route {
        verb: Verb::Get,
        path: "/openapi.json",
        operation: Operation::Describe,
        what: "This description",
        query: &[],
        headers: &[],
        body: None,
        answers: &[json(200, "Description")],
        problems: &[],
    },
    file(
        "/",
        Operation::Inspect,
        "The inspector: a page for people",
        &[text("text/html; charset=utf-8")],
    ),
    file(
        "/inspector.js",
        Operation::InspectorScript,
        "Its script",
        &[text("text/javascript; charset=utf-8")],
    ),
    file(
        "/inspector.css",
        Operation::InspectorStyle,
        "Its style",
        &[text("text/css; charset=utf-8")],
    ),
];

/// A file that is part of the program.
const fn file(
    path: &'static str,
    operation: Operation,
    what: &'static str,
    answers: &'static [Answer],
) -> Route {
    Route {
        verb: Verb::Get,
        path,
        operation,
        what,
        query: &[],
        headers: &[],
        body: None,
        answers,
        problems: &[],
    }
}
