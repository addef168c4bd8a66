//! openapi.json (OpenAPI 3.1), made of the table of routes and the shapes beside it.

use serde_json::{Map, Value, json};

use super::routes::{Answer, Kind, Parameter, ROUTES, Route, Verb};
use crate::tls::Operation;
use crate::token;

/// What a schema may be written in; a `protobuf-set` is an encoded FileDescriptorSet in base64.
const FORMATS: [&str; 4] = ["json", "avro", "protobuf", "protobuf-set"];

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        let verb = match route.verb {
            Verb::Get => "get",
            Verb::Post => "post",
            Verb::Put => "put",
            Verb::Delete => "delete",
        };
        path[verb] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Celeriant",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "An append-only event store. Versions, sequences and stamps are below \
                            2^53. Names are percent-encoded in paths. What a route does not know \
                            is refused by name.",
        },
        "paths": paths,
        // Nothing, for whoever shows a certificate or is let in without. A token is shown as a key
        // is.
        "security": [{}, {"apiKey": []}],
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = json!({"type": "string", "minLength": 1, "maxLength": 128});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    parameters.extend(route.query.iter().map(|one| parameter(one, "query")));
    parameters.extend(route.headers.iter().map(|one| parameter(one, "header")));
    let mut responses = Map::new();
    for answer in route.answers {
        let response = responses
            .entry(answer.status.to_string())
            .or_insert_with(|| json!({"description": describe(answer.status)}));
        put_content(response, answer);
    }
    let everywhere = [400, 401, 403, 421, 500, 503];
    for status in everywhere.iter().chain(route.problems) {
        let problem =
            Answer { status: *status, media: "application/problem+json", schema: "Problem" };
        let response = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({"description": describe(*status)}));
        put_content(response, &problem);
    }
    let mut operation = json!({
        "operationId": format!("{:?}", route.operation),
        "summary": route.what,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = route.body {
        let content = json!({"application/json": {"schema": reference(body)}});
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn put_content(response: &mut Value, answer: &Answer) {
    if !answer.media.is_empty() {
        response["content"][answer.media] = json!({"schema": reference(answer.schema)});
    }
}

fn parameter(parameter: &Parameter, place: &str) -> Value {
    let schema = match parameter.kind {
        Kind::Text | Kind::Names => json!({"type": "string"}),
        Kind::Number => number(0),
        Kind::Switch => json!({"type": "string", "enum": ["0", "1", "false", "true"]}),
    };
    json!({
        "name": parameter.name, "in": place, "required": parameter.is_required,
        "description": match parameter.kind {
            Kind::Names => format!("{} (with commas between them)", parameter.what),
            _ => parameter.what.to_owned(),
        },
        "schema": schema,
    })
}

fn describe(status: u16) -> &'static str {
    match status {
        200 => "Done",
        201 => "Committed: durable on every member of the in-sync set",
        304 => "Not modified: the caller has it",
        400 => "The request makes no sense; says which field",
        401 => "Whoever asks must say who he is",
        403 => "Not granted; says what",
        404 => "There is no such aggregate",
        408 => "The body did not come in time; nothing was done",
        409 => "A guard or a sequence says no; nothing was appended",
        410 => "Deleted, or trimmed",
        412 => "The guard in If-Match or If-None-Match failed; nothing was appended",
        413 => "Larger than a limit",
        415 => "The body must be application/json",
        421 => "Not for this gateway: a name that could be anybody's",
        422 => "A payload does not conform to its schema; nothing was appended",
        503 => "Not now, or not this node; see retry and Retry-After",
        504 => "No answer in time: definite says whether nothing was done",
        _ => "A bug or a damaged log; the id is in the node's log",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn number(minimum: u64) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": (1u64 << 53) - 1})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn hash() -> Value {
    json!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
}

fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

fn time() -> Value {
    json!({"type": ["string", "null"], "format": "date-time"})
}

fn content_type() -> Value {
    json!({"enum": ["json", "avro", "protobuf", "bytes"]})
}

fn texts() -> Value {
    json!({"type": "object", "additionalProperties": text()})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// The same, or null.
fn maybe(mut schema: Value) -> Value {
    schema["type"] = json!([schema["type"].clone(), "null"]);
    schema
}

/// All properties, of which those in `optional` need not be there.
fn object(properties: Value, optional: &[&str]) -> Value {
    let names = properties.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !optional.contains(&name.as_str())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// Shapes of bodies and answers: those of `crate::json`.
fn schemas() -> Value {
    let mut all = bodies();
    all.append(&mut answers());
    all.append(&mut of_schemas());
    all.append(&mut of_keys());
    all.append(&mut of_audits());
    all.append(&mut of_the_node());
    Value::Object(all)
}

fn map(shapes: Value) -> Map<String, Value> {
    match shapes {
        Value::Object(shapes) => shapes,
        _ => Map::new(),
    }
}

fn bodies() -> Map<String, Value> {
    let expect = json!({"oneOf": [number(0), {"enum": ["any", "none", "exists"]}]});
    let event = json!({
        "type": text(), "schema": text(), "content_type": content_type(), "data": {},
        "data_base64": text(), "event_id": uuid(), "meta": texts(), "time": time(),
    });
    let optional = ["schema", "content_type", "data", "data_base64", "event_id", "meta", "time"];
    let events = list(reference("NewEvent"));
    let delete = json!({"recreate": flag(), "forget_sequences": flag()});
    let keep_from = json!({"keep_from": number(1)});
    let member = json!({
        "key": text(), "expect": expect, "sequence": number(1), "events": events,
        "delete": object(delete, &["recreate", "forget_sequences"]),
        "trim": object(keep_from, &[]),
    });
    let member = object(member, &["expect", "sequence", "events", "delete", "trim"]);
    let trim = json!({"keep_from": number(1), "expect": expect});
    let schema = json!({"format": {"enum": FORMATS}, "text": text(), "message": text()});
    let policy = json!({"closed": flag(), "allow_encrypted": flag()});
    map(json!({
        "NewSchema": object(schema, &["message"]),
        "NewPolicy": object(policy, &["allow_encrypted"]),
        "NewEvent": object(event, &optional),
        "Trim": object(trim, &["expect"]),
        "Append": object(json!({"events": events, "expect": expect}), &["expect"]),
        "Write": object(json!({"client_id": uuid(), "writes": list(member)}), &["client_id"]),
    }))
}

fn answers() -> Map<String, Value> {
    let written = json!({
        "key": text(), "first_version": number(1), "last_version": number(1), "hash": hash(),
    });
    let receipt = json!({
        "stamp": number(1), "already_applied": flag(), "writes": list(object(written, &[])),
    });
    let event = json!({
        "key": text(), "version": number(1), "type": text(), "schema": text(),
        "content_type": content_type(), "data": {}, "data_base64": text(),
        "client_id": maybe(uuid()), "sequence": maybe(number(1)), "event_id": maybe(uuid()),
        "meta": texts(), "time": time(), "server_time": time(), "stamp": number(1), "hash": hash(),
    });
    let events = list(reference("Event"));
    let page = json!({
        "key": text(), "version": number(0), "stamp": number(0), "next": maybe(number(0)),
        "events": events,
    });
    let head = json!({
        "key": text(), "version": number(1), "hash": hash(), "created": time(), "updated": time(),
        "stamp": number(1), "deleted": flag(), "first_available": number(0),
        "client_id": maybe(uuid()), "last_sequence": maybe(number(1)),
    });
    let names = |what: &str| object(json!({what: list(text()), "next": maybe(text())}), &[]);
    let feed = json!({
        "checkpoint": number(0), "caught_up": flag(), "notices": list(reference("Notice")),
        "events": events,
    });
    map(json!({
        "Receipt": object(receipt, &[]),
        "Synced": object(json!({"results": list(reference("SyncResult"))}), &[]),
        "SyncResult": sync_result(),
        "Notice": notice(),
        "Event": object(event, &["data", "data_base64"]),
        "Page": object(page, &[]),
        "Head": object(head, &["client_id", "last_sequence"]),
        "Orgs": names("orgs"),
        "Types": names("types"),
        "Aggregates": names("aggregates"),
        "Feed": object(feed, &[]),
    }))
}

/// What is there depends on the status.
fn sync_result() -> Value {
    let result = |statuses: &[&str], more: Value| {
        let mut shape = map(json!({
            "key": text(), "sequence": number(1), "status": {"enum": statuses},
        }));
        shape.append(&mut map(more));
        object(Value::Object(shape), &[])
    };
    let problem = reference("Problem");
    let missed = json!({
        "problem": problem, "missed": list(reference("Event")), "more": flag(),
    });
    json!({"oneOf": [
        result(&["accepted", "already_applied"], json!({"receipt": reference("Receipt")})),
        result(&["conflict"], missed),
        result(&["invalid"], json!({"problem": problem})),
        result(&["retry"], json!({"problem": problem})),
        result(&["held"], json!({})),
    ]})
}

/// An aggregate was deleted or trimmed.
fn notice() -> Value {
    let notice = |what: &str, more: &str, value: Value| {
        let shape = json!({
            "notice": {"enum": [what]}, "key": text(), "version": number(1), more: value,
            "client_id": maybe(uuid()), "sequence": maybe(number(1)), "server_time": time(),
            "stamp": number(1),
        });
        object(shape, &[])
    };
    let deleted = notice("deleted", "recreate", flag());
    json!({"oneOf": [deleted, notice("trimmed", "first_available", number(1))]})
}

fn of_schemas() -> Map<String, Value> {
    let schema = json!({
        "schema": text(), "format": {"enum": FORMATS}, "message": text(), "forced": flag(),
        "unusable": maybe(text()), "text": text(),
    });
    let policy = json!({"type": maybe(text()), "closed": flag(), "allow_encrypted": flag()});
    let outcome = json!({"enum": ["registered", "known", "acceptable"]});
    let all = json!({
        "org": text(), "schemas": list(reference("Schema")), "policies": list(reference("Policy")),
    });
    map(json!({
        "Schema": object(schema, &["text"]),
        "Policy": object(policy, &[]),
        "Registered": object(json!({"schema": text(), "outcome": outcome}), &[]),
        "Schemas": object(all, &[]),
    }))
}

fn of_keys() -> Map<String, Value> {
    let rights = list(json!({"enum": token::RIGHTS.map(Operation::name)}));
    let id = json!({"type": "string", "pattern": "^[0-9a-f]{16}$"});
    let shown = json!({
        "id": id, "name": text(), "grants": list(text()), "client_id": maybe(uuid()),
        "created": time(), "expires": time(), "expired": flag(),
    });
    let mut created = shown.clone();
    created["key"] = text();
    let key = json!({
        "name": text(), "grants": list(text()), "client_id": uuid(), "lasts_s": number(1),
    });
    let mut seconds = number(1);
    seconds["maximum"] = json!(token::LASTS_S_MAX);
    seconds["default"] = json!(token::LASTS_S);
    let new = json!({
        "selectors": list(text()), "rights": rights, "client_id": uuid(), "seconds": seconds,
    });
    let token = json!({
        "token": text(), "expires": time(), "selectors": list(text()), "rights": rights,
        "client_id": maybe(uuid()),
    });
    map(json!({
        "NewKey": object(key, &["client_id", "lasts_s"]),
        "Key": object(shown, &[]),
        "CreatedKey": object(created, &[]),
        "Keys": object(json!({"keys": list(reference("Key"))}), &[]),
        "RevokedKey": object(json!({"id": id, "revoked": flag()}), &[]),
        "NewToken": object(new, &["client_id", "seconds"]),
        "Token": object(token, &[]),
    }))
}

fn of_audits() -> Map<String, Value> {
    let hex = json!({"type": "string", "pattern": "^([0-9a-f]{2})*$"});
    let shard = json!({
        "shard": number(0), "lsn": number(0), "stamp": number(0), "frames": number(0),
        "hash": hash(),
    });
    let frame = json!({
        "cluster": uuid(), "shard": number(0), "epoch": number(0), "boot": text(),
        "first_lsn": number(1), "first_stamp": number(0), "last_stamp": number(0),
        "prev_hash": hash(),
    });
    let batch = json!({"fields": hex, "events": list(hash())});
    let evidence = json!({
        "frame": object(frame, &[]), "records": list(hash()), "record": number(0),
        "fields": hex, "batches": list(object(batch, &[])),
    });
    let inclusion = json!({
        "key": text(), "version": number(1), "prev": hash(), "event": hex,
        "evidence": object(evidence, &[]), "path": hex,
    });
    let head = json!({"cluster": uuid(), "shards": list(reference("AuditShard"))});
    let proof = json!({"proof": reference("InclusionProof"), "head": reference("AuditHead")});
    map(json!({
        "AuditShard": object(shard, &[]),
        "AuditHead": object(head, &[]),
        "InclusionProof": object(inclusion, &[]),
        "AuditProof": object(proof, &[]),
    }))
}

fn of_the_node() -> Map<String, Value> {
    let retry = json!({"enum": ["never", "same", "after_reading", "other_node"]});
    let problem = json!({
        "error": text(), "code": number(0), "retry": retry, "definite": flag(),
        "message": text(), "title": text(), "status": number(400),
    });
    // Each error has fields of its own.
    let mut problem = object(problem, &[]);
    problem["additionalProperties"] = json!(true);
    let status =
        json!({"node_id": text(), "role": text(), "epoch": number(0), "shards": list(json!({}))});
    map(json!({
        "Problem": problem,
        "Status": object(status, &[]),
        "Text": text(),
        "Live": object(json!({"live": flag()}), &[]),
        "Ready": object(json!({"ready": flag(), "role": text()}), &[]),
        "Description": object(json!({"openapi": text(), "paths": {}}), &[]),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_and_every_shape_it_names_is_there() {
        let document = document();
        let operations: usize = document["paths"]
            .as_object()
            .expect("paths")
            .values()
            .map(|path| path.as_object().expect("verbs").len())
            .sum();
        assert_eq!(operations, ROUTES.len());
        let known = document["components"]["schemas"].as_object().expect("schemas");
        let text = document.to_string();
        let named = text.split("#/components/schemas/").skip(1);
        for name in named.filter_map(|rest| rest.split('"').next()) {
            assert!(known.contains_key(name), "{name}");
        }
    }
}
