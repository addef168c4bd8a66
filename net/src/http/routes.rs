//! What there is: one table. The router is made of it, and so is openapi.json.

mod table;

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
use super::{Gateway, append, audit, cors, inspector, keys, node, read, schemas, sync, watch};
use crate::service::Service;
pub(super) use table::ROUTES;

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
    CreateKey,
    ListKeys,
    RevokeKey,
    MakeToken,
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

impl Operation {
    /// It is for whoever gets a connection: the node's own, and nobody's room.
    pub(super) fn is_of_the_node(self) -> bool {
        matches!(
            self,
            Self::Live
                | Self::Ready
                | Self::Metrics
                | Self::Describe
                | Self::Inspect
                | Self::InspectorScript
                | Self::InspectorStyle
        )
    }
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
            Operation::CreateKey => keys::create(&gateway, call).await,
            Operation::ListKeys => keys::list(&gateway).await,
            Operation::RevokeKey => keys::revoke(&gateway, call).await,
            Operation::MakeToken => keys::make_token(&gateway, call).await,
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
