//! What there is: one table. The router is made of it, and so is openapi.json.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on};

use super::call::Call;
use celeriant_schema::Refusal;

use super::problem::Problem;
use super::{Gateway, append, audit, cors, inspector, node, read, schemas, sync, watch};
use crate::service::Service;

/// One operation: where it is, what it takes, what it answers.
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    pub(super) operation: Operation,
    pub(super) what: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) headers: &'static [Parameter],
    /// Name of the schema of its body.
    pub(super) body: Option<&'static str>,
    /// What it answers when it is done.
    pub(super) answers: &'static [Answer],
    /// How it may fail, besides what any of them may: 400, 401, 403, 421, 500, 503.
    pub(super) problems: &'static [u16],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

/// What is done; its name is the operation's id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    Append,
    DeleteAggregate,
    TrimAggregate,
    Write,
    Sync,
    ReadEvents,
    ReadHead,
    ListOrgs,
    ListTypes,
    ListAggregates,
    Watch,
    ReadFeed,
    RegisterSchema,
    ShowSchema,
    ListSchemas,
    SetPolicy,
    SetTypePolicy,
    AuditHead,
    AuditProof,
    Cluster,
    Live,
    Ready,
    Metrics,
    Describe,
    Inspect,
    InspectorScript,
    InspectorStyle,
}

/// A parameter of the query string, or a header.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
    pub(super) what: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    Names,
}

/// An answer: its status, media type and the name of its schema.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) media: &'static str,
    pub(super) schema: &'static str,
}

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
pub(super) const ROUTES: &[Route] = &[
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

/// Everything in the table, and an answer to everything that is not.
pub(super) fn router<V: Service>(gateway: Gateway<V>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
            Verb::Delete => MethodFilter::DELETE,
        };
        let gateway = gateway.clone();
        let handler = move |request: Request| {
            let gateway = gateway.clone();
            async move { gateway.serve(route, request).await.into_response() }
        };
        router = router.route(route.path, on(filter, handler));
    }
    for &(path, text) in inspector::MODULES {
        router = router.route(path, get(move || async move { inspector::module(text) }));
    }
    let absent = || async { problem(StatusCode::NOT_FOUND, "path", "nothing is here") };
    let other = || async {
        problem(StatusCode::METHOD_NOT_ALLOWED, "method", "cannot be used here; see allow")
    };
    let router = router.fallback(absent).method_not_allowed_fallback(other);
    let settings = Arc::clone(&gateway.settings);
    router.layer(from_fn(move |request: Request, next: Next| {
        cors::answer(Arc::clone(&settings), request, next)
    }))
}

fn problem(status: StatusCode, field: &str, reason: &str) -> Response {
    Problem::with_status(status, Refusal::invalid(field, reason)).into_response()
}

impl<V: Service> Gateway<V> {
    async fn serve(self, route: &'static Route, request: Request) -> Result<Response, Problem> {
        let call = Call::new(route, request).await?;
        let asker = self.asker.clone().on_behalf_of(call.rights.clone());
        let gateway = Self { asker, ..self.clone() };
        match route.operation {
            Operation::Append => append::append(&gateway, call).await,
            Operation::DeleteAggregate => append::delete(&gateway, call).await,
            Operation::TrimAggregate => append::trim(&gateway, call).await,
            Operation::Write => append::write_many(&gateway, call).await,
            Operation::Sync => sync::sync(&gateway, call).await,
            Operation::ReadEvents => read::events(&gateway, call).await,
            Operation::ReadHead => read::head(&gateway, call).await,
            Operation::ListOrgs => read::names(&gateway, call, "orgs").await,
            Operation::ListTypes => read::names(&gateway, call, "types").await,
            Operation::ListAggregates => read::names(&gateway, call, "aggregates").await,
            Operation::Watch => watch::watch(&gateway, call).await,
            Operation::ReadFeed => watch::feed(&gateway, call).await,
            Operation::RegisterSchema => schemas::register(&gateway, call).await,
            Operation::ShowSchema => schemas::show(&gateway, call).await,
            Operation::ListSchemas => schemas::list(&gateway, call).await,
            Operation::SetPolicy | Operation::SetTypePolicy => {
                schemas::set_policy(&gateway, call).await
            }
            Operation::AuditHead => audit::head(&gateway).await,
            Operation::AuditProof => audit::proof(&gateway, call).await,
            Operation::Cluster => node::cluster(&gateway).await,
            Operation::Live => Ok(node::live()),
            Operation::Ready => node::ready(&self, call).await,
            Operation::Metrics => node::metrics(&self).await,
            Operation::Describe => Ok(node::description()),
            Operation::Inspect => Ok(inspector::page()),
            Operation::InspectorScript => Ok(inspector::script()),
            Operation::InspectorStyle => Ok(inspector::style()),
        }
    }
}
